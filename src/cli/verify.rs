//! `scdd verify`: does a bundle mean the same to its golden probe, ONNX Runtime and tch?

use std::path::PathBuf;

use super::{Global, Outcome};
use crate::teacher::{Bundle, Verification, verify};

/// Check bundles: hashes, operators, side tensors, and tch against ONNX Runtime and the golden probe, forward and backward
#[derive(clap::Args)]
pub struct Verify {
    /// Bundle directories
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
}

impl Verify {
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let runtime = global.runtime()?;
        let mut verdicts = Vec::new();
        for dir in &self.bundles {
            let verdict = verify(&Bundle::load(dir)?, &runtime)?;
            if !global.json {
                print(&verdict);
            }
            verdicts.push(verdict);
        }
        if global.json {
            println!("{}", serde_json::to_string_pretty(&verdicts)?);
        }
        Ok(if verdicts.iter().all(Verification::passed) { Outcome::Done } else { Outcome::CheckFailed })
    }
}

fn print(verdict: &Verification) {
    println!("{} ({}…)", verdict.bundle, &verdict.hash[..12]);
    for warning in &verdict.warnings {
        println!("  warning: {warning}");
    }
    for check in &verdict.checks {
        let mark = if check.passed { "ok    " } else { "FAILED" };
        println!("  {mark} {:<66} {:9.2e} (limit {:.0e})", check.name, check.error, check.limit);
    }
    if let Some(divergence) = &verdict.divergence {
        println!("  {divergence}");
    }
    println!("  {}", if verdict.passed() { "verified" } else { "NOT verified" });
}
