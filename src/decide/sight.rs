//! Blindness: no data is a state of its own, and a loud one. A source that fails must be heard of, for it neither
//! breaches nor passes, and a guard that sees nothing protects nothing.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Note, Policy, RuleName};

use super::{clock::Clock, limits::Limits, meter::Look};

/// Scrape spacing assumed until two samples have shown it: Prometheus scrapes once a minute unless told otherwise, and
/// three missing scrapes are what makes a sample stale.
const PATIENCE: Duration = Duration::from_secs(90);

/// What one rule sees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sight {
    /// The age of the engine at the last usable sample.
    fresh: Duration,
    fresh_at: Option<Timestamp>,
    dark: Option<String>,
    /// There has been a usable sample.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    seen: bool,
}

/// What a guard sees: blind while any of its rules is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Eyes {
    blind: Option<Blind>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Blind {
    since: Duration,
    told: Duration,
    why: String,
}

impl Sight {
    /// Takes note of a look; `spacing` is the time between the last two samples.
    pub(super) fn note(&mut self, rule: &RuleName, look: &Look, spacing: Option<Duration>, at: Timestamp, clock: &Clock, limits: &Limits) {
        let since = *self.fresh_at.get_or_insert(at);
        let gone = clock.age.saturating_sub(self.fresh);
        match look {
            Look::Unusable(why) if gone >= limits.blind_after => self.dark = Some(format!("{rule}: {why}")),
            // A sound answer without a newer sample is the time between two scrapes, until it lasts.
            Look::Old if gone >= patience(spacing, limits) => self.dark = Some(format!("{rule}: no newer sample since {since:.0}")),
            Look::Unusable(_) | Look::Old => {}
            _ => {
                self.fresh = clock.age;
                self.fresh_at = Some(at);
                self.dark = None;
                self.seen = true;
            }
        }
    }

    /// Whether there has been something usable, and has not been nothing for too long.
    pub(super) fn sees(&self) -> bool {
        self.seen && self.dark.is_none()
    }

    /// Whether there has been nothing usable for too long.
    pub(super) fn is_dark(&self) -> bool {
        self.dark.is_some()
    }

    /// Another color is looked at: it gets its own time to show something, unless the source was dark already.
    pub(super) fn restart(&mut self, at: Timestamp, clock: &Clock) {
        if self.dark.is_none() {
            self.fresh = clock.age;
            self.fresh_at = Some(at);
        }
    }
}

fn patience(spacing: Option<Duration>, limits: &Limits) -> Duration {
    let scrapes = spacing.map_or(PATIENCE, |spacing| spacing.saturating_mul(3));
    limits.blind_after.max(scrapes)
}

impl Eyes {
    /// Puts the rules together: tells when sight is lost, again while it stays lost, and when it is back.
    pub(super) fn open<'a>(
        &mut self,
        sights: impl Iterator<Item = &'a Sight>,
        at: Timestamp,
        clock: &Clock,
        policy: &Policy,
        notes: &mut Vec<Note>,
    ) {
        let dark = sights.filter(|sight| sight.dark.is_some()).min_by_key(|sight| sight.fresh);
        let Some((sight, why)) = dark.and_then(|sight| sight.dark.as_ref().map(|why| (sight, why))) else {
            if let Some(blind) = self.blind.take() {
                let after_seconds = clock.age.saturating_sub(blind.since).as_secs();
                notes.push(Note::Sighted { after_seconds });
            }
            return;
        };
        let blind = self.blind.get_or_insert_with(|| Blind {
            since: sight.fresh,
            told: Duration::MAX,
            why: String::new(),
        });
        why.clone_into(&mut blind.why);
        let first = blind.told == Duration::MAX;
        if first || clock.age.saturating_sub(blind.told) >= policy.blind_repeat {
            blind.told = clock.age;
            notes.push(Note::Blind {
                since: sight.fresh_at.unwrap_or(at),
                why: why.clone(),
            });
        }
    }

    /// What was told, was told by somebody whom nobody heard.
    pub(super) fn tell_anew(&mut self) {
        if let Some(blind) = &mut self.blind {
            blind.told = Duration::MAX;
        }
    }

    /// Why the guard is blind, while it is.
    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_ref().map(|blind| blind.why.as_str())
    }
}
