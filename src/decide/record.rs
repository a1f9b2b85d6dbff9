//! The record: what a guard saw lately, such that at any moment its trace gives the last verdict again, to the bit.
//!
//! It holds the engine as it stood some looks ago, and the looks since. While all is calm it moves forward every few
//! looks, so that it stays small; once a streak begins it stays, so that the record of a decision begins before the
//! badness. A history is never needed: the state within the trace stands for it, after a restart too.
//!
//! Looks are kept as lines, a tenth of an observation's memory; the engine as it is, half of its text's. A calm guard of
//! three pods and four rules holds about 6 KB of lines and as much as its engine besides; one that breaches for hours
//! never much more than [`BYTES_MAX`] of lines.

use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Color, Decision, GuardSpec, Observation, Verdict, View};

use super::{Engine, trace::Writer};

/// Looks after which a calm record moves forward.
const CALM_LOOKS: usize = 12;
/// Looks after which any record moves forward: an hour of the default poll.
const LOOKS_MAX: usize = 720;
/// Bytes after which any record moves forward.
const BYTES_MAX: usize = 128 * 1024;

/// What a guard saw lately.
#[derive(Debug)]
pub struct Recorder {
    spec: Arc<GuardSpec>,
    /// The engine before the first line; `None` before there is one.
    state: Option<Engine>,
    writer: Writer,
    /// Which colors served and stood by at the first line.
    positions: Option<(Color, Color)>,
    lines: String,
    looks: usize,
    /// Whether nothing was going on at the last look.
    calm: bool,
}

impl Recorder {
    /// Has seen nothing.
    #[must_use]
    pub fn new(spec: Arc<GuardSpec>) -> Self {
        Self {
            spec,
            state: None,
            writer: Writer::default(),
            positions: None,
            lines: String::new(),
            looks: 0,
            calm: true,
        }
    }

    /// Keeps an observation that `engine` is about to judge.
    pub fn look(&mut self, engine: &Engine, seen: &Observation) {
        let due = (self.calm && self.looks >= CALM_LOOKS) || self.looks >= LOOKS_MAX || self.lines.len() >= BYTES_MAX;
        if self.state.is_none() || due {
            self.begin(engine, seen.at);
        }
        if let (None, View::Known(traffic)) = (&self.positions, &seen.view) {
            self.positions = Some((traffic.active.clone(), traffic.standby.clone()));
        }
        self.lines.push_str(&self.writer.look(&self.spec, seen));
        self.lines.push('\n');
        self.looks += 1;
    }

    /// Bytes of the lines it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// Learns what was decided on it.
    pub fn decided(&mut self, decision: &Decision) {
        self.calm = decision.verdict == Verdict::Hold && decision.rules.iter().all(|rule| rule.streak == 0);
    }

    /// The trace of the looks so far, whose last look is the last one kept; `None` before the first.
    #[must_use]
    pub fn trace(&self) -> Option<String> {
        let state = Writer::state(self.state.as_ref()?);
        let positions = self.positions.as_ref().map(|(active, standby)| (active, standby));
        let mut trace = self.writer.header(&self.spec, positions, &state);
        trace.push('\n');
        trace.push_str(&self.lines);
        Some(trace)
    }

    /// Forgets the looks so far: from here on the engine's state stands for them.
    fn begin(&mut self, engine: &Engine, now: Timestamp) {
        self.state = Some(engine.clone());
        self.writer = Writer::new(engine.switched_at().unwrap_or(now));
        self.positions = None;
        self.lines.clear();
        // A storm is over: its room is given back.
        self.lines.shrink_to(BYTES_MAX / 8);
        self.looks = 0;
    }
}
