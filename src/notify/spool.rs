//! The outbox on disk: one file per message and chat, `pending/<chat>/<id>.json` until it is accepted, then none;
//! `dead/<chat>/<id>.json`, with the reason, when it was given up. A dead file moved back to `pending/` is sent again
//! after the next start.
//!
//! The disk is never waited for beyond [`DISK_TIMEOUT`] and never needed: when it is full or hangs, messages go out from
//! memory and only a crash could lose them.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::model::{Announcement, file_segment};

/// A disk that takes longer hangs: the message goes out without it.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);
/// Operations at a time; a hung one keeps its place, so that hung threads stay this few.
const OPERATIONS_MAX: usize = 4;
/// Bytes of one file; an announcement is a few kilobytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Files read per chat after a restart.
pub(super) const LOAD_MAX: usize = 1000;
/// Given-up messages kept per chat, newest.
const DEAD_MAX: usize = 100;
/// Version of the file format.
const SCHEMA: u32 = 1;

const PENDING: &str = "pending";
const DEAD: &str = "dead";

/// One file.
#[derive(Serialize, Deserialize)]
struct Stored<A> {
    schema: u32,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
    announcement: A,
}

/// The folder, and whether it works.
pub(super) struct Spool {
    root: Arc<Path>,
    places: Arc<Semaphore>,
    broken: AtomicBool,
}

impl Spool {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root: root.into(),
            places: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            broken: AtomicBool::new(false),
        }
    }

    /// Runs one operation off the runtime's threads and gives up waiting for it after [`DISK_TIMEOUT`]. The first failure
    /// in a row is logged with what to do.
    pub(super) async fn run<T: Send + 'static>(&self, operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> Option<T> {
        let (root, places) = (Arc::clone(&self.root), Arc::clone(&self.places));
        let work = async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            tokio::task::spawn_blocking(move || {
                let _place = place;
                operation(&root)
            })
            .await
            .map_err(io::Error::other)?
        };
        let result = tokio::time::timeout(DISK_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")));
        match result {
            Ok(value) => {
                if self.broken.swap(false, Ordering::Relaxed) {
                    info!(folder = %self.root.display(), "Outbox can be written again");
                }
                Some(value)
            }
            Err(error) => {
                if !self.broken.swap(true, Ordering::Relaxed) {
                    warn!(
                        folder = %self.root.display(),
                        %error,
                        remedy = "free space in it or make it writable; until then messages are sent from memory and a restart loses those waiting",
                        "Outbox cannot be written"
                    );
                }
                None
            }
        }
    }
}

fn file_of(root: &Path, state: &str, chat: &str, id: &str) -> PathBuf {
    root.join(state).join(file_segment(chat)).join(format!("{}.json", file_segment(id)))
}

/// Writes a waiting message.
pub(super) fn write(root: &Path, chat: &str, announcement: &Announcement) -> io::Result<()> {
    put(&file_of(root, PENDING, chat, &announcement.id), announcement, None)
}

/// Removes a message that was accepted.
pub(super) fn remove(root: &Path, chat: &str, id: &str) -> io::Result<()> {
    match fs::remove_file(file_of(root, PENDING, chat, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a message that was given up to the dead ones.
pub(super) fn bury(root: &Path, chat: &str, announcement: &Announcement, reason: &str) -> io::Result<()> {
    let file = file_of(root, DEAD, chat, &announcement.id);
    put(&file, announcement, Some(reason.to_owned()))?;
    remove(root, chat, &announcement.id)?;
    let mut dead = names(&root.join(DEAD).join(file_segment(chat)))?;
    let surplus = dead.len().saturating_sub(DEAD_MAX);
    dead.drain(..surplus).try_for_each(fs::remove_file)
}

/// Whole or not at all: written beside its place, synced, renamed.
fn put(file: &Path, announcement: &Announcement, dropped: Option<String>) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    let stored = Stored {
        schema: SCHEMA,
        dropped,
        announcement,
    };
    part.write_all(&serde_json::to_vec(&stored)?)?;
    part.as_file().sync_all()?;
    part.persist(file)?;
    fs::File::open(folder)?.sync_all()
}

/// The messages a chat still has to get, oldest first. What a crash left half written is removed; a file that cannot be
/// read stays where it is, with a warning.
pub(super) fn load(root: &Path, chat: &str) -> io::Result<Vec<Announcement>> {
    let folder = root.join(PENDING).join(file_segment(chat));
    let half = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"));
    entries(&folder)?.into_iter().filter(half).try_for_each(fs::remove_file)?;
    let files = names(&folder)?;
    if files.len() > LOAD_MAX {
        warn!(
            chat,
            files = files.len(),
            taken = LOAD_MAX,
            "More messages wait than are sent after a start; the rest waits for the next"
        );
    }
    let mut loaded = Vec::new();
    for file in files.into_iter().take(LOAD_MAX) {
        match read(&file) {
            Ok(announcement) => loaded.push(announcement),
            Err(error) => warn!(chat, file = %file.display(), %error, "Left an unreadable message in the outbox"),
        }
    }
    loaded.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    Ok(loaded)
}

/// Chats that messages wait for and that are not, or no longer, configured.
pub(super) fn strangers(root: &Path, chats: &[String]) -> io::Result<Vec<String>> {
    let known: Vec<String> = chats.iter().map(|chat| file_segment(chat)).collect();
    let mut strangers = Vec::new();
    for folder in entries(&root.join(PENDING))? {
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !known.contains(&name) && folder.is_dir() && !names(&folder)?.is_empty() {
            strangers.push(name);
        }
    }
    Ok(strangers)
}

fn read(file: &Path) -> io::Result<Announcement> {
    let mut text = String::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let stored: Stored<Announcement> = serde_json::from_str(&text)?;
    if stored.schema > SCHEMA {
        return Err(io::Error::other(format!(
            "written by a newer flipback: format {}, this one reads {SCHEMA}",
            stored.schema
        )));
    }
    Ok(stored.announcement)
}

/// The `.json` files of a folder by name. A folder that does not exist is empty.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = entries(folder)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Topic, words::tests::example};

    fn numbered(n: u32) -> Announcement {
        Announcement {
            id: format!("id-{n:04}"),
            ..example(Topic::Blind)
        }
    }

    #[test]
    fn the_dead_are_kept_within_bounds_and_say_why() {
        let root = tempfile::tempdir().expect("temporary folder");
        for n in 0..DEAD_MAX as u32 + 5 {
            bury(root.path(), "slack", &numbered(n), "404").expect("buries");
        }
        let dead = names(&root.path().join("dead/slack")).expect("lists");
        assert_eq!(dead.len(), DEAD_MAX);
        assert!(dead[0].ends_with("id-0005.json"));
        assert!(fs::read_to_string(&dead[0]).expect("reads").contains("\"dropped\":\"404\""));
    }

    #[test]
    fn half_written_and_foreign_files_stop_nothing() {
        let root = tempfile::tempdir().expect("temporary folder");
        write(root.path(), "slack", &numbered(2)).expect("writes");
        write(root.path(), "slack", &numbered(1)).expect("writes");
        let folder = root.path().join("pending/slack");
        fs::write(folder.join(".tmpAbC"), "{\"sch").expect("writes");
        fs::write(folder.join("broken.json"), "{\"sch").expect("writes");
        fs::write(
            folder.join("newer.json"),
            serde_json::to_vec(&Stored {
                schema: 2,
                dropped: None,
                announcement: numbered(3),
            })
            .expect("serializes"),
        )
        .expect("writes");
        let loaded = load(root.path(), "slack").expect("loads");
        assert_eq!(loaded.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["id-0001", "id-0002"]);
        assert!(!folder.join(".tmpAbC").exists() && folder.join("broken.json").exists() && folder.join("newer.json").exists());
        assert_eq!(strangers(root.path(), &["teams".into()]).expect("lists"), ["slack"]);
    }

    #[test]
    fn a_hostile_chat_or_id_stays_in_the_folder() {
        let root = tempfile::tempdir().expect("temporary folder");
        let hostile = Announcement {
            id: "../../../evil".into(),
            ..numbered(1)
        };
        write(root.path(), "../up", &hostile).expect("writes");
        assert_eq!(fs::read_dir(root.path()).expect("lists").count(), 1);
        assert_eq!(load(root.path(), "../up").expect("loads").len(), 1);
    }
}
