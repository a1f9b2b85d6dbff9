//! Which steps of a capture have failed or never ended. A bundle says what it lacks.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

/// Steps named in `capture_errors`; the rest is counted.
const NAMED_MAX: usize = 100;

/// The steps of one capture.
pub(super) struct Progress {
    /// When the last request ends.
    asking_until: Instant,
    /// How long one step may take.
    step_max: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Begun or expected, not ended.
    open: BTreeSet<String>,
    failed: Vec<String>,
}

impl Progress {
    pub(super) fn new(asking: Duration, step_max: Duration) -> Self {
        Self {
            asking_until: Instant::now() + asking,
            step_max,
            state: Mutex::default(),
        }
    }

    /// No code panics while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a step, so that it is missed when it never comes to it.
    pub(super) fn expect(&self, step: &str) {
        self.state().open.insert(step.to_owned());
    }

    /// Notes that a step failed.
    pub(super) fn fail(&self, step: &str, why: &str) {
        let mut state = self.state();
        state.open.remove(step);
        state.failed.push(format!("{step}: {why}"));
    }

    /// When a step that begins now ends at the latest, after `extra` on top of the usual.
    pub(super) fn limit(&self, extra: Duration) -> Instant {
        self.asking_until.min(Instant::now() + self.step_max + extra)
    }

    /// Runs a step; its failure or its end without an answer is noted.
    pub(super) async fn run<T>(&self, step: &str, extra: Duration, work: impl Future<Output = Result<T, String>>) -> Option<T> {
        self.expect(step);
        match timeout_at(self.limit(extra), work).await {
            Ok(Ok(done)) => {
                self.state().open.remove(step);
                Some(done)
            }
            Ok(Err(why)) => {
                self.fail(step, &why);
                None
            }
            Err(_) => {
                self.fail(step, "no answer in time");
                None
            }
        }
    }

    /// Notes that a step needs no result after all.
    pub(super) fn settle(&self, step: &str) {
        self.state().open.remove(step);
    }

    /// What failed, and what had not ended when the deadline came.
    pub(super) fn close(&self, deadline: Duration) -> Vec<String> {
        let mut state = self.state();
        let mut missing = std::mem::take(&mut state.failed);
        let late = std::mem::take(&mut state.open);
        let deadline = humantime::format_duration(deadline);
        missing.extend(late.iter().map(|step| format!("{step}: not captured within {deadline}")));
        if missing.len() > NAMED_MAX {
            let more = missing.len() - NAMED_MAX;
            missing.truncate(NAMED_MAX);
            missing.push(format!("and {more} more"));
        }
        missing
    }
}
