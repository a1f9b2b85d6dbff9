//! The audit journal: who did, decided or refused what, in the order it happened, so that a later change of it is noticed.
//!
//! JSON Lines in `<data_dir>/audit/audit-<first seq>.jsonl`, appended and never rewritten. Each line carries the hash of its own bytes
//! and that of the line before it, across files, so that a changed, removed, inserted or moved line breaks the chain ([`verify`]).
//! [`Journal::write`] takes an entry in microseconds; a thread of its own writes and syncs ([`JournalTask`]), so that a disk that is
//! full, slow or hangs costs entries, which are counted and said in the journal itself, and never a flip.
//!
//! What a chain cannot do: who may write to the folder can cut the end off, or write all of it anew. Against that, keep an anchor
//! elsewhere ([`Anchor`]): the number and hash of an entry, as `flipback audit verify` prints it.
//!
//! Own lines and files, though there are crates: `audit-trail` chains records in a binary format of its own without rotation, which
//! nobody could read with `jq`; the others found are copyleft, bound to a database or a young part of something else. Rotating writers
//! (`file-rotate`, `rolling-file`, `tracing-appender`) rename or drop files without a word, and a chain must say what was dropped.

mod end;
mod journal;
mod line;
mod read;
mod verify;
mod writer;

use std::{io, path::PathBuf};

pub use journal::{Journal, JournalTask};
pub use line::{Line, Note};
pub use read::{Told, entries};
pub use verify::{Anchor, Anchored, Broken, Fault, Torn, Verified, verify, verify_against};

/// The folder of the journal below the data folder.
pub const FOLDER: &str = "audit";

/// Why the journal cannot be written or is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The disk refused.
    #[error("failed to {attempted} {path:?}")]
    Disk {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// Another process writes it.
    #[error("another process writes the audit journal in {folder:?}: give each flipback a data_dir of its own")]
    Held {
        /// Where.
        folder: PathBuf,
    },
    /// There is none.
    #[error("no audit journal lies in {folder:?}")]
    Absent {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// An entry cannot be written as JSON.
    #[error("failed to write an entry of the audit journal as JSON")]
    Encode(#[source] serde_json::Error),
    /// It was changed.
    #[error("the audit journal is broken: {0}")]
    Broken(Box<Broken>),
}

/// Says what failed on what.
fn disk(attempted: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> AuditError {
    let path = path.into();
    move |source| AuditError::Disk { attempted, path, source }
}

#[cfg(test)]
mod tests;
