//! Whether the monitor still looks: judged on our monotonic clock, so that a step of the wall clock proves nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::model::Status;

/// However short the poll, a pause shorter than this is no death.
const SILENCE_MIN: Duration = Duration::from_secs(30);
/// Polls that may be missed.
const SILENCE_POLLS: f64 = 3.0;

/// When the status last moved on. Cheap to clone; all clones share one memory.
#[derive(Clone, Debug)]
pub(super) struct Health {
    moved: Arc<Mutex<Instant>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            moved: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

impl Health {
    /// Notes each new status; never ends.
    pub(super) async fn follow(&self, mut status: watch::Receiver<Arc<Status>>) {
        let mut last = status.borrow_and_update().at;
        while status.changed().await.is_ok() {
            let at = status.borrow_and_update().at;
            // A status that is sent again without a new look is no sign of life.
            if at != last {
                last = at;
                *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        }
        // The monitor is gone: nothing moves any more, and /healthz will say so.
        std::future::pending::<()>().await;
    }

    /// How long the status has stood still, when that is too long.
    pub(super) fn silence(&self, poll_seconds: f64) -> Option<Duration> {
        let silent = self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        (silent > allowed(poll_seconds)).then_some(silent)
    }
}

/// The silence that is still health: three polls, at least half a minute.
fn allowed(poll_seconds: f64) -> Duration {
    Duration::try_from_secs_f64(poll_seconds * SILENCE_POLLS)
        .unwrap_or(SILENCE_MIN)
        .max(SILENCE_MIN)
}

/// Whether the monitor has looked at least once: the status it starts with bears the time of the start.
pub(super) fn ready(status: &Status) -> bool {
    status.at != status.started_at
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_stands_still_is_unhealthy_after_half_a_minute() {
        let (sender, receiver) = watch::channel(Arc::new(Status::default()));
        let health = Health::default();
        let follower = tokio::spawn({
            let health = health.clone();
            async move { health.follow(receiver).await }
        });
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(health.silence(5.0), None);
        tokio::task::yield_now().await;
        let send = |second| {
            sender.send_replace(Arc::new(Status {
                at: Timestamp::from_second(second).expect("in range"),
                ..Status::default()
            }))
        };
        send(1);
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(health.silence(5.0), None, "a new status is a sign of life");
        send(1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(health.silence(5.0).is_some(), "the same status again is none");
        assert_eq!(health.silence(20.0), None, "three polls of 20 s are allowed");
        follower.abort();
    }

    #[test]
    fn a_nonsensical_poll_leaves_the_minimum() {
        for poll in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(allowed(poll), SILENCE_MIN, "{poll}");
        }
    }
}
