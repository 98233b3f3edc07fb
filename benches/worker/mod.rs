//! What the workers of `benches/peers.py` share: a turn for every line on standard input, answered
//! in JSON.

use std::io::BufRead;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

/// Prints what the worker says `about` itself, then the time of one `turn`, and the process's peak
/// memory so far, for every line.
pub fn serve(about: &Value, mut turn: impl FnMut() -> Result<()>) -> Result<()> {
    println!("{about}");
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        turn()?;
        println!(
            "{}",
            json!({ "ms": start.elapsed().as_secs_f64() * 1e3, "peak_mib": peak_mib() })
        );
    }
    Ok(())
}

/// The process's largest resident size so far, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
