//! The output of `scdd doctor`.

use serde::Serialize;

use super::{CommandOutcome, Global};

/// The result of one check.
#[derive(Serialize)]
pub struct Finding {
    what: &'static str,
    found: bool,
    detail: String,
}

/// Distillation needs these; CUDA and further data sets are optional.
const NEEDED: [&str; 2] = ["libtorch", "ONNX Runtime"];

impl Finding {
    /// The finding: a description, or the reason why nothing was found.
    pub fn new<T: ToString, E: ToString>(what: &'static str, result: Result<T, E>) -> Self {
        match result {
            Ok(detail) => Self { what, found: true, detail: detail.to_string() },
            Err(reason) => Self { what, found: false, detail: reason.to_string() },
        }
    }
}

/// Prints `findings`. The check fails if something needed is missing.
pub fn print(global: &Global, findings: &[Finding]) -> anyhow::Result<CommandOutcome> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(findings)?);
    } else {
        println!("scdd {}", env!("CARGO_PKG_VERSION"));
        for finding in findings {
            println!(
                "{} {:<22} {}",
                if finding.found { "ok" } else { "--" },
                finding.what,
                finding.detail
            );
        }
    }
    let is_missing = findings.iter().any(|f| !f.found && NEEDED.contains(&f.what));
    Ok(if is_missing { CommandOutcome::CheckFailed } else { CommandOutcome::Done })
}
