//! The message to a user who stops a run.

use std::path::Path;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use scdd_distill::progress::Progress;

/// From now on, a signal that ends the run first prints which results under `output` are kept.
pub fn say_what_stays(
    output: &Path,
    progress: Arc<dyn Progress + Send + Sync>,
) -> std::io::Result<()> {
    // Signals that the parent process set to be ignored stay ignored; a shell does so with SIGINT
    // for background jobs.
    let heard = [SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(*signal));
    let (mut signals, output) = (Signals::new(heard)?, output.display().to_string());
    std::thread::spawn(move || {
        for signal in signals.forever() {
            progress.tell(&farewell(signal_name(signal).unwrap_or("a signal"), &output));
            // Ends this process as the signal would have by default. If the system refuses, the
            // next signal tries again.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

fn farewell(signal: &str, output: &str) -> String {
    format!(
        "\nstopped by {signal}: complete stages in {output}/stages stay, as do images and a student's training \
         as they were saved last (every 20 seconds), and every whole epoch of labels; the same command goes on \
         from there, and `scdd status --output {output}` shows what is there"
    )
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero sigaction is a valid value to be overwritten.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the call only reads the present action, and writes it to a variable that outlives the
    // call.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
