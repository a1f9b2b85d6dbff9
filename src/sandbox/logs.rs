//! What the containers said: the lines of every application, for `pods/log`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

/// Lines kept per container, of its present and its previous run each.
const LINES_MAX: usize = 2000;
/// Containers remembered.
const CONTAINERS_MAX: usize = 256;

/// The logs of all pods, one container each. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs(Arc<Mutex<BTreeMap<String, Container>>>);

#[derive(Debug, Default)]
struct Container {
    current: VecDeque<(Timestamp, String)>,
    previous: Option<VecDeque<(Timestamp, String)>>,
}

/// Which run of a container is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// The present one.
    Current,
    /// The one before its last restart.
    Previous,
}

impl Logs {
    /// Adds a line.
    pub(super) fn say(&self, pod: &str, at: Timestamp, line: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(pod) && all.len() >= CONTAINERS_MAX {
            all.pop_first();
        }
        let lines = &mut all.entry(pod.to_owned()).or_default().current;
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back((at, line));
    }

    /// The container restarts: its lines become the previous run's.
    pub(super) fn restart(&self, pod: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let container = all.entry(pod.to_owned()).or_default();
        container.previous = Some(std::mem::take(&mut container.current));
    }

    /// The newest `tail` lines; `None` when there was no such run.
    pub(super) fn read(&self, pod: &str, run: Run, tail: usize) -> Option<Vec<(Timestamp, String)>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let container = all.get(pod);
        let lines = match run {
            Run::Current => container.map(|container| &container.current),
            Run::Previous => Some(container?.previous.as_ref()?),
        };
        let lines = lines.map(|lines| lines.iter().skip(lines.len().saturating_sub(tail)).cloned().collect());
        Some(lines.unwrap_or_default())
    }
}
