//! The request to stop: running stages keep their state at their next step, and no other begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scdd_experiment::run::RunError;

/// Whether a run was asked to stop. Clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Asks the run to stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Stops work whose state is kept.
    ///
    /// # Errors
    /// When the run was asked to stop.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_asked() { Err(Stopped) } else { Ok(()) }
    }
}

/// Work ended before its time, as asked.
#[derive(Debug, thiserror::Error)]
#[error("stopped as asked")]
pub struct Stopped;

/// Whether `error` says no more than that work was asked to stop.
pub fn is_stop(error: &RunError) -> bool {
    let RunError::Make(failure) = error else { return false };
    let first: &(dyn std::error::Error + 'static) = failure.as_ref();
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<Stopped>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use scdd_distill::recover::RecoverError;
    use scdd_experiment::run::Failure;

    #[test]
    fn a_stop_is_told_from_a_failure_wherever_it_was_met() {
        let request = StopRequest::default();
        assert!(request.check().is_ok());
        request.clone().ask();
        let stopped = || -> Failure { Box::new(request.check().unwrap_err()) };
        assert!(is_stop(&RunError::Make(stopped())));
        assert!(is_stop(&RunError::Make(Box::new(RecoverError::Keep(stopped())))));
        assert!(!is_stop(&RunError::Make("a full disk".into())) && !is_stop(&RunError::NoData));
    }
}
