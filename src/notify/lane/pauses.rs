//! When a chat, or one thread of it, is left alone after a failure. Pure.
//!
//! A failure delays its thread. When the next one is another thread's, the chat itself is in trouble and is left alone at
//! growing distances until it accepts something; what it asks for by `Retry-After`, and a rate limit, hold for all of it
//! from the start.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How a delivery is tried again.
#[derive(Clone, Copy, Debug)]
pub(in crate::notify) struct Pace {
    /// Before the first retry; doubles from there, with up to as much jitter.
    pub(in crate::notify) retry_min: Duration,
    /// Before any retry, without jitter.
    pub(in crate::notify) retry_max: Duration,
    /// The longest `Retry-After` that is obeyed.
    pub(in crate::notify) retry_after_max: Duration,
    /// Attempts at a message that the chat refuses for good.
    pub(in crate::notify) refusals_max: u32,
    /// A message that was not accepted for so long is old news.
    pub(in crate::notify) age_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(5 * 60),
            refusals_max: 3,
            age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failure {
    /// The same message would be refused again.
    pub(super) permanent: bool,
    /// The chat limits the rate, whoever asks.
    pub(super) limited: bool,
    /// How long it asked us to wait.
    pub(super) retry_after: Option<Duration>,
}

/// The pauses of one chat; times are since the lane's start.
pub(super) struct Pauses {
    pub(super) pace: Pace,
    threads: HashMap<String, Pause>,
    chat_until: Duration,
    health: Health,
}

/// The pause of one thread.
struct Pause {
    until: Duration,
    backoff: ExponentialBackoff,
}

/// What the chat's answers say of the chat itself.
enum Health {
    Well,
    /// A message of this thread failed; one of another thread will tell whether it is the chat.
    Doubtful(String),
    /// Nothing is accepted.
    Down(ExponentialBackoff),
}

impl Pauses {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            threads: HashMap::new(),
            chat_until: Duration::ZERO,
            health: Health::Well,
        }
    }

    /// When a message of the thread may go.
    pub(super) fn end(&self, thread: &str) -> Duration {
        let own = self.threads.get(thread).map_or(Duration::ZERO, |pause| pause.until);
        own.max(self.chat_until)
    }

    /// The chat accepts messages.
    pub(super) fn accepted(&mut self) {
        self.health = Health::Well;
        self.chat_until = Duration::ZERO;
    }

    /// A message of the thread failed; returns how long it has to wait.
    pub(super) fn failed(&mut self, thread: &str, failure: Failure, now: Duration) -> Duration {
        if let Some(pause) = self.of_chat(thread, failure) {
            // The chat's doing: once it is back, the thread has no pause of its own to sit out.
            self.chat_until = now + pause;
            return pause;
        }
        let pace = self.pace;
        let pause = self.threads.entry(thread.to_owned()).or_insert_with(|| Pause {
            until: Duration::ZERO,
            backoff: backoff(&pace),
        });
        let wait = pause.backoff.next().unwrap_or(pace.retry_max);
        pause.until = now + wait;
        wait
    }

    /// How long the whole chat is left alone after a failure, if the failure says something about the chat.
    fn of_chat(&mut self, thread: &str, failure: Failure) -> Option<Duration> {
        let pace = self.pace;
        let chat_wide = failure.limited || failure.retry_after.is_some();
        let down = match &self.health {
            Health::Well => chat_wide,
            Health::Doubtful(first) => chat_wide || first != thread,
            Health::Down(_) => false,
        };
        if down {
            self.health = Health::Down(backoff(&pace));
        }
        match &mut self.health {
            Health::Down(backoff) => {
                let own = backoff.next().unwrap_or(pace.retry_max);
                // Our own, or the chat's where that is longer, within bounds.
                let asked = failure.retry_after.unwrap_or_default().min(pace.retry_after_max);
                Some(own.max(asked))
            }
            Health::Well => {
                self.health = Health::Doubtful(thread.to_owned());
                None
            }
            Health::Doubtful(_) => None,
        }
    }

    /// The thread's next message begins with short pauses of its own.
    pub(super) fn forget(&mut self, thread: &str) {
        self.threads.remove(thread);
    }

    /// Forgets every other thread.
    pub(super) fn retain(&mut self, threads: &HashSet<&str>) {
        self.threads.retain(|thread, _| threads.contains(thread.as_str()));
    }
}

fn backoff(pace: &Pace) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(pace.retry_min)
        .with_max_delay(pace.retry_max)
        .with_jitter()
        .without_max_times()
        .build()
}
