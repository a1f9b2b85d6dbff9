//! What must be there in the end: a whole bundle and a message of every incident, however often the daemon was killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use flipback::model::Topic;
use serde_json::Value;

use crate::{chats::Heard, invariants::Flip, script::CHATS, truth, world::World};

/// The look at a flip's arrival comes sooner.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What is begun beside a flip is on a sound disk by then.
const WRITTEN: Duration = Duration::from_secs(1);

impl World {
    /// What is not there yet, and must be there in the end.
    pub fn missing(&self) -> Vec<String> {
        let folders: Vec<_> = (0..self.setup.replicas).map(|daemon| self.data(daemon).join("incidents")).collect();
        let flips = self.judge(|judge| judge.flips.clone());
        let mut missing: Vec<String> = flips.iter().flat_map(|flip| self.owed(flip, &folders)).collect();
        // A clock that was stepped back gives two incidents the same name: the second one gets a number.
        if self.judge(|judge| judge.daemons.iter().all(|known| known.back == 0)) {
            missing.extend(doubles(&folders));
        }
        missing.extend(self.preview_left_behind(&folders));
        missing.extend(self.unproven(&folders));
        missing
    }

    /// Looks at what the daemons left behind.
    pub fn at_end(&self) {
        let age = self.story.age();
        for broken in self.missing() {
            self.judge(|judge| judge.violated(age, &broken));
        }
        let spoken = self.judge(|judge| judge.messages.clone());
        for broken in self.told_again(&spoken) {
            self.judge(|judge| judge.violated(age, &broken));
        }
        let mut threads: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for heard in spoken {
            if let Some(incident) = heard.incident.clone() {
                threads.entry(incident).or_default().insert(heard.thread.clone());
            }
        }
        for (incident, names) in threads.iter().filter(|(_, names)| names.len() > 1) {
            self.judge(|judge| judge.violated(age, format!("ONE THREAD: messages of {incident} are in {names:?}")));
        }
    }

    /// What is missing of a flip.
    fn owed(&self, flip: &Flip, folders: &[PathBuf]) -> Vec<String> {
        let mut broken = Vec::new();
        let id = &flip.incident;
        let bundles: Vec<Value> = folders.iter().filter_map(|folder| bundle(&folder.join(id))).collect();
        // Replicas that lived through it each keep their own; none may tell that it failed.
        let results: Vec<&Value> = bundles.iter().map(|bundle| &bundle["outcome"]["result"]).collect();
        if bundles.is_empty() {
            broken.push(format!("NO INCIDENT WITHOUT BUNDLE: {id}"));
        } else if results.iter().any(|result| *result != "rolled_back") {
            broken.push(format!(
                "NO INCIDENT WITHOUT BUNDLE: that of {id}, which moved traffic, tells {results:?}"
            ));
        }
        let lived = self.judge(|judge| {
            let known = &judge.daemons[flip.daemon];
            !known.kills.iter().any(|killed| (flip.sent..flip.sent + WRITTEN).contains(killed))
        });
        let recorded = folders[flip.daemon].join(id).join("decision.jsonl").exists();
        if flip.automatic && !flip.late && lived && !self.disks_refused() && !recorded {
            broken.push(format!("NO INCIDENT WITHOUT BUNDLE: that of {id} has no record of the decision"));
        }
        for chat in CHATS {
            // What was said before it happened does not tell of it: a flip may be told as failed and be carried out later.
            let told: BTreeSet<&'static str> = self.judge(|judge| {
                let of = judge
                    .messages
                    .iter()
                    .filter(|heard| heard.chat == chat && heard.at >= flip.at && heard.incident.as_deref() == Some(id));
                of.map(|heard| heard.topic.as_str()).collect()
            });
            // Told as failed, it is told as done in the end; but where nobody could look whether it arrived before somebody moved traffic on.
            let has = |topic: Topic| told.contains(topic.as_str());
            let unseen = has(Topic::ArrivalUnseen) && has(Topic::RollbackFailed);
            // Or undone before the look at its arrival, which found the color that it had left: told as failed for that reason, and by whom
            // it was undone.
            let at_once = self.judge(|judge| judge.moves.iter().any(|moved| (flip.at..=flip.at + AT_ONCE).contains(moved)));
            let undone = at_once && has(Topic::RollbackFailed) && has(Topic::FlippedBack);
            if !(has(Topic::RollbackCompleted) || has(Topic::Switched) || unseen || undone) {
                broken.push(format!("NO INCIDENT WITHOUT MESSAGE: {chat} was told {told:?} of {id}"));
            }
        }
        broken
    }
}

impl World {
    /// Incidents that moved nothing, and were told: each has its bundle, where no disk refused it and nobody was killed over it.
    fn unproven(&self, folders: &[PathBuf]) -> Vec<String> {
        let topics = [
            Topic::RollbackBlocked,
            Topic::RollbackSuppressed,
            Topic::RollbackWithheld,
            Topic::RollbackFailed,
        ];
        if self.disks_refused() {
            return Vec::new();
        }
        let told: BTreeSet<String> = self.judge(|judge| {
            let killed = |heard: &Heard| {
                let mut kills = judge.daemons.iter().flat_map(|known| &known.kills);
                kills.any(|killed| (heard.at..heard.at + WRITTEN).contains(killed))
            };
            let of = judge
                .messages
                .iter()
                .filter(|heard| topics.contains(&heard.topic) && !killed(heard));
            of.filter_map(|heard| heard.incident.clone()).collect()
        });
        let lost = told
            .iter()
            .filter(|id| folders.iter().all(|folder| bundle(&folder.join(id)).is_none()));
        lost.map(|id| format!("NO INCIDENT WITHOUT BUNDLE: {id}, which was told, has none"))
            .collect()
    }

    /// The preview follows the last flip that nobody has touched since, or the bundle says why it does not. A daemon whose clock
    /// was stepped cannot tell what was touched.
    fn preview_left_behind(&self, folders: &[PathBuf]) -> Option<String> {
        let (moved, stepped) = self.judge(|judge| {
            let stepped = judge.daemons.iter().any(|known| known.stepped.is_some());
            (judge.moved_last.clone(), stepped)
        });
        let flip = moved.filter(|flip| self.setup.preview && !stepped && self.active() == Some(truth::other(&flip.from)))?;
        let shown = self.shown_by_preview();
        let said = folders.iter().filter_map(|folder| bundle(&folder.join(&flip.incident)));
        let told = said.into_iter().any(|bundle| bundle.to_string().contains("preview Service"));
        (shown.as_deref() != Some(&flip.from) && !told).then(|| {
            format!(
                "PREVIEW LEFT BEHIND: it shows {shown:?} after {} to {}, and nobody says why",
                flip.incident, flip.to
            )
        })
    }

    /// What was told twice to a chat: by another name, or without a reason to doubt that it had arrived.
    fn told_again(&self, spoken: &[Heard]) -> Vec<String> {
        let mut names: BTreeMap<(&str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
        let mut times: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for heard in spoken {
            *times.entry((&heard.chat, &heard.id)).or_default() += 1;
            let once = matches!(heard.topic, Topic::RollbackInitiated | Topic::RollbackCompleted | Topic::Switched);
            if let Some(incident) = heard.incident.as_deref().filter(|_| once) {
                names
                    .entry((&heard.chat, incident, heard.topic.as_str()))
                    .or_default()
                    .insert(&heard.id);
            }
        }
        let renamed = names.iter().filter(|(_, ids)| ids.len() > 1);
        let mut broken: Vec<String> = renamed
            .map(|(what, ids)| format!("ONE MESSAGE: {what:?} was told as {ids:?}"))
            .collect();
        let killed = self.judge(|judge| judge.daemons.iter().any(|known| !known.kills.is_empty()));
        let chats = self.kinds().iter().any(|kind| kind.starts_with("chat"));
        if self.setup.replicas == 1 && !killed && !chats && !self.disks_refused() {
            let again = times.iter().filter(|(_, times)| **times > 1);
            broken.extend(again.map(|(what, times)| format!("ONE MESSAGE: {what:?} was told {times} times")));
        }
        broken
    }

    fn disks_refused(&self) -> bool {
        self.kinds().iter().any(|kind| kind == "disk")
    }
}

/// A whole bundle's `incident.json`.
fn bundle(folder: &Path) -> Option<Value> {
    folder.join("MANIFEST.sha256").exists().then_some(())?;
    serde_json::from_slice(&fs::read(folder.join("incident.json")).ok()?).ok()
}

/// Incidents that are kept under more than one name.
fn doubles(folders: &[PathBuf]) -> Vec<String> {
    let mut broken = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((id, _)) = name.trim_start_matches(".partial-").rsplit_once("Z-") {
                broken.push(format!("ONE BUNDLE: {id}Z is kept a second time, as {name}"));
            }
        }
    }
    broken
}
