//! The loop that the workers of `benches/peers.py` share: one timed repetition per line on standard
//! input, answered in JSON.

use std::io::BufRead;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

/// Prints `about`, the worker's description of itself. Then runs `turn` once per input line and
/// prints its time and the process's peak memory so far.
pub fn serve(about: &Value, mut turn: impl FnMut() -> Result<()>) -> Result<()> {
    serve_timed(about, || {
        let start = Instant::now();
        turn()?;
        Ok(start.elapsed())
    })
}

/// As [`serve`], for turns that take their own time.
pub fn serve_timed(about: &Value, mut turn: impl FnMut() -> Result<Duration>) -> Result<()> {
    println!("{about}");
    for line in std::io::stdin().lock().lines() {
        line?;
        let ms = turn()?.as_secs_f64() * 1e3;
        println!("{}", json!({ "ms": ms, "peak_mib": peak_mib() }));
    }
    Ok(())
}

/// The process's peak resident memory in MiB; `None` where the system does not report it.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
