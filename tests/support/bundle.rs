//! Folders of evidence, made by hand: what is in them is said by the test, and `sha256sum` lists it, so that a mistake in
//! how flipback makes bundles cannot hide here.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::process::Folder;

/// An incident as a released flipback wrote it.
const INCIDENT: &str = include_str!("incident.json");

/// A data folder with incidents.
#[derive(Debug)]
pub struct Bundles {
    folder: Folder,
}

/// What one bundle is like; the rest is always the same.
#[derive(Clone, Debug)]
pub struct Like<'a> {
    /// Its guard.
    pub guard: &'a str,
    /// When it was decided.
    pub at: &'a str,
    /// Its `outcome`.
    pub outcome: Value,
    /// What could not be captured.
    pub missing: &'a [&'a str],
    /// Further files, and their bytes.
    pub files: Vec<(String, usize)>,
}

impl Default for Like<'_> {
    fn default() -> Self {
        let at = "2026-11-21T04:12:34.576Z";
        Self {
            guard: "shop/web",
            at: "2026-11-21T04:12:34.567Z",
            outcome: json!({"result": "rolled_back", "at": at, "took_ms": 8.5, "resource_version": "4712"}),
            missing: &[],
            files: Vec::new(),
        }
    }
}

impl Bundles {
    /// An empty data folder.
    #[must_use]
    pub fn new() -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("incidents")).expect("ours");
        Self { folder }
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of incidents.
    #[must_use]
    pub fn incidents(&self) -> PathBuf {
        self.folder.path().join("incidents")
    }

    /// Makes a bundle; returns its folder.
    ///
    /// # Panics
    /// When the disk refuses or `sha256sum` is missing.
    pub fn make(&self, like: &Like<'_>) -> PathBuf {
        let at: Timestamp = like.at.parse().expect("a timestamp");
        let id = format!("{}_{}", like.guard.replace('/', "."), at.strftime("%Y%m%dT%H%M%S%.3fZ"));
        let folder = self.incidents().join(&id);
        let mut incident: Value = serde_json::from_str(INCIDENT).expect("JSON");
        incident["id"] = id.into();
        incident["case"]["guard"] = like.guard.into();
        incident["case"]["at"] = like.at.into();
        incident["outcome"] = like.outcome.clone();
        incident["capture_errors"] = json!(like.missing);
        for entry in incident["timeline"].as_array_mut().expect("a list") {
            entry["at"] = like.at.into();
        }
        let incident = serde_json::to_vec_pretty(&incident).expect("JSON");
        put(&folder, "incident.json", &incident);
        put(&folder, "decision.jsonl", b"{\"flipback_trace\":1}\n");
        put(&folder, "report.html", b"<!doctype html><title>why</title>\n");
        put(&folder, "logs/green/web-green-1/app.log", b"GET /cart 500\n");
        put(&folder, "metrics/error_rate.green.json", b"[]\n");
        for (name, bytes) in &like.files {
            // Told apart by their content, so that two files cannot be mistaken for each other.
            let content: Vec<u8> = name.bytes().chain(std::iter::once(b'\n')).cycle().take(*bytes).collect();
            put(&folder, name, &content);
        }
        list(&folder);
        folder
    }
}

impl Default for Bundles {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a file as flipback does: for its owner only.
///
/// # Panics
/// When the disk refuses.
pub fn put(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    let parent = path.parent().expect("below the folder");
    fs::create_dir_all(parent).expect("ours");
    for above in parent.ancestors().take_while(|above| above.starts_with(folder)) {
        fs::set_permissions(above, Permissions::from_mode(0o700)).expect("ours");
    }
    fs::write(&path, content).expect("ours");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
}

/// Writes `MANIFEST.sha256` over all that is there.
///
/// # Panics
/// When the disk refuses or `sha256sum` is missing.
pub fn list(folder: &Path) {
    let command = "find . -type f ! -name MANIFEST.sha256 ! -path './.*' -printf '%P\\0' | sort -z | xargs -0 sha256sum";
    let listed = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .output()
        .expect("sh runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    put(folder, "MANIFEST.sha256", &listed.stdout);
}

/// Whether `sha256sum` finds all of a folder's list, unchanged.
///
/// # Panics
/// When `sha256sum` is missing.
#[must_use]
pub fn holds(folder: &Path) -> bool {
    let mut check = Command::new("sha256sum");
    check
        .args(["--check", "--strict", "--quiet", "MANIFEST.sha256"])
        .current_dir(folder);
    let checked = check.output().expect("sha256sum runs");
    checked.status.success()
}
