use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{disk, fixture, full::Space, incident_id, stock};
use crate::model::{GuardId, Incident};

/// A folder of incidents.
pub(super) struct Shelf {
    data: tempfile::TempDir,
    pub(super) incidents: PathBuf,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let incidents = stock::incidents_of(data.path());
        disk::make_folder(&incidents).expect("ours");
        Self { data, incidents }
    }

    /// A place beside the incidents.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// A sealed bundle of a guard so many hours after the fixture's time, with logs of so many bytes.
    pub(super) fn bundle(&self, guard: &str, hours: i64, bytes: usize) -> PathBuf {
        let bundle = self.begin(guard, hours);
        let log: Vec<u8> = b"2026-11-21T04:12:33Z GET /cart 500 in 12 ms\n"
            .iter()
            .copied()
            .cycle()
            .take(bytes)
            .collect();
        disk::put(&bundle.partial.join("logs/green/web-1/app.log"), &log).expect("ours");
        disk::put(&bundle.partial.join("report.html"), b"<!doctype html><title>why</title>").expect("ours");
        disk::put(&bundle.partial.join("manifests/service.web.json"), b"{}\n").expect("ours");
        disk::seal(&bundle, &disk::contents(&bundle.partial).expect("ours")).expect("ours");
        bundle.sealed.clone()
    }

    /// A bundle that is being written.
    pub(super) fn begin(&self, guard: &str, hours: i64) -> disk::Bundle {
        let space = Space::new(self.incidents.clone(), Arc::default());
        let begun = disk::begin(&self.incidents, incident(guard, hours), Some(fixture::RECORD), &space);
        begun.expect("ours").bundle()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.incidents)
            .expect("ours")
            .map(|entry| entry.expect("ours").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(super) fn found(&self, folder: &Path) -> stock::Found {
        let all = stock::stock(&self.incidents, None).expect("lists");
        all.into_iter().find(|one| one.folder == folder).expect("is there")
    }
}

pub(super) fn later(hours: i64) -> Timestamp {
    let hour = Duration::from_secs(3600) * u32::try_from(hours).expect("later");
    fixture::at(fixture::AT) + hour
}

fn incident(guard: &str, hours: i64) -> Incident {
    let mut incident = fixture::incident();
    incident.case.guard = GuardId::new("", "shop", guard).expect("valid");
    incident.case.at = later(hours);
    incident.id = incident_id(&incident.case.guard, incident.case.at);
    incident
}

/// Adds to a file.
pub(super) fn append(path: &Path, text: &str) {
    let mut file = File::options().append(true).open(path).expect("is there");
    file.write_all(text.as_bytes()).expect("ours");
}
