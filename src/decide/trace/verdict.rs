//! A decision as a line, and what a trace comes to.

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::model::{Decision, Note, RuleState, Verdict};

use super::seconds;

/// What a trace comes to; the exit codes of `flipback replay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Nothing was decided.
    #[default]
    Held,
    /// A rollback was called for, and suppressed or blocked.
    Refused,
    /// A rollback was decided.
    RolledBack,
}

impl Exit {
    /// What one decision comes to.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        match decision.verdict {
            Verdict::Hold => Self::Held,
            Verdict::Suppressed(..) | Verdict::Blocked(..) => Self::Refused,
            Verdict::Rollback(_) => Self::RolledBack,
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::RolledBack => 10,
            Self::Refused => 11,
        }
    }
}

/// The line that `flipback replay` prints for a look.
#[must_use]
pub fn verdict(at: Timestamp, epoch: Timestamp, decision: &Decision) -> String {
    let word = match decision.verdict {
        Verdict::Hold => "hold",
        Verdict::Rollback(_) => "rollback",
        Verdict::Suppressed(..) => "suppressed",
        Verdict::Blocked(..) => "blocked",
    };
    let line = Line {
        t: Time { at, epoch },
        rules: Rules(&decision.rules),
        events: &decision.notes,
        decision: word,
        why: &decision.why,
    };
    serde_json::to_string(&line).expect("text keys and numbers")
}

#[derive(Serialize)]
struct Line<'a> {
    t: Time,
    rules: Rules<'a>,
    events: &'a [Note],
    decision: &'static str,
    why: &'a str,
}

/// A time, as seconds where that is exact.
pub(super) struct Time {
    pub(super) at: Timestamp,
    pub(super) epoch: Timestamp,
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match seconds(self.at, self.epoch) {
            Some(seconds) => serializer.serialize_f64(seconds),
            None => self.at.serialize(serializer),
        }
    }
}

/// A number of requests: whole ones are written as such, and what JSON has no number for as a word.
pub(super) struct Amount(pub(super) f64);

/// Whole numbers beyond this are no longer exact.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = self.0;
        if number.is_nan() {
            serializer.serialize_str("NaN")
        } else if number.is_infinite() {
            serializer.serialize_str(if number > 0.0 { "+Inf" } else { "-Inf" })
        } else if number.fract() == 0.0 && number.abs() < WHOLE_MAX && (number != 0.0 || number.is_sign_positive()) {
            serializer.serialize_i64(number as i64)
        } else {
            serializer.serialize_f64(number)
        }
    }
}

struct Rules<'a>(&'a [RuleState]);

#[derive(Serialize)]
struct Rule {
    outcome: &'static str,
    streak: u32,
    of: u32,
    bad: Option<Amount>,
    total: Option<Amount>,
}

impl Serialize for Rules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for state in self.0 {
            let rule = Rule {
                outcome: state.outcome.word(),
                streak: state.streak,
                of: state.of,
                bad: state.bad.map(Amount),
                total: state.total.map(Amount),
            };
            map.serialize_entry(state.rule.as_str(), &rule)?;
        }
        map.end()
    }
}
