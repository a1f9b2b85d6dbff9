//! What must never happen, looked at when a daemon's patch is carried out. The witness is the API server's own before
//! and after, beside what was true of the world then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flipback::model::{Topic, ledger::LEDGER_ANNOTATION};
use serde_json::Value;

use crate::{
    chats::Heard,
    liveness::Dues,
    script::Setup,
    story::clock,
    truth::{COLORS, Truth},
};

/// What a daemon's caches may be behind where its road is sound: an event, and the read before the patch.
const BEHIND: Duration = Duration::from_secs(5);
/// What they may be behind where watches may have gone silent: 35 s until a dead watch is noticed, 30 s until it no
/// longer counts as the truth, and the lists in between.
const BEHIND_UNSOUND: Duration = Duration::from_secs(75);
/// How long after it was last bad a color may still be left: the slow path looks back 5 min, and a streak is held.
const BAD_LATELY: Duration = Duration::from_secs(6 * 60);
/// How often a daemon looks.
const POLL: Duration = Duration::from_secs(5);
/// The policy's flips per day.
const FLIPS_PER_DAY: usize = 3;

/// A write of a daemon that changed the guarded Service.
pub struct Accepted<'a> {
    pub daemon: usize,
    pub at: Duration,
    /// When the request set out.
    pub sent: Duration,
    pub before: &'a Value,
    pub after: &'a Value,
}

/// A flip that a daemon's patch made.
#[derive(Clone, Debug)]
pub struct Flip {
    pub daemon: usize,
    pub at: Duration,
    /// When the request set out.
    pub sent: Duration,
    pub from: String,
    pub to: String,
    pub automatic: bool,
    pub bad: bool,
    pub incident: String,
    /// It was carried out long after it had set out, when its answer was no longer waited for.
    pub late: bool,
}

/// When a daemon was shown new errors, and of which color.
type Shown = Vec<(Duration, String)>;

/// What is known of a daemon.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// When its present life began.
    pub since: Duration,
    /// When its road to the API server was last in trouble.
    pub disturbed: Option<Duration>,
    /// When its clock was last stepped.
    pub stepped: Option<Duration>,
    /// How many seconds its clock is ahead.
    pub ahead: i64,
    /// How many seconds it was stepped back by, in all.
    pub back: u64,
    /// When it was killed.
    pub kills: Vec<Duration>,
    /// When it was soundly shown new errors of the then active color, in this life.
    shown: Shown,
}

/// Watches over the invariants.
pub struct Judge {
    pub cooldown: Duration,
    pub daemons: Vec<Known>,
    /// The newest release's number.
    pub releases: u32,
    /// When the Service was last moved, whoever did it, and whether what it left was bad lately.
    pub switched: Duration,
    pub switched_from_bad: bool,
    /// When somebody outside moved the Service.
    pub moves: Vec<Duration>,
    /// The color that users were last sent to.
    served: String,
    /// Where somebody outside led them away from, when, and what each daemon had been shown of it.
    away: Option<(String, Duration, Vec<Shown>)>,
    pub paused: Option<Duration>,
    pub flips: Vec<Flip>,
    /// The newest of them, while nobody else has moved the Service since.
    pub moved_last: Option<Flip>,
    /// Releases that an automatic flip left, and those that any flip called bad, by color.
    pub auto_left: BTreeMap<(String, u32), u32>,
    pub bad_left: BTreeSet<(String, u32)>,
    /// The same, those included that were deployed a moment before: the daemon may have meant them, or what ran there before.
    pub perhaps_auto_left: BTreeSet<(String, u32)>,
    pub perhaps_bad_left: BTreeSet<(String, u32)>,
    pub messages: Vec<Heard>,
    pub violations: Vec<String>,
    pub dues: Dues,
}

impl Judge {
    pub fn new(setup: &Setup, replicas: usize) -> Self {
        Self {
            cooldown: setup.cooldown,
            daemons: vec![Known::default(); replicas],
            releases: 2,
            switched: Duration::ZERO,
            switched_from_bad: false,
            served: COLORS[0].to_owned(),
            away: None,
            paused: None,
            flips: Vec::new(),
            moved_last: None,
            auto_left: BTreeMap::new(),
            bad_left: BTreeSet::new(),
            moves: Vec::new(),
            perhaps_auto_left: BTreeSet::new(),
            perhaps_bad_left: BTreeSet::new(),
            messages: Vec::new(),
            violations: Vec::new(),
            dues: Dues::new(setup),
        }
    }

    pub fn violated(&mut self, at: Duration, what: impl std::fmt::Display) {
        self.violations.push(format!("{}: {what}", clock(at)));
    }

    pub fn started(&mut self, daemon: usize, at: Duration) {
        let known = &mut self.daemons[daemon];
        known.since = at;
        known.shown.clear();
    }

    pub fn killed(&mut self, daemon: usize, at: Duration) {
        self.daemons[daemon].kills.push(at);
    }

    /// A daemon's road, or its clock, was in trouble just now.
    pub fn disturbed(&mut self, daemon: usize, at: Duration, stepped: bool) {
        let known = &mut self.daemons[daemon];
        if stepped {
            known.stepped = Some(at);
        } else {
            known.disturbed = Some(at);
        }
    }

    /// Somebody outside moved the Service, away from what is no color if `astray`; the color it selects now has its release since then.
    pub fn switched(&mut self, to: &str, at: Duration, from_bad: bool, astray: bool, released: Duration) {
        self.moves.push(at);
        if astray && self.served == to {
            // No switch: nobody else was served, so that what was shown of this release still counts.
            let known = self.daemons.iter_mut();
            known.for_each(|known| known.shown.retain(|(shown, _)| *shown >= released));
            self.moved_last = None;
            return;
        }
        // Gone and back between two looks: nobody can have seen it, and nothing else was measured.
        let back = self
            .away
            .take()
            .filter(|(from, since, _)| from == to && at.saturating_sub(*since) < POLL);
        let shown: Vec<_> = self.daemons.iter_mut().map(|known| std::mem::take(&mut known.shown)).collect();
        if let Some((_, _, before)) = back {
            for (known, shown) in self.daemons.iter_mut().zip(before) {
                known.shown = shown.into_iter().filter(|(shown, _)| *shown >= released).collect();
            }
        } else {
            self.away = Some((self.served.clone(), at, shown));
        }
        to.clone_into(&mut self.served);
        self.switched = at;
        self.switched_from_bad = from_bad;
        self.moved_last = None;
    }

    /// A daemon was soundly shown new errors of the color that it takes for active.
    pub fn shown_errors(&mut self, daemon: usize, color: &str) {
        let at = self.dues.now;
        self.daemons[daemon].shown.push((at, color.to_owned()));
    }

    /// The newest release of a color that was rolled back from.
    pub fn left_for_bad(&self, color: &str) -> Option<u32> {
        self.bad_left
            .iter()
            .filter(|(of, _)| of == color)
            .map(|(_, number)| *number)
            .next_back()
    }

    /// A chat got a message.
    pub fn heard(&mut self, heard: Heard) {
        let told = matches!(heard.topic, Topic::RollbackCompleted);
        if told && !self.flips.iter().any(|flip| Some(&flip.incident) == heard.incident.as_ref()) {
            self.violated(
                heard.at,
                format!("the chat {} was told of a rollback that never was: {}", heard.chat, heard.id),
            );
        }
        self.messages.push(heard);
    }

    /// A daemon's write changed the guarded Service; returns what there is to tell.
    pub fn accepted(&mut self, write: &Accepted<'_>, truth: &mut Truth) -> Vec<String> {
        let (from, to) = (color(write.before), color(write.after));
        let (known, made) = (ledger(write.before), ledger(write.after));
        let mut ids = BTreeSet::new();
        if made.iter().any(|flip| !ids.insert(flip["incident"].to_string())) {
            self.violated(write.at, "the ledger tells the same flip twice");
        }
        let new: Vec<&Value> = made
            .iter()
            .filter(|flip| known.iter().all(|old| old["incident"] != flip["incident"]))
            .collect();
        if stripped(write.before) != stripped(write.after) {
            self.violated(
                write.at,
                format!(
                    "daemon {} changed more of the Service than its color and its own notes",
                    write.daemon
                ),
            );
        }
        match (from == to, new.as_slice()) {
            (true, []) => vec![format!("daemon {} wrote on the Service, which stays on {to}", write.daemon)],
            (false, [record]) => {
                let flip = Flip {
                    daemon: write.daemon,
                    at: write.at,
                    sent: write.sent,
                    from: text(record, "from"),
                    to: text(record, "to"),
                    automatic: record["automatic"] == true,
                    bad: record["bad"] == true,
                    incident: text(record, "incident"),
                    late: write.at.saturating_sub(write.sent) > Duration::from_secs(4),
                };
                if (flip.from.as_str(), flip.to.as_str()) != (from.as_str(), to.as_str()) {
                    self.violated(
                        write.at,
                        format!("the Service moved from {from} to {to}, and the ledger tells {flip:?}"),
                    );
                }
                let told = format!(
                    "carried out: daemon {} moved the Service from {from} to {to} ({}, {}) [{}]",
                    flip.daemon,
                    if flip.automatic { "by itself" } else { "for a person" },
                    text(record, "why"),
                    flip.incident
                );
                self.judge_flip(&flip, write.sent, &text(record, "trigger"), truth);
                vec![told]
            }
            (moved, told) => {
                let (moved, told) = (!moved, told.len());
                self.violated(
                    write.at,
                    format!(
                        "daemon {}: the Service moved: {moved} ({from} to {to}), and the ledger got {told} new flips",
                        write.daemon
                    ),
                );
                Vec::new()
            }
        }
    }

    fn judge_flip(&mut self, flip: &Flip, sent: Duration, trigger: &str, truth: &mut Truth) {
        let Flip { daemon, at, .. } = *flip;
        let behind = self.behind(daemon, sent);
        let longer = |since: Duration| sent.saturating_sub(since) > behind;
        let (left, taken) = (truth.side(&flip.from).clone(), truth.side(&flip.to).clone());
        let of_left = (flip.from.clone(), left.release);
        let of_taken = (flip.to.clone(), taken.release);
        if let Some(since) = taken.unable.filter(|since| longer(*since)) {
            let told = format!(
                "NEVER TO AN UNREADY COLOR: {} has {} Ready pods, too few since {}",
                flip.to,
                taken.ready,
                clock(since)
            );
            self.violated(at, told);
        }
        if (flip.automatic || flip.bad) && self.bad_left.contains(&of_taken) && longer(taken.released) {
            let told = format!(
                "NEVER TO A KNOWN-BAD COLOR: release {} of {} was rolled back from",
                taken.release, flip.to
            );
            self.violated(at, told);
        }
        if flip.automatic {
            self.judge_automatic(flip, sent, trigger, &left, behind);
        }
        // Who was deployed a moment ago may not be whom the daemon meant.
        let sure = longer(left.released);
        if flip.automatic && sure {
            let times = self.auto_left.entry(of_left.clone()).or_default();
            *times += 1;
            if *times > 1 {
                self.violated(
                    at,
                    format!(
                        "AT MOST ONE AUTOMATIC FLIP PER RELEASE: release {} of {} again",
                        left.release, flip.from
                    ),
                );
            }
        }
        if flip.automatic {
            self.perhaps_auto_left.insert(of_left.clone());
        }
        if flip.bad {
            self.perhaps_bad_left.insert(of_left.clone());
        }
        if flip.bad && sure {
            self.bad_left.insert(of_left);
        }
        self.served.clone_from(&flip.to);
        self.away = None;
        self.switched = at;
        self.switched_from_bad = left.last_bad.is_some();
        self.daemons.iter_mut().for_each(|known| known.shown.clear());
        self.flips.push(flip.clone());
        self.moved_last = Some(flip.clone());
        self.dues.moved(flip.automatic);
    }

    fn judge_automatic(&mut self, flip: &Flip, sent: Duration, trigger: &str, left: &crate::truth::Side, behind: Duration) {
        let Flip { daemon, at, .. } = *flip;
        let lately = |then: Option<Duration>, span: Duration| then.is_some_and(|then| sent.saturating_sub(then) <= span);
        if trigger == "endpoints" {
            // When it became so is noted once.
            if left.ready > 0 && !lately(left.last_empty, behind + Duration::from_secs(15)) {
                self.violated(at, format!("flipped away from {}, which had Ready pods all the time", flip.from));
            }
        } else {
            if !lately(left.last_bad, BAD_LATELY) {
                self.violated(at, format!("flipped away from {}, which served well", flip.from));
            }
            let shown = self.daemons[daemon].shown.iter().filter(|(_, color)| *color == flip.from).count();
            if shown < 2 {
                let told = format!(
                    "NEVER ON MISSING DATA: daemon {daemon} was shown errors of {} in {shown} looks only",
                    flip.from
                );
                self.violated(at, told);
            }
        }
        if let Some(since) = self.paused.filter(|since| sent.saturating_sub(*since) > behind) {
            self.violated(at, format!("flipped although a person paused the guard at {}", clock(since)));
        }
        let stepped = self.daemons.iter().any(|known| known.stepped.is_some());
        let last = self.flips.iter().rfind(|flip| flip.automatic || flip.bad);
        if let Some(last) = last.filter(|last| !stepped && at.saturating_sub(last.at) + BEHIND < self.cooldown) {
            let told = format!(
                "NEVER TWO WRITERS' FLIPS: daemon {} had flipped at {}, which is within the cooldown",
                last.daemon,
                clock(last.at)
            );
            self.violated(at, told);
        }
        let today = self.flips.iter().filter(|flip| flip.automatic).count();
        if today >= FLIPS_PER_DAY {
            self.violated(at, format!("flipped by itself {} times in a day", today + 1));
        }
    }

    /// How far behind the truth a daemon may have been.
    fn behind(&self, daemon: usize, at: Duration) -> Duration {
        let disturbed = self.daemons[daemon].disturbed;
        match disturbed {
            Some(then) if at.saturating_sub(then) < BEHIND_UNSOUND || self.dues.unsound(daemon) => BEHIND_UNSOUND,
            _ => BEHIND,
        }
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn color(service: &Value) -> String {
    let found = service.pointer("/spec/selector/color").and_then(Value::as_str);
    found.unwrap_or("nothing").to_owned()
}

fn ledger(service: &Value) -> Vec<Value> {
    let annotation = &service["metadata"]["annotations"][LEDGER_ANNOTATION];
    let ledger: Value = annotation
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    ledger["flips"].as_array().cloned().unwrap_or_default()
}

/// A Service without what a flip may change.
fn stripped(service: &Value) -> Value {
    let mut rest = service.clone();
    let metadata = &mut rest["metadata"];
    for own in ["resourceVersion", "managedFields"] {
        metadata[own] = Value::Null;
    }
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.retain(|key, _| !key.starts_with("flipback.dev/"));
    }
    if metadata["annotations"].as_object().is_none_or(serde_json::Map::is_empty) {
        metadata["annotations"] = Value::Null;
    }
    rest["spec"]["selector"]["color"] = Value::Null;
    rest
}
