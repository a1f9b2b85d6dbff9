//! What follows from an observation.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, GuardId, Held, Phase, Release, RuleName};

/// What the engine says after one observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// Where each rule stands.
    pub rules: Vec<RuleState>,
    /// What happened since the last look that a person may want to know.
    pub notes: Vec<Note>,
    /// The guard's state in a word.
    pub phase: Phase,
    /// One sentence with numbers.
    pub why: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing.
    Hold,
    /// Flip back.
    Rollback(Box<Case>),
    /// The rule is confirmed, and the release is not to blame: tell, do not flip.
    Suppressed(Box<Case>, Suppression),
    /// The rule is confirmed and a flip is refused: tell, and try again while it still breaches.
    Blocked(Box<Case>, Refusal),
}

impl Verdict {
    /// Why traffic stays on what is bad: `blocked` or `suppressed`, and the word of its reason; `None`: it does not.
    #[must_use]
    pub fn stays(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Hold | Self::Rollback(_) => None,
            Self::Suppressed(_, suppression) => Some(("suppressed", suppression.word())),
            Self::Blocked(_, refusal) => Some(("blocked", refusal.word())),
        }
    }
}

/// Everything a flip, its evidence and its messages need to know about why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Whose.
    pub guard: GuardId,
    /// When it was decided.
    pub at: Timestamp,
    /// The color that is left.
    pub from: Color,
    /// The color that takes over.
    pub to: Color,
    /// What `from` runs.
    pub from_release: Option<Release>,
    /// What `to` runs.
    pub to_release: Option<Release>,
    /// What asked for it.
    pub trigger: Trigger,
    /// One sentence with numbers.
    pub why: String,
    /// Where each rule stood.
    pub rules: Vec<RuleState>,
    /// Ready endpoints of `from`.
    pub from_ready: u32,
    /// Ready endpoints of `to`.
    pub to_ready: u32,
    /// Hash of the guard's configuration.
    pub config_hash: String,
}

/// What asked for a flip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Trigger {
    /// A rule.
    Rule {
        /// Which.
        rule: RuleName,
        /// By which path.
        path: Path,
    },
    /// Somebody undid a rollback, and it is made again.
    Reassert {
        /// Who undid it: a field manager.
        by: String,
        /// The how-manieth time it is made again.
        attempt: u32,
        /// How often it is at most.
        of: u32,
    },
    /// A person.
    Manual {
        /// Who, as far as known.
        by: String,
        /// Their words.
        reason: String,
    },
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { rule, .. } => write!(f, "{rule}"),
            Self::Reassert { .. } => f.write_str("reassert"),
            Self::Manual { .. } => f.write_str("manual"),
        }
    }
}

/// How a rule came to its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// N breaches in a row, sure by the pooled bound.
    Fast,
    /// Two severe intervals in a row.
    Severe,
    /// Over the threshold for minutes.
    Slow,
    /// One breach of a critical rule.
    Critical,
    /// No Ready endpoint for too long.
    Endpoints,
    /// N failed rounds of probes in a row.
    Probe,
    /// Classic mode: N bad polls in a row, whichever rule made each of them bad.
    Classic,
}

/// One rule's outcome of one poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// Over the threshold.
    Breach,
    /// Within it.
    Pass,
    /// Evidence is still collecting.
    Waiting,
    /// Nothing usable; the streak is held.
    Inconclusive(String),
    /// No sample newer than the last one used: a stale poll is no poll.
    Nothing,
}

impl Outcome {
    /// The word the trace format and metrics use.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Breach => "breach",
            Self::Pass => "pass",
            Self::Waiting => "waiting",
            Self::Inconclusive(_) => "inconclusive",
            Self::Nothing => "nothing",
        }
    }
}

/// Where a rule stands after a poll.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    /// Which rule.
    pub rule: RuleName,
    /// The kind as configuration spells it: `error_rate`, `latency`, `promql`, ...
    pub kind: String,
    /// This poll's outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Breaches in a row.
    pub streak: u32,
    /// How many it takes.
    pub of: u32,
    /// Bad requests (failed probes) of the interval this poll closed, or of the one still open.
    pub bad: Option<f64>,
    /// Requests (probes) of the same interval; for `endpoints`: the Ready ones.
    pub total: Option<f64>,
    /// The judged share, as a fraction; for `endpoints`: the Ready ones.
    pub value: Option<f64>,
    /// What it is compared to, in the unit of `value`.
    pub threshold: f64,
    /// Whether being under the threshold is the breach, as with an availability or a `min`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub below: bool,
    /// Lower confidence bound of the pooled breaches, as a fraction; the upper one where `below`.
    pub bound: Option<f64>,
    /// Time of the newest sample used.
    pub sample_at: Option<Timestamp>,
    /// One sentence with numbers.
    pub why: String,
}

/// Why a confirmed breach is not held against the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "suppression")]
pub enum Suppression {
    /// The previous color was just as bad before the switch.
    BadBefore,
    /// The standby color is just as bad now.
    StandbyBad,
    /// Nothing is known of the standby color, and every other color is just as bad now.
    FleetBad,
    /// The watch has ended and only alerts remain.
    AfterWatch,
    /// This is the color flipback restored: judged in report-only mode.
    ReportOnly,
}

impl Suppression {
    /// The word of metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::BadBefore => "bad_before",
            Self::StandbyBad => "standby_bad",
            Self::FleetBad => "fleet_bad",
            Self::AfterWatch => "after_watch",
            Self::ReportOnly => "report_only",
        }
    }
}

impl fmt::Display for Suppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadBefore => "the previous color was already over the threshold before the switch, so this release is not to blame",
            Self::StandbyBad => "the standby color is just as bad now, so switching back would not help",
            Self::FleetBad => "every other color is just as bad now, so it is not this release alone and switching back would not help",
            Self::AfterWatch => "the watch after the switch has ended and this guard only alerts from then on",
            Self::ReportOnly => "this color was restored by a rollback and is judged in report-only mode",
        })
    }
}

/// Why a flip is refused although the release is bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "refusal")]
pub enum Refusal {
    /// The standby color has too few Ready endpoints.
    StandbyNotReady {
        /// What it has.
        ready: u32,
        /// What a flip needs.
        needed: u32,
    },
    /// The standby color's endpoints are not being watched right now: nobody knows whether it can serve.
    StandbyUnseen,
    /// A person paused the guard.
    Paused {
        /// Who.
        by: String,
    },
    /// Within the cooldown of an earlier flip.
    Cooldown {
        /// Its end.
        until: Timestamp,
    },
    /// Too many flips in a day: the guard has disarmed itself.
    Disarmed {
        /// How many.
        flips: u32,
    },
    /// The standby runs a release that was rolled back from.
    StandbyKnownBad {
        /// Which.
        release: String,
    },
    /// This release was already flipped away from once, automatically.
    AlreadyFlipped {
        /// Which.
        release: String,
    },
    /// The standby color's Deployment is not available.
    StandbyUnavailable {
        /// One sentence for a person.
        why: String,
    },
    /// The standby color fails the guard's own probes.
    StandbyProbes {
        /// What failed.
        why: String,
    },
    /// The standby color is being scaled up, and is waited for.
    StandbyScaling {
        /// Its Ready endpoints.
        ready: u32,
        /// What a flip needs.
        needed: u32,
        /// When it counts as failed; it is flipped to all the same once it can serve.
        until: Timestamp,
    },
    /// Something outside the guard's own route holds it.
    Held(Held),
}

impl Refusal {
    /// The word of metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::StandbyNotReady { .. } => "standby_not_ready",
            Self::StandbyUnseen => "standby_unseen",
            Self::Paused { .. } => "paused",
            Self::Cooldown { .. } => "cooldown",
            Self::Disarmed { .. } => "disarmed",
            Self::StandbyKnownBad { .. } => "standby_known_bad",
            Self::AlreadyFlipped { .. } => "already_flipped",
            Self::StandbyUnavailable { .. } => "standby_unavailable",
            Self::StandbyProbes { .. } => "standby_probes",
            Self::StandbyScaling { .. } => "standby_scaling",
            Self::Held(held) => held.by.as_str(),
        }
    }

    /// Whether `flipback switch` does all the same what is refused to a rule: where nobody is Ready, or is seen to be, it refuses too.
    #[must_use]
    pub fn yields_to_a_person(&self) -> bool {
        !matches!(
            self,
            Self::StandbyNotReady { .. } | Self::StandbyScaling { .. } | Self::StandbyUnseen
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandbyNotReady { ready, needed } => {
                write!(f, "the standby color cannot serve: {ready} Ready endpoints, {needed} needed")
            }
            Self::StandbyUnseen => f.write_str("the standby cannot be seen: its endpoints are not being watched right now"),
            Self::Paused { by } => write!(f, "the guard is paused by {by}"),
            Self::Cooldown { until } => write!(f, "in cooldown after an earlier flip until {until}"),
            Self::Disarmed { flips } => write!(f, "disarmed after {flips} automatic flips in 24 h"),
            Self::StandbyKnownBad { release } => write!(f, "the standby color runs release {release}, which was rolled back from"),
            Self::AlreadyFlipped { release } => write!(f, "release {release} was already flipped away from automatically"),
            Self::StandbyUnavailable { why } => write!(f, "the standby color is not available: {why}"),
            Self::StandbyProbes { why } => write!(f, "the standby color fails its own probes: {why}"),
            Self::StandbyScaling { ready, needed, until } => write!(
                f,
                "the standby color is being scaled up: {ready} of {needed} endpoints are Ready, waited for until {}",
                until.strftime("%H:%M:%S UTC")
            ),
            Self::Held(held) => f.write_str(&held.why),
        }
    }
}

/// Something that happened, worth a line in a log, a page or a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "note")]
pub enum Note {
    /// The active color, or its release, changed; all evidence was reset.
    Switched {
        /// The color before, where known.
        from: Option<Color>,
        /// The color now.
        to: Color,
        /// Whether flipback had just flipped away from it: somebody flipped it back.
        undone: bool,
        /// The field manager that did it, where the object tells.
        by: Option<String>,
        /// How long after our flip it was undone, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_seconds: Option<u64>,
        /// What is done about having been undone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reaction: Option<Reaction>,
    },
    /// A streak ran out of time.
    Expired {
        /// Whose.
        rule: RuleName,
        /// How long it was.
        streak: u32,
    },
    /// No usable data since.
    Blind {
        /// Since when.
        since: Timestamp,
        /// The latest reason.
        why: String,
    },
    /// Usable data again.
    Sighted {
        /// How long there was none, in seconds.
        after_seconds: u64,
    },
    /// The restored color is good.
    Recovered,
    /// The restored color is bad too.
    DidNotHelp {
        /// The rule's sentence.
        why: String,
    },
    /// A reading came near its threshold.
    Degraded {
        /// Which rule.
        rule: RuleName,
        /// The rule's sentence.
        why: String,
    },
    /// A rule whose action is `alert` is confirmed.
    Alert {
        /// Which rule.
        rule: RuleName,
        /// The rule's sentence.
        why: String,
    },
    /// The guard disarmed itself.
    Disarmed {
        /// Flips in the last 24 h.
        flips: u32,
    },
    /// The guard flips again: its flips are old enough, or a person said so.
    Rearmed {
        /// Who; `None`: time.
        by: Option<String>,
    },
    /// A person said that a release is bad no more.
    Forgotten {
        /// Which.
        release: String,
        /// Who.
        by: String,
        /// Their words.
        reason: String,
    },
    /// The watch after a switch ended.
    WatchEnded,
    /// The selector's value is none of the guard's colors.
    UnknownColor {
        /// The value found.
        found: Option<String>,
        /// The values that would be understood.
        known: Vec<String>,
    },
    /// The route cannot be read.
    Unreadable {
        /// A sentence for a person.
        why: String,
    },
    /// The route can be read again.
    Readable,
    /// A person paused or resumed the guard.
    PauseChanged {
        /// Who paused it; `None`: resumed.
        by: Option<String>,
    },
}

/// What is done about a rollback that somebody undid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Reaction {
    /// Nothing: it is left to people.
    Nothing,
    /// It is made again.
    Reassert {
        /// After how many seconds from when it was undone.
        after_seconds: u64,
        /// The how-manieth time that is.
        attempt: u32,
        /// How often it is at most.
        of: u32,
    },
    /// It was made again as often as allowed, and is no more.
    GivenUp {
        /// How often.
        times: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alerts are written with these words, and evidence, messages and webhooks carry the other ones.
    #[test]
    fn the_words_of_metrics_are_those_of_incidents() {
        let until = Timestamp::UNIX_EPOCH;
        let (ready, needed, release, why) = (0, 1, String::new(), String::new());
        let refusals = [
            Refusal::StandbyNotReady { ready, needed },
            Refusal::StandbyUnseen,
            Refusal::Paused { by: String::new() },
            Refusal::Cooldown { until },
            Refusal::Disarmed { flips: 3 },
            Refusal::StandbyKnownBad { release: release.clone() },
            Refusal::AlreadyFlipped { release },
            Refusal::StandbyUnavailable { why: why.clone() },
            Refusal::StandbyProbes { why },
            Refusal::StandbyScaling { ready, needed, until },
        ];
        for refusal in refusals {
            let written = serde_json::to_value(&refusal).expect("writes");
            assert_eq!(written["refusal"], refusal.word());
        }
        for suppression in [
            Suppression::BadBefore,
            Suppression::StandbyBad,
            Suppression::FleetBad,
            Suppression::AfterWatch,
            Suppression::ReportOnly,
        ] {
            let written = serde_json::to_value(&suppression).expect("writes");
            assert_eq!(written["suppression"], suppression.word());
        }
    }
}
