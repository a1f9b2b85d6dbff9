//! What is wrong with a trace: the line, the place in it, what was found, what is allowed.

use std::fmt;

use super::{HEADER_BYTES_MAX, TRACE_VERSION};

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct TraceError {
    /// Which line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is nothing but blank lines.
    #[error("the trace is empty; line 1 is a header such as {{\"flipback_trace\":{TRACE_VERSION},\"rules\":[...]}}")]
    Empty,
    /// A line longer than any look.
    #[error("the line is longer than {max} bytes{}", header_hint(*max))]
    TooLong {
        /// Bytes a line may have.
        max: usize,
    },
    /// Bytes that are no text.
    #[error("not UTF-8 after byte {at}")]
    NotText {
        /// How many bytes are.
        at: usize,
    },
    /// Text that is no JSON object.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// A version of the format that this flipback does not read.
    #[error("flipback_trace is {found}, and this flipback reads version {TRACE_VERSION}: read it with the flipback that wrote it")]
    Version {
        /// What is there.
        found: String,
    },
    /// A key that means nothing.
    #[error("unknown key {key:?}{}; allowed: {allowed}{}", within(place), hinted(.hint.as_deref()))]
    Unknown {
        /// Where it was found; empty for the line itself.
        place: String,
        /// The key.
        key: String,
        /// Keys that mean something.
        allowed: String,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// A key that is not there.
    #[error("{place} is missing: {allowed}")]
    Missing {
        /// Where it belongs.
        place: String,
        /// What belongs there.
        allowed: String,
    },
    /// A value that cannot be.
    #[error("{place} is {found}; allowed: {allowed}{}", hinted(.hint.as_deref()))]
    Wrong {
        /// Where it was found.
        place: String,
        /// What was found.
        found: String,
        /// What is allowed.
        allowed: String,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// A state that is none of this version's.
    #[error("state cannot be read back by flipback {}{}: {why}", env!("CARGO_PKG_VERSION"), written_by(.by.as_deref()))]
    State {
        /// The version that wrote it, where the trace tells.
        by: Option<String>,
        /// Where it stops making sense.
        why: String,
    },
}

fn within(place: &str) -> impl fmt::Display {
    if place.is_empty() { String::new() } else { format!(" in {place}") }
}

fn hinted(hint: Option<&str>) -> impl fmt::Display {
    hint.map_or_else(String::new, |hint| format!(" ({hint})"))
}

fn written_by(by: Option<&str>) -> impl fmt::Display {
    by.map_or_else(String::new, |by| format!(" (flipback {by} wrote it)"))
}

fn header_hint(max: usize) -> &'static str {
    if max == HEADER_BYTES_MAX {
        ", more than any header has"
    } else {
        ""
    }
}

impl Fault {
    /// A value that cannot be.
    pub(super) fn wrong(place: &str, found: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Wrong {
            place: place.to_owned(),
            found: found.into(),
            allowed: allowed.into(),
            hint: None,
        }
    }

    /// The same with what may have been meant.
    pub(super) fn hint(mut self, meant: Option<String>) -> Self {
        if let Self::Wrong { hint, .. } | Self::Unknown { hint, .. } = &mut self {
            *hint = meant;
        }
        self
    }
}
