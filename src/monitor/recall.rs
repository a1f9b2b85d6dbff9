//! What the bundles of earlier runs tell of a guard: its newest incident, its thread, and what may be unfinished.
//!
//! At a start it is read before the first look, and so it is for a guard that a reload adds: what it tells belongs into the thread of its
//! past. No look waits long for a disk, though: where it is slow, the guard is watched from the first look on, and learns the same later.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{Guarded, Monitor, late::Attempts, resume::Remains, scale, show, tell};
use crate::{
    evidence::Keeper,
    model::{GuardId, Incident, IncidentSummary},
};

/// For so long a look waits for what is read for guards that a reload has added; a healthy disk answers well within this.
const READ_WAIT: Duration = Duration::from_millis(500);

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
    /// Takes in what is known of earlier runs; what came to pass since `started` was this one's own. A guard that this run has guarded
    /// before, and that was away for a while, owes nothing: it is only told its story.
    pub(super) fn recall(&mut self, recalled: &Recalled, started: Timestamp) {
        let newest = recalled.newest.get(&self.spec.id);
        if !self.remains.has_looked() {
            self.attempts = Attempts::of(&self.spec.id, &recalled.kept, started);
            self.remains = Remains::of(&self.spec.id, &recalled.begun, &recalled.kept, &recalled.known, started);
            if let Some((color, since)) = newest.and_then(|(_, incident)| scale::earlier(incident, &self.spec, started)) {
                self.engine.awaits(color, since);
            }
        }
        let Some((summary, incident)) = newest else { return };
        self.last_incident = Some(summary.clone());
        self.thread = Some(incident.thread().to_owned());
        let incident = Arc::new(incident.clone());
        self.open = Some(Arc::clone(&incident)).filter(|incident| tell::is_open(incident));
        self.last = Some(incident);
    }
}

impl Monitor {
    /// Reads what earlier runs left of guards that were just added, beside everything else. Answers with what the next look waits for.
    pub(super) fn read_for(&mut self, guards: Vec<GuardId>, now: Timestamp) -> BoxFuture<'static, ()> {
        if guards.is_empty() {
            return std::future::ready(()).boxed();
        }
        let (keeper, served) = (Arc::clone(&self.keeper), self.served);
        let (reading, read) = oneshot::channel::<()>();
        // Each of its looks at the disk is bounded in time. What was begun for guards that were not configured is kept since the start.
        self.reads.spawn_blocking(move || {
            // Gone with this closure, however it ends.
            let _reading = reading;
            let (found, known) = (keeper.kept(), Arc::new(keeper.known()));
            Read {
                guards,
                added: now,
                recalled: Recalled::new(&keeper, found, Vec::new(), known, served),
            }
        });
        tokio::time::timeout(READ_WAIT, read).map(drop).boxed()
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
                let is_new = !guard.remains.has_looked();
                guard.recall(&recalled, added);
                if is_new && self.part.is_some() {
                    guard.remains.is_told_by_others();
                }
            }
        }
        let owed = recalled.kept.into_iter().filter(|incident| guards.contains(&incident.case.guard));
        let owed: Vec<Incident> = owed.filter(|incident| incident.followed_up_at.is_none()).collect();
        self.remember_follow_ups(owed, added);
        self.publish_again(self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Mode,
        monitor::{
            act::tests::conductor,
            resume::{
                plan,
                tests::{at, flip, guard, spec, traffic},
            },
        },
    };

    #[tokio::test]
    async fn a_guard_that_comes_back_owes_nothing_of_what_this_run_or_another_replica_did() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut monitor = conductor(folder.path());
        let guarded = monitor.guards.get_mut(&guard()).expect("guarded");
        // Half an hour before it was put back, and retention has its bundle.
        let flip = flip("i1", -60);
        let owed = |remains: &Remains| plan(remains, &traffic("blue", &[&flip]), &spec(None, Mode::Enforce), at(1861)).len();
        for (guarded_before, expected) in [(true, 0), (false, 1)] {
            guarded.remains = Remains::of(&guard(), &[], &[], &Arc::default(), at(0));
            if guarded_before {
                guarded.remains.note(&[]);
            }
            guarded.recall(&Recalled::default(), at(1860));
            assert_eq!(owed(&guarded.remains), expected, "guarded before: {guarded_before}");
        }
        guarded.remains.is_told_by_others();
        assert_eq!(owed(&guarded.remains), 0, "a replica that led has told of it");
    }
}
