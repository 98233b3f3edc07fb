//! `--verbose`: reports used resources and their paths on standard error.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Prints further events of this project's crates. Without this call, events are dropped.
pub fn listen() {
    let own = Targets::new().with_target("scdd", Level::DEBUG);
    let lines = fmt::layer().with_writer(std::io::stderr).without_time().with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(own)).init();
}
