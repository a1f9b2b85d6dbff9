//! What happened, one line per event, for people who do not know the program.

use std::{
    fmt::{Display, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The tale of one seed. Cheap to clone.
#[derive(Clone)]
pub struct Story {
    begun: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Story {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            lines: Arc::default(),
        }
    }

    /// How long it has been going on.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Adds a line: who did what.
    pub fn tell(&self, who: impl Display, what: impl Display) {
        let line = format!("{:>10}  {who:<12} {what}", clock(self.age()));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All of it.
    pub fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

/// `12:03.250`: minutes, seconds, milliseconds.
pub fn clock(age: Duration) -> String {
    let (seconds, millis) = (age.as_secs(), age.subsec_millis());
    format!("{}:{:02}.{millis:03}", seconds / 60, seconds % 60)
}
