//! What must survive a restart: written on the guarded object, in the same patch as the flip.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Color;

/// Annotation that carries the [`Ledger`] as JSON.
pub const LEDGER_ANNOTATION: &str = "flipback.dev/ledger";
/// Annotation that carries a [`Pause`] as JSON.
pub const PAUSE_ANNOTATION: &str = "flipback.dev/paused";
/// Flips a ledger remembers: more than three a day for a week; annotations are bounded by 256 KiB in all.
pub const LEDGER_FLIPS_MAX: usize = 20;

/// What flipback did to a route, newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Version of this format.
    #[serde(default)]
    pub version: u32,
    /// The flips, newest last.
    #[serde(default)]
    pub flips: Vec<FlipRecord>,
}

/// One flip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlipRecord {
    /// When it was decided.
    pub at: Timestamp,
    /// The color that was left.
    pub from: Color,
    /// The color that took over.
    pub to: Color,
    /// Id of the release that was left, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_release: Option<String>,
    /// `true` for a rule's flip, `false` for a person's.
    pub automatic: bool,
    /// `true` when the left release is thereby marked as bad.
    pub bad: bool,
    /// The trigger's name: a rule, or `manual`.
    pub trigger: String,
    /// One sentence with numbers.
    pub why: String,
    /// Id of the incident, which is the name of its evidence folder.
    pub incident: String,
}

impl Ledger {
    /// The ledger with one more flip, oldest dropped beyond [`LEDGER_FLIPS_MAX`].
    #[must_use]
    pub fn with(&self, flip: FlipRecord) -> Self {
        let mut flips = self.flips.clone();
        flips.push(flip);
        let surplus = flips.len().saturating_sub(LEDGER_FLIPS_MAX);
        flips.drain(..surplus);
        Self { version: 1, flips }
    }

    /// The newest flip.
    #[must_use]
    pub fn last(&self) -> Option<&FlipRecord> {
        self.flips.last()
    }

    /// Whether a release is marked as one that was rolled back from.
    #[must_use]
    pub fn is_bad(&self, release: &str) -> bool {
        self.flips
            .iter()
            .any(|flip| flip.bad && flip.from_release.as_deref() == Some(release))
    }
}

/// A person's word that nothing shall be flipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
    /// When it ends by itself; `None`: when it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Whether it is in force; one that has ended is no pause, though its annotation is still there.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flip(n: i64) -> FlipRecord {
        FlipRecord {
            at: Timestamp::from_second(n).expect("in range"),
            from: Color::new("green").expect("valid"),
            to: Color::new("blue").expect("valid"),
            from_release: Some(format!("r{n}")),
            automatic: true,
            bad: true,
            trigger: "error_rate".into(),
            why: "12 % over 5 %".into(),
            incident: "i".into(),
        }
    }

    #[test]
    fn the_oldest_flip_leaves_first() {
        let ledger = (0..25).fold(Ledger::default(), |ledger, n| ledger.with(flip(n)));
        assert_eq!(ledger.flips.len(), LEDGER_FLIPS_MAX);
        assert!(!ledger.is_bad("r4"));
        assert!(ledger.is_bad("r5") && ledger.is_bad("r24"));
    }

    #[test]
    fn a_full_ledger_fits_an_annotation() {
        let long = FlipRecord {
            why: "x".repeat(400),
            ..flip(1)
        };
        let ledger = (0..LEDGER_FLIPS_MAX).fold(Ledger::default(), |ledger, _| ledger.with(long.clone()));
        assert!(serde_json::to_string(&ledger).expect("serializes").len() < 32 * 1024);
    }
}
