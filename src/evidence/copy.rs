//! A second place for bundles: an object store, or another folder. Best kept where the cluster that fails cannot take it along.
//!
//! Principles:
//! - Only a whole bundle is copied, file by file, to `<url>/<incident>/`, each with its content type: `report.html` opens in
//!   a browser from there. `MANIFEST.sha256` comes last: a copy without it, or whose hashes do not hold, is not complete.
//! - What is to be copied is read from the disk, never only remembered, and every file that the store took is noted beside the bundle
//!   ([`journal`]): `kill -9` costs at most one file's upload.
//! - Nothing waits for a copy: the task runs by itself, one bundle at a time, newest first. A store that is down is asked
//!   again with a growing, jittered, capped delay; a bundle that is refused goes to the end of the queue.
//! - Memory is bounded: a few parts of a few MiB, whatever a log's size. Every request has a deadline.
//! - Credentials are read again for every bundle; none is ever printed ([`store`]).
//! - Nothing is ever deleted there: that is the store's own lifecycle rules' to do.

use std::path::Path;

use super::{
    disk::{EvidenceError, MANIFEST},
    stock::Found,
};
use crate::model::settings::{CopySettings, SecretError};

mod journal;
mod queue;
mod store;
mod upload;

pub use queue::Copier;
use store::{Options, Store};
use upload::Round;

/// Why a bundle is not copied. Never carries a secret, nor what a store answered in full.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The URL is of no known kind.
    #[error("cannot copy evidence to {0}: expected s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder")]
    Url(String),
    /// The store knows no such option.
    #[error("{store} knows no option {option:?} for copies of evidence")]
    Option {
        /// Its name.
        option: String,
        /// The kind of store.
        store: &'static str,
    },
    /// An option's secret cannot be read.
    #[error("failed to read the option {option:?} for copies of evidence")]
    Secret {
        /// Its name.
        option: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The store cannot be used as it is set up.
    #[error("cannot copy evidence to {place}: {why}")]
    Settings {
        /// Where to.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The store did not take a file.
    #[error("failed to copy {file:?} to {place}: {why}")]
    Store {
        /// Which file of the bundle.
        file: String,
        /// Where to.
        place: String,
        /// What went wrong.
        why: String,
    },
    /// A file is not what the list of the bundle says.
    #[error("{file:?} of {incident} is not what {MANIFEST} says: `flipback evidence verify {incident}` tells more")]
    Unsound {
        /// Which bundle.
        incident: String,
        /// Which file.
        file: String,
    },
    /// The bundle got a new version meanwhile, which is copied next.
    #[error("{0} changed while it was copied")]
    Changed(String),
    /// Somebody else copies it at this moment.
    #[error("{0} is being copied by another process")]
    Busy(String),
    /// The bundle cannot be read.
    #[error("failed to read what is to be copied")]
    Bundle(#[source] EvidenceError),
}

impl CopyError {
    /// Whether the next bundle will fare the same.
    fn is_of_store(&self) -> bool {
        !matches!(self, Self::Unsound { .. } | Self::Changed(_) | Self::Busy(_) | Self::Bundle(_))
    }
}

/// Names a copy's place without what may be secret: its URL without a password and without parameters.
#[must_use]
pub fn place(settings: &CopySettings) -> String {
    let mut url = settings.url.clone();
    // Neither fails on a URL with a host; one without has neither.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether a place (as [`place`] names it) holds all of a bundle as it is now.
#[must_use]
pub fn is_copied(folder: &Path, place: &str) -> bool {
    copied_to(folder).as_deref() == Some(place)
}

/// The place, as [`place`] names it, that holds all of a bundle as it is now.
#[must_use]
pub fn copied_to(folder: &Path) -> Option<String> {
    journal::copied_to(folder)
}

/// Checks what can be checked without a request: the URL, the options' names, that secrets can be read.
///
/// # Errors
/// [`CopyError`] with the first thing that is wrong.
pub fn check(settings: &CopySettings) -> Result<(), CopyError> {
    Store::open(settings, &Options::read(settings)?).map(|_| ())
}

/// What a copy took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files sent.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the store had already.
    pub had: usize,
}

/// Copies one bundle now; with `again` everything, whatever was noted of earlier copies.
///
/// # Errors
/// [`CopyError`] with the first file that failed; what the store took until then is not sent again.
pub async fn copy(found: &Found, settings: &CopySettings, again: bool) -> Result<Copied, CopyError> {
    let mut round = Round::default();
    match round.copy(found, settings, again).await {
        // Rare, and rarer twice.
        Err(CopyError::Changed(_)) => round.copy(found, settings, false).await,
        copied => copied,
    }
}

#[cfg(test)]
mod tests;
