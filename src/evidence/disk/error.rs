//! Why evidence cannot be kept or read, and what a person can do about it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::model::incident::INCIDENT_SCHEMA;

/// Why evidence cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The disk refused.
    #[error("failed to {attempted} {path:?} ({})", remedy(.source))]
    Disk {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// The disk is full, and stays so.
    #[error(
        "failed to {attempted} {path:?} (the disk is full, {regained} bytes of older evidence were given up in vain: free space on it or give the volume more)"
    )]
    Full {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Bytes of older evidence that were deleted for it.
        regained: u64,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// The disk did not answer.
    #[error("failed to {attempted} {path:?} within {} (the disk hangs or is busy: look at the volume of the data folder)", humantime::format_duration(*.after))]
    Slow {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// Another one is at it.
    #[error("{path:?} is being completed by somebody else (wait for it, or end the other flipback that uses this data folder)")]
    Busy {
        /// Which bundle.
        path: PathBuf,
    },
    /// It is not in a form this version understands.
    #[error("{path:?} has schema {found}, and this flipback reads schema {INCIDENT_SCHEMA}: read it with the version that wrote it")]
    Schema {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// It is no incident.
    #[error("failed to understand {path:?} as an incident")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// There is none.
    #[error("no evidence of an incident {id:?} lies in {folder:?}")]
    Missing {
        /// Which incident.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

impl EvidenceError {
    /// Whether there was no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (Self::Disk { source, .. } | Self::Full { source, .. }) = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Says of a full disk what was given up for it.
    pub(in crate::evidence) fn after_regaining(self, regained: u64) -> Self {
        match self {
            Self::Disk { attempted, path, source } => Self::Full {
                attempted,
                path,
                regained,
                source,
            },
            other => other,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: free space on it or give the volume more",
        io::ErrorKind::PermissionDenied => "make the data folder writable for the user flipback runs as, or set data_dir to one that is",
        io::ErrorKind::ReadOnlyFilesystem => "mount a writable volume there, or set data_dir to one",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something else has that name: move it away, or set data_dir to another folder"
        }
        _ => "check the volume of the data folder",
    }
}

pub(in crate::evidence) fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EvidenceError {
    let path = path.to_owned();
    move |source| EvidenceError::Disk { attempted, path, source }
}
