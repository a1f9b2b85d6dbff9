//! The last minutes of evidence of one rule on one color: what the slow path, the color before the switch, the standby
//! color and a rule's two windows are judged on.
//!
//! The newest minutes are kept piece by piece. What is older is only asked for by long windows, and is merged into
//! coarser pieces: an hour at one scrape per second would be 170 KB, for every rule, on every color, of every guard.
//! Merging forgets no request; it only makes the old edge of a long window blunt, by less than a hundredth of it.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    bound::Share,
    clock::{before, elapsed},
    tape::Tape,
};

/// Pieces kept as they are: five minutes at a scrape per second, with room for stragglers.
const PIECES_MAX: usize = 1024;
/// Merged pieces kept: twice a long window's grains, for two neighbours may miss being merged by little.
const MERGED_MAX: usize = 512;
/// A merged piece spans at most this part of what is kept.
const GRAINS: u32 = 120;

/// Requests counted between two samples; each request is in one piece only.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) share: Share,
}

impl Piece {
    fn with(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
            share: self.share.plus(other.share),
        }
    }
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// Piece by piece.
    pub(super) fine: Duration,
    /// At all; at least as long.
    pub(super) whole: Duration,
}

/// Pieces of the last minutes, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    merged: VecDeque<Piece>,
    pieces: Tape<Piece>,
}

impl Window {
    /// Takes a piece, merges what has aged and drops what is older than is kept.
    pub(super) fn push(&mut self, piece: Piece, past: Past) {
        let oldest = before(piece.to, past.whole);
        // Both are in the order of when they ended.
        self.pieces.trim(|known| known.to <= oldest, |known| known.to > piece.to);
        self.merged.retain(|known| known.to > oldest && known.to <= piece.to);
        if self.pieces.back().is_some_and(|known| known.to < piece.to) {
            self.pieces.settle();
        }
        // Targets are scraped at different times; those within a second are taken together, so that many stay few.
        let second = |piece: &Piece| piece.from.as_second();
        let of_this_look = |known: &&mut Piece| known.to == piece.to;
        let same = self
            .pieces
            .newest_mut()
            .take_while(of_this_look)
            .find(|known| second(known) == second(&piece));
        match same {
            Some(known) => *known = known.with(piece),
            None => self.pieces.push_back(piece),
        }
        let fine = before(piece.to, past.fine);
        while let Some(front) = self.pieces.front() {
            let grain = match (front.to <= fine, self.pieces.len() > PIECES_MAX) {
                (true, _) => past.whole / GRAINS,
                (false, true) => past.fine / GRAINS,
                (false, false) => break,
            };
            if let Some(aged) = self.pieces.pop_front() {
                self.merge(aged, grain);
            }
        }
    }

    fn merge(&mut self, aged: Piece, grain: Duration) {
        if let Some(last) = self.merged.back_mut() {
            let both = last.with(aged);
            if elapsed(both.to, both.from) <= grain {
                *last = both;
                return;
            }
        }
        if self.merged.len() == MERGED_MAX {
            self.merged.pop_front();
        }
        self.merged.push_back(aged);
    }

    /// Everything that started at `from` or later. A piece that starts earlier may hold what happened earlier.
    pub(super) fn since(&self, from: Timestamp) -> Share {
        self.merged
            .iter()
            .chain(self.pieces.iter())
            .filter(|piece| piece.from >= from)
            .fold(Share::default(), |sum, piece| sum.plus(piece.share))
    }

    /// Everything between two times, and the time that it spans: what started at `from` or later and ended by `until`.
    pub(super) fn between(&self, from: Timestamp, until: Timestamp) -> (Share, Duration) {
        let within = |piece: &&Piece| piece.from >= from && piece.to > from && piece.to <= until;
        let known: Vec<&Piece> = self.merged.iter().chain(self.pieces.iter()).filter(within).collect();
        let share = known.iter().fold(Share::default(), |sum, piece| sum.plus(piece.share));
        (share, span(&known))
    }

    /// When the newest piece ended that lies between two times and was over a threshold.
    pub(super) fn last_over(&self, threshold: f64, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let over = |piece: &&Piece| piece.from >= from && piece.to <= until && piece.share.over(threshold);
        let known = self.merged.iter().chain(self.pieces.iter()).filter(over);
        known.map(|piece| piece.to).max()
    }

    /// When the newest piece ended that ended by then.
    pub(super) fn newest(&self, until: Timestamp) -> Option<Timestamp> {
        self.pieces.iter().map(|piece| piece.to).filter(|to| *to <= until).max()
    }

    /// Of what started at `from` or later: for how long the fraction was over a threshold, whether it was at most looks, and the time that
    /// all of it spans.
    pub(super) fn time_over(&self, from: Timestamp, threshold: f64) -> (Duration, bool, Duration) {
        let pieces: Vec<&Piece> = self
            .merged
            .iter()
            .chain(self.pieces.iter())
            .filter(|piece| piece.from >= from)
            .collect();
        // Several targets of one look end together.
        let looks = pieces.chunk_by(|one, next| one.to == next.to);
        let share = |look: &[&Piece]| look.iter().fold(Share::default(), |sum, piece| sum.plus(piece.share));
        let (over, under): (Vec<&[&Piece]>, Vec<&[&Piece]>) = looks.partition(|look| share(look).over(threshold));
        let bad = over.iter().map(|look| span(look)).sum();
        (bad, over.len() > under.len(), span(&pieces))
    }

    /// Forgets everything: after a clock step, "the last minutes" mean nothing.
    pub(super) fn clear(&mut self) {
        self.merged.clear();
        self.pieces.clear();
    }
}

/// The time from the first begin to the last end.
fn span(pieces: &[&Piece]) -> Duration {
    let ends = (
        pieces.iter().map(|piece| piece.from).min(),
        pieces.iter().map(|piece| piece.to).max(),
    );
    match ends {
        (Some(first), Some(last)) => elapsed(last, first),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    fn piece(from: i64, to: i64, bad: f64) -> Piece {
        Piece {
            from: at(from),
            to: at(to),
            share: Share { bad, total: 10.0 },
        }
    }

    fn past(fine: u64, whole: u64) -> Past {
        Past {
            fine: Duration::from_secs(fine),
            whole: Duration::from_secs(whole),
        }
    }

    #[test]
    fn only_the_span_is_kept() {
        let mut window = Window::default();
        for n in 0..100 {
            window.push(piece(n * 5, n * 5 + 5, 1.0), past(60, 60));
        }
        assert_eq!((window.pieces.len(), window.merged.len()), (12, 0));
        assert!(window.since(at(480)).bad < 4.5);
    }

    #[test]
    fn what_started_before_is_not_counted() {
        let mut window = Window::default();
        window.push(piece(0, 10, 9.0), past(60, 60));
        window.push(piece(10, 20, 1.0), past(60, 60));
        assert_eq!(window.since(at(5)), Share { bad: 1.0, total: 10.0 });
    }

    #[test]
    fn an_hour_at_a_scrape_per_second_is_kept_in_few_pieces_and_counts_every_request() {
        let mut window = Window::default();
        for n in 0..10_000 {
            window.push(piece(n, n + 1, 1.0), past(300, 3600));
        }
        assert_eq!(window.pieces.len(), 300);
        assert!(window.merged.len() <= 125, "{}", window.merged.len());
        let (hour, minutes) = (window.since(at(10_000 - 3600)).bad, window.since(at(10_000 - 300)).bad);
        assert!((minutes - 300.0).abs() < 0.5, "{minutes}");
        // Never more than there was, and at most one grain (30 s) less.
        assert!((3569.5..=3600.5).contains(&hour), "{hour}");
    }

    #[test]
    fn scrapes_faster_than_the_bound_are_merged_and_not_dropped() {
        let mut window = Window::default();
        for n in 0..3000_i64 {
            let tenth = |n: i64| Timestamp::from_millisecond(n * 100).expect("in range");
            let piece = Piece {
                from: tenth(n),
                to: tenth(n + 1),
                share: Share { bad: 1.0, total: 10.0 },
            };
            window.push(piece, past(300, 300));
        }
        assert!(window.pieces.len() <= PIECES_MAX);
        let all = window.since(at(0)).bad;
        assert!((all - 3000.0).abs() < 0.5, "{all}");
    }
}
