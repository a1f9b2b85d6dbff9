//! The last minutes of evidence of one rule on one color: what the slow path, the color before the switch and the
//! standby color are judged on.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{bound::Share, clock::before};

/// Pieces remembered: five minutes at a scrape per second, with room for stragglers.
const PIECES_MAX: usize = 1024;

/// Requests counted between two samples; each request is in one piece only.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) share: Share,
}

/// Pieces of the last minutes, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    pieces: VecDeque<Piece>,
}

impl Window {
    /// Takes a piece and drops what is older than `span`.
    pub(super) fn push(&mut self, piece: Piece, span: Duration) {
        let oldest = before(piece.to, span);
        self.pieces.retain(|known| known.to > oldest && known.to <= piece.to);
        while self.pieces.len() >= PIECES_MAX {
            self.pieces.pop_front();
        }
        self.pieces.push_back(piece);
    }

    /// Everything that started at `from` or later. A piece that starts earlier may hold what happened earlier.
    pub(super) fn since(&self, from: Timestamp) -> Share {
        self.pieces
            .iter()
            .filter(|piece| piece.from >= from)
            .fold(Share::default(), |sum, piece| sum.plus(piece.share))
    }

    /// Forgets everything: after a clock step, "the last minutes" mean nothing.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: i64, to: i64, bad: f64) -> Piece {
        let at = |s| Timestamp::from_second(s).expect("in range");
        Piece {
            from: at(from),
            to: at(to),
            share: Share { bad, total: 10.0 },
        }
    }

    #[test]
    fn only_the_span_is_kept() {
        let mut window = Window::default();
        for n in 0..100 {
            window.push(piece(n * 5, n * 5 + 5, 1.0), Duration::from_secs(60));
        }
        assert_eq!(window.pieces.len(), 12);
        assert!(window.since(Timestamp::from_second(480).expect("in range")).bad < 4.5);
    }

    #[test]
    fn what_started_before_is_not_counted() {
        let mut window = Window::default();
        window.push(piece(0, 10, 9.0), Duration::from_secs(60));
        window.push(piece(10, 20, 1.0), Duration::from_secs(60));
        assert_eq!(
            window.since(Timestamp::from_second(5).expect("in range")),
            Share { bad: 1.0, total: 10.0 }
        );
    }
}
