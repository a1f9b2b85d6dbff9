//! One line: an entry, its number, and the two hashes.
//!
//! The hash is that of the line's own bytes up to the hash, closed by a brace. Bytes, not values: nobody has to agree on how JSON is
//! written to check it, and no byte of a line is left out.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::AuditError;
use crate::model::AuditEntry;

/// What stands before the first line.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Bytes of a line, at most: entries are clipped far below that, so that a longer line is not ours.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

const HASH_KEY: &[u8] = br#","hash":""#;
const END: &[u8] = br#""}"#;
/// Letters of a hash.
const HASH_CHARS: usize = 64;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// Its number, from 1.
    pub seq: u64,
    /// Who, what, when, why.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// Set where the journal speaks of itself.
    #[serde(default)]
    pub journal: Option<Note>,
    /// The hash of the line before it.
    pub prev: String,
    /// The hash of its own bytes.
    pub hash: String,
}

/// What the journal says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Note {
    /// Entries were lost, since the disk did not keep up.
    Lost {
        /// How many.
        entries: u64,
    },
    /// An unfinished line was found at the end of the journal, and cut off.
    Torn {
        /// Its bytes.
        bytes: u64,
        /// Their hash.
        sha256: String,
    },
    /// An old file was removed to make room.
    Pruned {
        /// Its name.
        file: String,
        /// The number of its last line.
        through: u64,
        /// The hash of its last line.
        hash: String,
    },
}

/// Why bytes are no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsound {
    /// They have not the form of one.
    Garbled(String),
    /// They are not those that the hash was made of.
    Changed { expected: String, found: String },
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    #[serde(flatten)]
    entry: &'a AuditEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<&'a Note>,
    prev: &'a str,
}

/// Writes a line with its end, and says its hash.
pub(super) fn encode(seq: u64, entry: &AuditEntry, journal: Option<&Note>, prev: &str) -> Result<(Vec<u8>, String), AuditError> {
    let body = Body { seq, entry, journal, prev };
    let mut line = serde_json::to_vec(&body).map_err(AuditError::Encode)?;
    let hash = hex(&Sha256::digest(&line));
    line.pop();
    line.extend_from_slice(HASH_KEY);
    line.extend_from_slice(hash.as_bytes());
    line.extend_from_slice(END);
    line.push(b'\n');
    Ok((line, hash))
}

/// Reads a line, given without its end.
pub(super) fn decode(bytes: &[u8]) -> Result<Line, Unsound> {
    let garbled = |what: &str| Unsound::Garbled(what.to_owned());
    let body = bytes
        .strip_suffix(END)
        .ok_or_else(|| garbled("a line that does not end in its hash"))?;
    let (body, found) = body
        .split_at_checked(body.len().saturating_sub(HASH_CHARS))
        .ok_or_else(|| garbled("a line that is too short"))?;
    let body = body
        .strip_suffix(HASH_KEY)
        .ok_or_else(|| garbled("a line that does not end in its hash"))?;
    let expected = hex(&Sha256::new().chain_update(body).chain_update(b"}").finalize());
    if expected.as_bytes() != found {
        let found = String::from_utf8_lossy(found).into_owned();
        return Err(Unsound::Changed { expected, found });
    }
    serde_json::from_slice(bytes).map_err(|error| Unsound::Garbled(format!("a line that is none of flipback's: {error}")))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |four: u8| DIGITS.get(usize::from(four)).copied().unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
