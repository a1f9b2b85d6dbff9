//! One rule's part of the tally: intervals, breaches, shares in calm running.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

use crate::{
    backtest::advice,
    model::{Policy, RuleSpec},
};

/// What became of one rule.
#[derive(Debug)]
pub(in crate::backtest) struct RuleTally {
    /// Verdicts of any kind.
    pub(in crate::backtest) judged: u64,
    pub(in crate::backtest) intervals: u64,
    /// Intervals that closed for lack of time, with fewer requests than are wanted.
    pub(in crate::backtest) thin: u64,
    pub(in crate::backtest) breaches: u64,
    pub(in crate::backtest) bad: f64,
    pub(in crate::backtest) total: f64,
    /// Shares of spans as long as the slow path's, while nothing was wrong.
    pub(in crate::backtest) shares: Vec<f32>,
    pub(in crate::backtest) pool: (Option<Timestamp>, f64, f64),
    /// When breaches were.
    pub(in crate::backtest) breach_at: Vec<Timestamp>,
    pub(in crate::backtest) threshold: f64,
    pub(in crate::backtest) min_requests: f64,
    pub(in crate::backtest) of: u32,
    pub(in crate::backtest) peak: Option<Peak>,
    pub(in crate::backtest) recent: VecDeque<(Timestamp, f64, f64)>,
    pub(in crate::backtest) over_since: Option<(Timestamp, String)>,
}

/// Where a streak was longest.
#[derive(Debug)]
pub(in crate::backtest) struct Peak {
    pub(in crate::backtest) streak: u32,
    pub(in crate::backtest) at: Timestamp,
    pub(in crate::backtest) why: String,
    pub(in crate::backtest) fired: bool,
}

impl RuleTally {
    /// Nothing yet.
    pub(super) fn new(rule: &RuleSpec, policy: &Policy) -> Self {
        Self {
            judged: 0,
            intervals: 0,
            thin: 0,
            breaches: 0,
            bad: 0.0,
            total: 0.0,
            shares: Vec::new(),
            pool: (None, 0.0, 0.0),
            breach_at: Vec::new(),
            threshold: advice::allowed(&rule.kind).unwrap_or(f64::INFINITY),
            min_requests: advice::min_requests(&rule.kind, policy),
            of: policy.consecutive.max(2),
            peak: None,
            recent: VecDeque::new(),
            over_since: None,
        }
    }

    /// Takes a closed interval.
    pub(super) fn close(&mut self, at: Timestamp, bad: f64, total: f64, calm: bool, policy: &Policy) {
        self.intervals += 1;
        if total < self.min_requests && bad < f64::from(policy.min_bad) {
            self.thin += 1;
        }
        self.recent.push_back((at, bad, total));
        if calm {
            self.bad += bad;
            self.total += total;
            self.pool(at, bad, total, policy.slow_window);
        } else {
            self.pool = (None, 0.0, 0.0);
        }
    }

    /// Joins intervals to spans of minutes: the share of a single one is mostly chance.
    fn pool(&mut self, at: Timestamp, bad: f64, total: f64, span: Duration) {
        let (from, bad, total) = (*self.pool.0.get_or_insert(at), self.pool.1 + bad, self.pool.2 + total);
        if at.duration_since(from).unsigned_abs() < span {
            self.pool = (Some(from), bad, total);
            return;
        }
        self.shares.push((bad / total) as f32);
        self.pool = (None, 0.0, 0.0);
    }

    /// The share that 99 % of the calm spans stay within.
    pub(in crate::backtest) fn p99(&self) -> Option<f64> {
        let mut sorted = self.shares.clone();
        sorted.sort_by(f32::total_cmp);
        let index = (sorted.len() as f64 * 0.99).ceil() as usize;
        sorted.get(index.saturating_sub(1)).map(|share| f64::from(*share))
    }
}

/// Wilson's one-sided lower bound, as the engine's slow path has it.
pub(super) fn lower(bad: f64, total: f64, z: f64) -> f64 {
    if total <= 0.0 {
        return 0.0;
    }
    let (p, z2) = ((bad / total).clamp(0.0, 1.0), z * z);
    let centre = p + z2 / (2.0 * total);
    let margin = z * (p * (1.0 - p) / total + z2 / (4.0 * total * total)).sqrt();
    ((centre - margin) / (1.0 + z2 / total)).clamp(0.0, 1.0)
}
