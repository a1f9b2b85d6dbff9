//! What must be there in the end: a whole bundle and a message of every incident, however often the daemon was killed.

use std::{collections::BTreeSet, fs, path::Path};

use flipback::model::Topic;
use serde_json::Value;

use crate::{invariants::Flip, script::CHATS, world::World};

impl World {
    /// Looks at what the daemons left behind.
    pub fn at_end(&self) {
        let folders: Vec<_> = (0..self.setup.replicas).map(|daemon| self.data(daemon).join("incidents")).collect();
        let age = self.story.age();
        let flips = self.judge(|judge| judge.flips.clone());
        for flip in &flips {
            for broken in self.owed(flip, &folders) {
                self.judge(|judge| judge.violated(age, &broken));
            }
        }
        for broken in doubles(&folders) {
            self.judge(|judge| judge.violated(age, &broken));
        }
        let spoken = self.judge(|judge| judge.messages.clone());
        let mut threads: std::collections::BTreeMap<String, BTreeSet<String>> = std::collections::BTreeMap::new();
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
    fn owed(&self, flip: &Flip, folders: &[std::path::PathBuf]) -> Vec<String> {
        let mut broken = Vec::new();
        let id = &flip.incident;
        let bundles: Vec<Value> = folders.iter().filter_map(|folder| bundle(&folder.join(id))).collect();
        // One whose answer was lost, and that arrived after everybody had given it up, is told as failed. Replicas that
        // lived through it each keep their own.
        let tells = |bundle: &Value| bundle["outcome"]["result"] == "rolled_back" || flip.late && bundle["outcome"]["result"] == "failed";
        if bundles.is_empty() {
            broken.push(format!("NO INCIDENT WITHOUT BUNDLE: {id}"));
        } else if !bundles.iter().any(tells) {
            let told: Vec<&Value> = bundles.iter().map(|bundle| &bundle["outcome"]["result"]).collect();
            broken.push(format!(
                "NO INCIDENT WITHOUT BUNDLE: that of {id}, which moved traffic, tells {told:?}"
            ));
        }
        for chat in CHATS {
            let told: BTreeSet<&'static str> = self.judge(|judge| {
                let of = judge
                    .messages
                    .iter()
                    .filter(|heard| heard.chat == chat && heard.incident.as_deref() == Some(id));
                of.map(|heard| heard.topic.as_str()).collect()
            });
            let outcome = [Topic::RollbackCompleted, Topic::RollbackFailed, Topic::Switched];
            if !outcome.iter().any(|topic| told.contains(topic.as_str())) {
                broken.push(format!("NO INCIDENT WITHOUT MESSAGE: {chat} was told {told:?} of {id}"));
            }
        }
        broken
    }
}

/// A whole bundle's `incident.json`.
fn bundle(folder: &Path) -> Option<Value> {
    folder.join("MANIFEST.sha256").exists().then_some(())?;
    serde_json::from_slice(&fs::read(folder.join("incident.json")).ok()?).ok()
}

/// Incidents that are kept under more than one name.
fn doubles(folders: &[std::path::PathBuf]) -> Vec<String> {
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
