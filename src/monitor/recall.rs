//! What the bundles of earlier runs tell of a guard: its newest incident, its thread, and what may be unfinished.
//!
//! At a start it is read before the first look. A guard that a reload adds is watched from its first look on, like any other, and learns
//! the same a moment later: the disk is read beside the looks, which wait for no disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;

use super::{Guarded, Monitor, late::Attempts, resume::Remains, scale, show, tell};
use crate::{
    evidence::Keeper,
    model::{GuardId, Incident, IncidentSummary},
};

/// What lies on the disk.
#[derive(Default)]
pub(super) struct Recalled {
    /// The newest incident of every guard, as it is shown and as it is.
    newest: BTreeMap<GuardId, (IncidentSummary, Incident)>,
    /// Begun and not kept.
    pub(super) begun: Vec<Incident>,
    /// Kept, oldest first.
    pub(super) kept: Vec<Incident>,
    /// Every incident that has a bundle.
    known: Arc<BTreeSet<String>>,
}

/// What was read for guards that a reload has added.
pub(super) struct Read {
    guards: Vec<GuardId>,
    /// When they were added.
    added: Timestamp,
    recalled: Recalled,
}

impl Recalled {
    /// Puts in order what was read; `served`: our own server shows the evidence.
    pub(super) fn new(
        keeper: &Keeper,
        mut found: Vec<(PathBuf, Incident)>,
        begun: Vec<Incident>,
        known: Arc<BTreeSet<String>>,
        served: bool,
    ) -> Self {
        found.reverse();
        let kept = found.iter().map(|(_, incident)| incident.clone()).collect();
        let newest = found.into_iter().map(|(folder, incident)| {
            let report = keeper.link(&incident.id).or_else(|| served.then(|| show::served(&incident.id)));
            let summary = show::summary(&incident, Some(folder.display().to_string()), report);
            (incident.case.guard.clone(), (summary, incident))
        });
        Self {
            newest: newest.collect(),
            begun,
            kept,
            known,
        }
    }
}

impl Guarded {
    /// Takes in what is known of earlier runs; what came to pass since `started` was this one's own.
    pub(super) fn recall(&mut self, recalled: &Recalled, started: Timestamp) {
        self.attempts = Attempts::of(&self.spec.id, &recalled.kept, started);
        self.remains = Remains::of(&self.spec.id, &recalled.begun, &recalled.kept, &recalled.known, started);
        let Some((summary, incident)) = recalled.newest.get(&self.spec.id) else {
            return;
        };
        if let Some((color, since)) = scale::earlier(incident, &self.spec, started) {
            self.engine.awaits(color, since);
        }
        self.last_incident = Some(summary.clone());
        self.thread = Some(incident.thread().to_owned());
        self.last = Some(incident.clone());
        self.open = Some(incident.clone()).filter(tell::is_open);
    }
}

impl Monitor {
    /// Reads what earlier runs left of guards that were just added, beside the looks.
    pub(super) fn read_for(&mut self, guards: Vec<GuardId>, now: Timestamp) {
        if guards.is_empty() {
            return;
        }
        let (keeper, served) = (Arc::clone(&self.keeper), self.served);
        // Each of its looks at the disk is bounded in time. What was begun for guards that were not configured is kept since the start.
        self.reads.spawn_blocking(move || {
            let (found, known) = (keeper.kept(), Arc::new(keeper.known()));
            Read {
                guards,
                added: now,
                recalled: Recalled::new(&keeper, found, Vec::new(), known, served),
            }
        });
    }

    /// Tells guards that were added what was read for them, unless they have a story of their own by now.
    pub(super) fn learned(&mut self, read: Result<Read, tokio::task::JoinError>) {
        let Read { guards, added, recalled } = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "What earlier runs left of guards that were added is not known");
                return;
            }
        };
        for id in &guards {
            if let Some(guard) = self.guards.get_mut(id).filter(|guard| guard.last.is_none()) {
                guard.recall(&recalled, added);
            }
        }
        let owed = recalled.kept.into_iter().filter(|incident| guards.contains(&incident.case.guard));
        let owed: Vec<Incident> = owed.filter(|incident| incident.followed_up_at.is_none()).collect();
        self.remember_follow_ups(owed, added);
    }
}
