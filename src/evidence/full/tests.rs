//! A disk that is full: one that says so when asked to, and a real one of a few megabytes.

use std::{fs, io, io::Write as _, path::Path, process::Command};

use super::*;
use crate::{
    evidence::{
        Keeper,
        fixture::{ApiDouble, Quirks, at, incident, spec},
        list,
        stock::PINNED,
    },
    metrics::Metrics,
    model::Incident,
};

fn full(path: &Path) -> EvidenceError {
    disk::failed("write", path)(io::ErrorKind::StorageFull.into())
}

/// A bundle with so many bytes of logs.
fn bundle(incidents: &Path, id: &str, when: &str, bytes: usize) -> PathBuf {
    let mut incident = incident();
    (incident.id, incident.case.at) = (id.to_owned(), at(when));
    let space = Space::new(incidents.to_owned(), Arc::default());
    let bundle = disk::begin(incidents, incident, None, &space).expect("begins").bundle();
    disk::put(&bundle.partial.join("logs/big.log"), &vec![b'x'; bytes]).expect("writes");
    disk::seal(&bundle, &disk::contents(&bundle.partial).expect("readable")).expect("seals");
    incidents.join(id)
}

#[test]
fn the_oldest_evidence_makes_room_and_the_write_is_done_again() {
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = data.path().join("incidents");
    let oldest = bundle(&incidents, "a", "2026-11-01T00:00:00Z", 10);
    let pinned = bundle(&incidents, "b", "2026-10-01T00:00:00Z", 10);
    let newest = bundle(&incidents, "c", "2026-11-03T00:00:00Z", 10);
    fs::write(pinned.join(PINNED), "").expect("pinned");
    let space = Space::new(incidents.clone(), Arc::default());
    let mut tries = 0;
    let written = space.with(|| {
        tries += 1;
        if oldest.exists() { Err(full(&incidents)) } else { Ok(()) }
    });
    written.expect("there was room at last");
    assert!(tries <= 4, "{tries}");
    assert!(pinned.exists() && newest.exists());
    assert_eq!(disk::entries(&incidents).expect("readable").len(), 2, "nothing half deleted");
}

#[test]
fn a_disk_that_stays_full_is_told_of_and_not_tried_for_each_file() {
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = data.path().join("incidents");
    let newest = bundle(&incidents, "only", "2026-11-01T00:00:00Z", 10);
    let space = Space::new(incidents.clone(), Arc::default());
    let mut tries = 0;
    let mut write = || {
        tries += 1;
        Err::<(), _>(full(&incidents))
    };
    let error = space.with(&mut write).expect_err("full");
    assert!(
        error
            .to_string()
            .ends_with("(the disk is full, 0 bytes of older evidence were given up in vain: free space on it or give the volume more)"),
        "{error}"
    );
    assert!(error.is_full());
    space.with(&mut write).expect_err("full");
    assert_eq!(tries, 1 + 2 * TRIES + 1, "the second write is tried once");
    assert!(newest.exists(), "the newest stays");

    // What is no lack of room is not tried again.
    let denied = || Err::<(), _>(disk::failed("write", &incidents)(io::ErrorKind::PermissionDenied.into()));
    let space = Space::new(incidents.clone(), Arc::default());
    assert!(!space.with(denied).expect_err("denied").is_full());
}

/// A real volume of a few megabytes.
struct Volume(tempfile::TempDir);

impl Volume {
    /// `None`, loudly, where this user may not mount.
    fn of(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|ran| ran.status.success()) {
            return Some(Self(folder));
        }
        let _ = writeln!(io::stderr(), "SKIPPED a test of a full disk: this user may not mount a tmpfs");
        None
    }

    /// Leaves so many bytes free.
    fn fill_but(&self, bytes: u64) {
        let mut ballast = fs::File::create(self.0.path().join("ballast")).expect("made");
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let length = ballast.metadata().expect("readable").len();
        ballast.set_len(length.saturating_sub(bytes)).expect("shrinks");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn keeper(volume: &Volume) -> Keeper {
    Keeper::open(
        volume.0.path().to_owned(),
        EvidenceSettings::default(),
        Metrics::new().expect("registers"),
    )
}

/// An API server with some megabytes of logs.
fn talkative() -> ApiDouble {
    ApiDouble::new(Quirks {
        lines: 10_000,
        ..Quirks::default()
    })
}

fn read(folder: &Path) -> Incident {
    let whole = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "MANIFEST.sha256"])
        .current_dir(folder)
        .status();
    assert!(whole.expect("sha256sum runs").success());
    disk::read(folder).expect("an incident")
}

#[tokio::test]
async fn on_a_full_volume_the_new_incident_is_kept_whole_at_the_cost_of_the_oldest() {
    let Some(volume) = Volume::of(12) else { return };
    let keeper = keeper(&volume);
    let incidents = volume.0.path().join("incidents");
    let oldest = bundle(&incidents, "a", "2026-10-01T00:00:00Z", 4 << 20);
    let pinned = bundle(&incidents, "b", "2026-09-01T00:00:00Z", 1 << 20);
    fs::write(pinned.join(PINNED), "").expect("pinned");
    let newer = bundle(&incidents, "c", "2026-11-01T00:00:00Z", 1 << 20);
    volume.fill_but(300 << 10);
    let folder = keeper.keep(incident(), &spec(), talkative().sources()).await.expect("keeps");
    let kept = read(&folder);
    assert_eq!(kept.capture_errors, Vec::<String>::new());
    assert!(folder.join("logs/green/web-green-1/app.log").metadata().expect("there").len() > 100_000);
    assert!(!oldest.exists() && pinned.exists() && newer.exists());
    let ids: Vec<String> = list(volume.0.path())
        .expect("lists")
        .into_iter()
        .map(|(_, incident)| incident.id)
        .collect();
    assert_eq!(ids, [incident().id, "c".to_owned(), "b".to_owned()]);

    // The second pass on a volume where nothing can be given up leaves the first as it was.
    fs::write(newer.join(PINNED), "").expect("pinned");
    let before = fs::read(folder.join("MANIFEST.sha256")).expect("readable");
    volume.fill_but(0);
    let failed = keeper
        .follow_up(&incident().id, &spec(), talkative().sources(), at("2026-11-21T04:20:00Z"))
        .await
        .expect_err("no room");
    assert!(failed.is_full(), "{failed}");
    assert_eq!(fs::read(folder.join("MANIFEST.sha256")).expect("readable"), before);
    read(&folder);
    assert_eq!(disk::entries(&incidents).expect("readable").len(), 3, "nothing is left lying about");
}

#[tokio::test]
async fn where_nothing_makes_room_the_case_alone_is_kept_or_the_loss_is_told() {
    let Some(volume) = Volume::of(4) else { return };
    let keeper = keeper(&volume);
    volume.fill_but(80 << 10);
    let folder = keeper
        .keep(incident(), &spec(), talkative().sources())
        .await
        .expect("keeps the case");
    let kept = read(&folder);
    assert!(
        kept.capture_errors.iter().any(|error| error.contains("the disk is full")),
        "{:#?}",
        kept.capture_errors
    );
    assert!(folder.join("decision.jsonl").exists());

    volume.fill_but(0);
    let mut other = incident();
    other.case.why = "something else".into();
    let error = keeper
        .keep(other, &spec(), talkative().sources())
        .await
        .expect_err("no room at all");
    assert!(error.is_full() && error.to_string().contains("the disk is full"), "{error}");
    let left: Vec<_> = disk::entries(&volume.0.path().join("incidents")).expect("readable");
    assert_eq!(left, [folder], "no empty folder takes the name");
}
