//! Intervals: evidence in portions that are each worth a verdict. Disjoint, so that one event is never counted twice,
//! however often one looks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{bound::Share, clock::elapsed, limits::Limits, window::Piece};

/// Evidence that is still collecting.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Interval {
    from: Option<Timestamp>,
    /// Evidence of the warm-up: only the severe path may look at it.
    early: bool,
    pub(super) share: Share,
    #[serde(default)]
    pieces: Vec<Piece>,
}

/// Evidence that is worth a verdict.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Closed {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) early: bool,
    pub(super) share: Share,
    /// What it is made of, as targets were scraped at different times.
    pub(super) pieces: Vec<Piece>,
}

impl Closed {
    /// The part of the evidence that began at `from` or later.
    pub(super) fn since(&self, from: Timestamp) -> Share {
        let late = self.pieces.iter().filter(|piece| piece.from >= from);
        late.fold(Share::default(), |sum, piece| sum.plus(piece.share))
    }
}

impl Interval {
    /// Adds the pieces of one sample (the newest started at `from`) and closes if it is enough or late enough.
    pub(super) fn add(&mut self, pieces: &[Piece], early: bool, limits: &Limits) -> Option<Closed> {
        if self.early != early {
            *self = Self::default();
            self.early = early;
        }
        let newest = pieces.last()?;
        let from = *self.from.get_or_insert(newest.from);
        self.share = pieces.iter().fold(self.share, |sum, piece| sum.plus(piece.share));
        self.pieces.extend(pieces.iter().filter(|piece| piece.share.total > 0.0));
        let enough = self.share.bad >= limits.min_bad || self.share.total >= limits.min_requests;
        if !enough && elapsed(newest.to, from) < limits.stretch {
            return None;
        }
        let Self { share, pieces, .. } = std::mem::take(self);
        Some(Closed {
            from,
            to: newest.to,
            early,
            share,
            pieces,
        })
    }

    /// When it began.
    pub(super) fn from(&self) -> Option<Timestamp> {
        self.from
    }
}
