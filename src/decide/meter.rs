//! One rule on one color: readings in, evidence out. Every color is metered alike, the standby too: it may become
//! active, and it tells a bad release from a bad day of the whole fleet.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Reading, RuleKind};

use super::{
    bound::Share,
    counters::{Counters, Taken},
    limits::Limits,
    number::{Number, Numbers},
    standby::Probed,
    window::{Piece, Window},
};

/// What a reading is worth.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing, and why.
    Unusable(String),
    /// No newer than the last one.
    Old,
    /// Something to count from, at this time.
    Baseline(Timestamp),
    /// Requests.
    Pieces { at: Timestamp, pieces: Vec<Piece> },
    /// One number.
    Number { at: Timestamp, number: Number },
    /// Probes, with a sentence on the first failure.
    Probes {
        at: Timestamp,
        share: Share,
        detail: Option<String>,
    },
    /// Ready endpoints.
    Ready { at: Timestamp, ready: u32 },
}

impl Look {
    /// The time of the sample, where there was a new one.
    pub(super) fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Unusable(_) | Self::Old => None,
            Self::Baseline(at) | Self::Pieces { at, .. } | Self::Number { at, .. } | Self::Probes { at, .. } | Self::Ready { at, .. } => {
                Some(*at)
            }
        }
    }
}

/// The evidence of one rule on one color.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meter {
    counters: Counters,
    last: Option<Timestamp>,
    pub(super) window: Window,
    #[serde(default)]
    pub(super) numbers: Numbers,
    /// What a probe rule last measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) probed: Option<Probed>,
    /// The number that this look shows, newer or not: what the active color's is compared with.
    #[serde(skip)]
    pub(super) shown: Option<Number>,
}

impl Meter {
    /// Takes a reading; a missing one is unusable.
    pub(super) fn look(&mut self, kind: &RuleKind, reading: Option<&Reading>, limits: &Limits) -> Look {
        self.shown = None;
        match (kind, reading) {
            (_, None) => Look::Unusable("nothing was measured".into()),
            (_, Some(Reading::Absent(why))) => Look::Unusable(why.to_string()),
            (RuleKind::ErrorRate(_) | RuleKind::Availability(_) | RuleKind::Latency(_), Some(Reading::Counters { sample_at, targets }))
                if !limits.numbers() =>
            {
                let taken = self.counters.take(*sample_at, targets);
                self.counted(*sample_at, taken, limits)
            }
            (
                _,
                Some(Reading::Scalar {
                    sample_at,
                    value,
                    long,
                    before,
                    requests,
                }),
            ) if limits.numbers() => {
                let known = |number: &Option<f64>| number.filter(|number| number.is_finite());
                let number = Number {
                    value: *value,
                    long: known(long),
                    before: known(before),
                    requests: *requests,
                };
                self.numbered(*sample_at, number, kind, limits)
            }
            (
                RuleKind::Probe(rule),
                Some(Reading::Probes {
                    sample_at,
                    asked,
                    failed,
                    detail,
                }),
            ) => {
                let look = self.probed(*sample_at, *asked, *failed, detail.clone(), limits);
                if let Look::Probes { at, share, detail } = &look {
                    let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                    self.probed = Some(Probed {
                        at: *at,
                        failing: share.over(limits.threshold),
                        why: format!("{failed} of {asked} probes of {} failed{detail}", rule.path),
                    });
                }
                look
            }
            (RuleKind::Endpoints(_), Some(Reading::Ready { sample_at, ready })) => {
                if self.newer(*sample_at) {
                    Look::Ready {
                        at: *sample_at,
                        ready: *ready,
                    }
                } else {
                    Look::Old
                }
            }
            (_, Some(_)) => Look::Unusable("a reading of another kind".into()),
        }
    }

    /// The time between the last two samples, where known.
    pub(super) fn spacing(&self) -> Option<Duration> {
        self.counters.spacing()
    }

    /// After a clock step: the next sample is a baseline, and "the last minutes" begin anew.
    pub(super) fn rebase(&mut self) {
        self.counters.rebase();
        self.last = None;
        self.window.clear();
        self.numbers.clear();
        self.probed = None;
    }

    fn counted(&mut self, at: Timestamp, taken: Taken, limits: &Limits) -> Look {
        match taken {
            Taken::Old => Look::Old,
            Taken::Baseline => Look::Baseline(at),
            Taken::Unusable(why) => Look::Unusable(why.into()),
            Taken::Pieces(pieces) => {
                for piece in &pieces {
                    self.window.push(*piece, limits.past);
                }
                Look::Pieces { at, pieces }
            }
        }
    }

    fn numbered(&mut self, at: Timestamp, number: Number, kind: &RuleKind, limits: &Limits) -> Look {
        if let Some(why) = nonsense(&number, kind) {
            return Look::Unusable(why.into());
        }
        self.shown = Some(number);
        if !self.newer(at) {
            return Look::Old;
        }
        self.numbers.push(at, number.value, limits.slow_window);
        Look::Number { at, number }
    }

    fn probed(&mut self, at: Timestamp, asked: u32, failed: u32, detail: Option<String>, limits: &Limits) -> Look {
        if asked == 0 {
            return Look::Unusable("there was no endpoint to probe".into());
        }
        if failed > asked {
            return Look::Unusable("more failed probes than probes".into());
        }
        if !self.newer(at) {
            return Look::Old;
        }
        let share = Share {
            bad: f64::from(failed),
            total: f64::from(asked),
        };
        self.window.push(Piece { from: at, to: at, share }, limits.past);
        Look::Probes { at, share, detail }
    }

    fn newer(&mut self, at: Timestamp) -> bool {
        let newer = self.last.is_none_or(|last| at > last);
        if newer {
            self.last = Some(at);
        }
        newer
    }
}

/// Why a number cannot be right. Below zero is wrong of a share or a time, and right of a temperature.
fn nonsense(number: &Number, kind: &RuleKind) -> Option<&'static str> {
    let numbers = [Some(number.value), number.requests];
    let any = |test: fn(f64) -> bool| numbers.iter().flatten().any(|number| test(*number));
    let share = matches!(kind, RuleKind::ErrorRate(_) | RuleKind::Availability(_));
    let signed = kind.scalar().is_some();
    if any(f64::is_nan) {
        Some("the answer is not a number (0/0)")
    } else if any(f64::is_infinite) {
        Some("the answer is infinite")
    } else if number.requests.is_some_and(|requests| requests < 0.0) || (!signed && number.value < 0.0) {
        Some("the answer is negative")
    } else if share && number.value > 1.0 + 1e-9 {
        Some("more bad requests than requests")
    } else {
        None
    }
}
