//! Traces: a guard's history as JSON Lines, so that a judgement can be made again, by anybody, to the same bit.
//!
//! Line 1 is the header (what is judged, and where the judgement stands), each further line one look. A trace is
//! written by a person, by a tool, or by flipback itself as the record of a decision; all of them are judged by the one
//! engine. `docs/trace-format.md` has every key.
//!
//! It refuses to guess: an unknown key, a word that is none, a number that cannot be are errors that name their line,
//! their place and what is allowed, since a misspelt knob that silently were a default would prove the wrong thing. It
//! does no IO: lines come in ([`Reader::line`]) and go out ([`Writer`]); whoever has a file feeds it line by line, and a
//! trace may be longer than memory.
//!
//! Reading order: [`node`] (one line as a tree with places), [`header`] with [`rules`] and [`policy`], and [`poll`] (trees to nouns), [`write`] (nouns
//! to lines, exactly), [`verdict`] (a decision as a line).

mod error;
mod header;
mod node;
mod policy;
mod poll;
mod rules;
mod verdict;
mod write;

#[cfg(test)]
mod tests;

pub use error::{Fault, TraceError};
pub use header::Header;
pub use verdict::{Exit, verdict};
pub(super) use write::Writer;

use jiff::Timestamp;

use crate::model::{Observation, Traffic};

/// The version of the format, in the header's `flipback_trace`.
pub const TRACE_VERSION: u32 = 1;
/// Bytes of a look: fifteen thousand targets.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a header, which may carry the state of an engine that measured every second.
pub const HEADER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads a trace line by line, in constant memory.
#[derive(Debug, Default)]
pub struct Reader {
    line: usize,
    read: Option<(Header, Traffic)>,
}

impl Reader {
    /// Has read nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next line, with or without its end; gives the look it holds. The header and blank lines hold none.
    ///
    /// # Errors
    /// [`TraceError`] names the line, the place in it and what is allowed there.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Observation>, TraceError> {
        self.line = self.line.saturating_add(1);
        let taken = self.take(line);
        taken.map_err(|fault| TraceError { line: self.line, fault })
    }

    /// What the first line said, once it was read.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.read.as_ref().map(|(header, _)| header)
    }

    /// The header, when all lines are in.
    ///
    /// # Errors
    /// [`TraceError`] where there was none.
    pub fn finish(&self) -> Result<&Header, TraceError> {
        self.header().ok_or(TraceError {
            line: self.line.max(1),
            fault: Fault::Empty,
        })
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Observation>, Fault> {
        let max = if self.read.is_some() { LINE_BYTES_MAX } else { HEADER_BYTES_MAX };
        if line.len() > max {
            return Err(Fault::TooLong { max });
        }
        let text = std::str::from_utf8(line).map_err(|error| Fault::NotText { at: error.valid_up_to() })?;
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Ok(None);
        }
        let node = node::parse(text)?;
        match &mut self.read {
            None => {
                let header = header::read(&node)?;
                let traffic = header.traffic();
                self.read = Some((header, traffic));
                Ok(None)
            }
            Some((header, traffic)) => poll::read(&node, header, traffic).map(Some),
        }
    }
}

/// Reads a whole trace that lies in memory.
///
/// # Errors
/// [`TraceError`] names the line, the place in it and what is allowed there.
pub fn read(trace: &[u8]) -> Result<(Header, Vec<Observation>), TraceError> {
    let mut reader = Reader::new();
    let mut looks = Vec::new();
    for line in trace.split(|byte| *byte == b'\n') {
        looks.extend(reader.line(line)?);
    }
    reader.finish()?;
    let header = reader.read.map(|(header, _)| header);
    Ok((header.expect("a finished trace has its header"), looks))
}

/// A time as seconds from the switch, as far as they are exact; `None` for what must be written as a date.
fn seconds(at: Timestamp, epoch: Timestamp) -> Option<f64> {
    let nanos = at.as_nanosecond() - epoch.as_nanosecond();
    let micros = i64::try_from(nanos / 1000).ok().filter(|_| nanos % 1000 == 0)?;
    // A microsecond within thirty years of the switch has a decimal of its own among the f64.
    (micros.unsigned_abs() <= SECONDS_MAX * 1_000_000).then(|| micros as f64 / 1e6)
}

/// The farthest a time may be from the switch, as a number: thirty years.
const SECONDS_MAX: u64 = 1_000_000_000;
