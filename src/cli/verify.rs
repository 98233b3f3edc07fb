//! `scdd verify`: does a bundle mean the same to its golden probe, ONNX Runtime and tch?

use scdd_core::cli::{Global, Outcome, Verify};

use super::open_runtime;
use crate::teacher::{Bundle, Verification, verify};

pub fn run(command: &Verify, global: &Global) -> anyhow::Result<Outcome> {
    let runtime = open_runtime(global)?;
    let mut verdicts = Vec::new();
    for dir in &command.bundles {
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
