//! The audit record: who wrote what, when. The sandbox's independent witness, kept apart from the objects.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde_json::Value;

/// Writes remembered: a demo makes dozens.
const ENTRIES_MAX: usize = 4096;

/// One request that would change something.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// When it was answered.
    pub at: Timestamp,
    /// Who asked.
    pub user: String,
    /// Under which field manager.
    pub manager: String,
    /// `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// Plural of the kind.
    pub resource: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object; empty for one that was never named.
    pub name: String,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
    /// HTTP code of the answer.
    pub code: u16,
    /// What was sent.
    pub body: Value,
}

/// The newest writes, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Audit(VecDeque<AuditEntry>);

impl Audit {
    pub(crate) fn record(&mut self, entry: AuditEntry) {
        while self.0.len() >= ENTRIES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    pub(crate) fn entries(&self) -> Vec<AuditEntry> {
        self.0.iter().cloned().collect()
    }
}
