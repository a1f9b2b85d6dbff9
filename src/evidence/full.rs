//! What happens when the disk is full: older evidence is given up, and what did not fit is written again.
//!
//! The flip has long happened. What was just measured is worth more than what lies here since weeks, so the oldest bundles
//! go first; pinned ones and the newest stay, as everywhere. Tries are few and short: a disk that stays full is told of,
//! not waited for.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::{error, warn};

use super::{
    disk::{self, EvidenceError},
    report::{self, PEN, Pen},
    retention,
};
use crate::model::settings::EvidenceSettings;

/// Writes of one thing, the first one not counted.
const TRIES: usize = 4;
/// Before the second one; all together stay well below the time that one write may take.
const WAIT: Duration = Duration::from_millis(50);

/// The disk that a capture writes to; cheap to clone.
#[derive(Clone)]
pub(super) struct Space {
    incidents: PathBuf,
    settings: Arc<EvidenceSettings>,
    /// Nothing can be given up any more, and nobody else made room: not tried again for each of a hundred files.
    hopeless: Arc<AtomicBool>,
    /// Held by who makes room, so that two who find the disk full do not give up twice as much.
    making_room: Arc<Mutex<()>>,
    /// Draws the pictures of reports.
    pen: Pen,
}

impl Space {
    pub(super) fn new(incidents: PathBuf, settings: Arc<EvidenceSettings>) -> Self {
        Self {
            incidents,
            settings,
            hopeless: Arc::default(),
            making_room: Arc::default(),
            pen: PEN,
        }
    }

    /// The same, whose reports get their pictures from another pen.
    pub(super) fn drawn_by(self, pen: Pen) -> Self {
        Self { pen, ..self }
    }

    /// Writes the report of a bundle from what lies in its folder: see [`report::write_with`].
    pub(super) fn report(&self, folder: &Path) -> Result<(), EvidenceError> {
        self.with(|| report::write_with(folder, self.pen))
    }

    /// Writes, and where the disk is full makes room and writes again, a few times.
    pub(super) fn with<T>(&self, mut write: impl FnMut() -> Result<T, EvidenceError>) -> Result<T, EvidenceError> {
        let full = |written: &Result<T, EvidenceError>| written.as_ref().is_err_and(EvidenceError::is_full);
        let mut written = write();
        if !full(&written) || self.hopeless.load(Ordering::Relaxed) {
            return written;
        }
        let waits = ExponentialBuilder::default()
            .with_min_delay(WAIT)
            .with_max_times(TRIES)
            .with_jitter();
        let mut regained = 0;
        for wait in waits.build() {
            {
                let _alone = disk::hold(&self.making_room);
                written = write();
                if !full(&written) {
                    return written;
                }
                regained += self.regain();
            }
            written = write();
            if !full(&written) {
                return written;
            }
            std::thread::sleep(wait);
        }
        self.hopeless.store(true, Ordering::Relaxed);
        written.map_err(|error| error.after_regaining(regained))
    }

    /// Gives up older evidence and returns how many bytes that gave.
    fn regain(&self) -> u64 {
        match retention::regain(&self.incidents, &self.settings) {
            Ok(0) => 0,
            Ok(bytes) => {
                warn!(bytes, folder = %self.incidents.display(), "Gave up older evidence, since the disk is full");
                bytes
            }
            Err(error) => {
                error!(%error, "The disk is full, and older evidence cannot be given up");
                0
            }
        }
    }
}

#[cfg(test)]
mod tests;
