//! `scdd ops`: lists the supported ONNX operators.

use super::{CommandOutcome, Global};
use scdd_graph::support::{Conformance, table};

/// List the supported ONNX operators: opsets, gradients, conformance cases passed
#[derive(clap::Args)]
pub struct Ops {}

impl Ops {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let rows = table(&Conformance::built_in()?);
        if global.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(CommandOutcome::Done);
        }
        println!(
            "{:<24} {:>6}  {:<14} {:>12}",
            "operator", "opsets", "differentiable", "cases passed"
        );
        for row in rows {
            let gradient = if row.differentiable { "yes" } else { "no" };
            let cases = format!("{}/{}", row.cases.passed, row.cases.total);
            println!(
                "{:<24} {:>6}  {gradient:<14} {cases:>12}",
                row.operator,
                format!("{}+", row.since)
            );
        }
        Ok(CommandOutcome::Done)
    }
}
