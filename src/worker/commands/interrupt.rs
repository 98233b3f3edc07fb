//! Signals that stop a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use scdd_distill::progress::Progress;

use super::requeue;
use crate::StopRequest;

/// The first signal may come twice: to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// What became of the signals so far.
pub struct HeardSignals {
    /// Whether the first one says that time is nearly up.
    is_out_of_time: Arc<AtomicBool>,
}

/// From now on, the first signal asks the run to stop, and a later one ends the process at once.
/// SIGUSR1 is what batch systems send when time is nearly up.
pub fn stop_on_signals(
    stop: StopRequest,
    progress: Arc<dyn Progress + Send + Sync>,
) -> std::io::Result<HeardSignals> {
    // Signals that the parent process set to be ignored stay ignored; a shell does so with SIGINT
    // for background jobs.
    let heard = [SIGINT, SIGTERM, SIGUSR1].into_iter().filter(|signal| !is_ignored(*signal));
    let mut signals = Signals::new(heard)?;
    let is_out_of_time = Arc::new(AtomicBool::new(false));
    let heard = HeardSignals { is_out_of_time: is_out_of_time.clone() };
    std::thread::spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match first {
                None => {
                    is_out_of_time.store(signal == SIGUSR1, Ordering::Relaxed);
                    stop.ask();
                    first = Some(Instant::now());
                    progress.tell(&format!(
                        "\n{}: stopping as soon as what is under way can be kept; once more ends it at once",
                        signal_name(signal).unwrap_or("a signal")
                    ));
                }
                Some(first) if first.elapsed() < SAME_SIGNAL => {}
                // If the system refuses, the next signal tries again.
                Some(_) => drop(emulate_default_handler(signal)),
            }
        }
    });
    Ok(heard)
}

impl HeardSignals {
    /// Tells what stays of a stopped run whose results are under `output`. A Slurm job whose time
    /// is nearly up is requeued.
    pub fn say_farewell(&self, output: &Path, progress: &dyn Progress) {
        progress.tell(&farewell(output));
        if self.is_out_of_time.load(Ordering::Relaxed)
            && let Some(what) = requeue::requeue()
        {
            progress.tell(&what);
        }
    }
}

/// What stays of a stopped run whose results are under `output`.
fn farewell(output: &Path) -> String {
    let output = output.display();
    format!(
        "stopped: complete stages in {output}/stages stay, as do images and a student's training as they are now, \
         and every whole epoch of labels; the same command goes on from there, and `scdd status --output {output}` \
         shows what is there"
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
