//! The outbox on disk, one small file each, whole or not at all:
//! - `pending/<chat>/<id>.json`: a message, until it is accepted, then none.
//! - `threads/<chat>/<thread>.json`: what a lane remembers of a thread.
//! - `dead/<chat>/<id>.json`: a message that was given up, with the reason, for a person. Moved back to `pending/` it is
//!   sent again after the next start.
//! - `aside/<chat>/`: what could not be read. It is looked at again at each start: a newer flipback may understand it.
//!
//! A new message is laid ([`lay`]) before it is synced ([`keep`]): a file with its own name, whole, within a fraction of a
//! millisecond. From there on a kill of the daemon loses nothing; what only the machine's end could lose is not sent yet.
//!
//! The disk is never waited for beyond [`DISK_TIMEOUT`] and never needed: when it is full or hangs, messages go out from
//! memory and only a crash could lose them. Every folder is bounded, and for our eyes only. Folders of chats that are no longer configured
//! go once nothing has changed in them for [`FORGOTTEN_AFTER`].

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::lane::{LANE_MAX, Letter, Record, THREADS_MAX};
use crate::model::file_segment;

/// A disk that takes longer hangs: the message goes out without it.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);
/// Operations at a time; a hung one keeps its place, so that hung threads stay this few.
const OPERATIONS_MAX: usize = 4;
/// Bytes of one file; a message is one or two kilobytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Message files read per chat after a restart: twice what a lane holds, since the names do not tell the order.
const LOAD_MAX: usize = 2 * LANE_MAX;
/// Given-up messages kept per chat, newest.
const DEAD_MAX: usize = 100;
/// Unreadable files kept per chat, newest.
const ASIDE_MAX: usize = 100;
/// What lies there of a chat that is no longer configured is kept for so long: a chat that was taken out by mistake is back by then.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Version of the file formats. A new field does not raise it.
const SCHEMA: u32 = 1;

const PENDING: &str = "pending";
const THREADS: &str = "threads";
const DEAD: &str = "dead";
const ASIDE: &str = "aside";

/// One file.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    schema: u32,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
    #[serde(flatten)]
    content: T,
}

/// What an earlier run left for one chat.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) letters: Vec<Letter>,
    pub(super) records: Vec<Record>,
}

/// What is to be done on disk after a message was accepted, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Chores {
    /// Threads to write down.
    pub(super) records: Vec<Record>,
    /// Threads to forget.
    pub(super) forget: Vec<String>,
    /// Ids of messages whose files are to go.
    pub(super) remove: Vec<String>,
}

impl Chores {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.forget.is_empty() && self.remove.is_empty()
    }
}

/// The folder, and whether it works.
pub(super) struct Spool {
    root: Arc<Path>,
    places: Arc<Semaphore>,
    /// For what must not wait for a place among the others.
    first: Arc<Semaphore>,
    broken: AtomicBool,
}

impl Spool {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root: root.into(),
            places: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            first: Arc::new(Semaphore::new(1)),
            broken: AtomicBool::new(false),
        }
    }

    /// Runs one operation off the runtime's threads and gives up waiting for it after [`DISK_TIMEOUT`]. The first failure
    /// in a row is logged with what to do.
    pub(super) async fn run<T: Send + 'static>(&self, operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> Option<T> {
        self.run_in(&self.places, operation).await
    }

    /// The same before all others, one at a time.
    pub(super) async fn run_first<T: Send + 'static>(&self, operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> Option<T> {
        self.run_in(&self.first, operation).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (root, places) = (Arc::clone(&self.root), Arc::clone(places));
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

fn file_of(root: &Path, state: &str, chat: &str, name: &str) -> PathBuf {
    folder_of(root, state, chat).join(format!("{}.json", file_segment(name)))
}

fn folder_of(root: &Path, state: &str, chat: &str) -> PathBuf {
    root.join(state).join(file_segment(chat))
}

/// Lays new messages, each with its chat, where the next start looks for them, without waiting for the disk. Each gets its
/// try; the first failure is returned.
pub(super) fn lay(root: &Path, letters: &[(String, Letter)]) -> io::Result<()> {
    all(letters.iter().map(|(chat, letter)| {
        let file = file_of(root, PENDING, chat, letter.id());
        written(&file, letter, None)?.persist(&file)?;
        Ok(())
    }))
}

/// Syncs messages that were laid, and writes those that were not; then removes the files of those they stand for. Each
/// gets its try; the first failure is returned.
pub(super) fn keep(root: &Path, chat: &str, letters: &[Letter]) -> io::Result<()> {
    let keep = |letter: &Letter| {
        let file = file_of(root, PENDING, chat, letter.id());
        match fs::File::open(&file) {
            Ok(laid) => laid.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => put(&file, letter, None),
            Err(error) => Err(error),
        }
    };
    finished(root, chat, letters, all(letters.iter().map(keep)))
}

/// Writes waiting messages anew, then removes the files of those they stand for. Each gets its try; the first failure is
/// returned.
pub(super) fn write(root: &Path, chat: &str, letters: &[Letter]) -> io::Result<()> {
    let put = |letter: &Letter| put(&file_of(root, PENDING, chat, letter.id()), letter, None);
    finished(root, chat, letters, all(letters.iter().map(put)))
}

fn finished(root: &Path, chat: &str, letters: &[Letter], written: io::Result<()>) -> io::Result<()> {
    let written = written.and_then(|()| sync(&folder_of(root, PENDING, chat)));
    let kept = written.is_ok();
    // What is not sure to be written replaces nothing.
    let removed = all(letters
        .iter()
        .filter(|_| kept)
        .map(|letter| remove_all(root, chat, &letter.replaces)));
    written.and(removed)
}

/// Does what an accepted message leaves to do. Each part gets its try; the first failure is returned.
pub(super) fn settle(root: &Path, chat: &str, chores: &Chores) -> io::Result<()> {
    let write = |record: &Record| put(&file_of(root, THREADS, chat, &record.thread), record, None);
    let forget = |thread: &String| gone(&file_of(root, THREADS, chat, thread));
    let mut written = all(chores.records.iter().map(write));
    if !chores.records.is_empty() {
        written = written.and_then(|()| sync(&folder_of(root, THREADS, chat)));
    }
    let forgotten = all(chores.forget.iter().map(forget));
    let removed = remove_all(root, chat, &chores.remove);
    written.and(forgotten).and(removed)
}

/// Moves messages that were given up to the dead ones; what cannot be moved stays, and is tried again after a restart.
pub(super) fn bury(root: &Path, chat: &str, letters: &[Letter], reason: &str) -> io::Result<()> {
    let dead = folder_of(root, DEAD, chat);
    let put = |letter: &Letter| put(&file_of(root, DEAD, chat, letter.id()), letter, Some(reason.to_owned()));
    all(letters.iter().map(put)).and_then(|()| sync(&dead))?;
    let remove = |letter: &Letter| {
        let own = remove_all(root, chat, std::slice::from_ref(&letter.announcement.id));
        own.and(remove_all(root, chat, &letter.replaces))
    };
    all(letters.iter().map(remove))?;
    keep_newest(&dead, DEAD_MAX)
}

fn remove_all(root: &Path, chat: &str, ids: &[String]) -> io::Result<()> {
    all(ids.iter().map(|id| gone(&file_of(root, PENDING, chat, id))))
}

fn gone(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Tries each; the first failure is the one to tell.
fn all(tries: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    tries.filter_map(Result::err).reduce(|first, _| first).map_or(Ok(()), Err)
}

/// Whole or not at all: written beside its place, synced, renamed; the folder has to be synced after it. The temporary
/// file is readable by us only.
fn put<T: Serialize>(file: &Path, content: T, dropped: Option<String>) -> io::Result<()> {
    let part = written(file, content, dropped)?;
    part.as_file().sync_all()?;
    part.persist(file)?;
    Ok(())
}

/// The whole file, under another name beside its place.
fn written<T: Serialize>(file: &Path, content: T, dropped: Option<String>) -> io::Result<tempfile::NamedTempFile> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    let stored = Stored {
        schema: SCHEMA,
        dropped,
        content,
    };
    part.write_all(&serde_json::to_vec(&stored)?)?;
    Ok(part)
}

fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// What a chat still has to get and what is remembered of its threads. What a crash left half written is removed; what
/// cannot be read is set aside, with a warning.
pub(super) fn load(root: &Path, chat: &str) -> io::Result<Left> {
    retry_aside(root, chat)?;
    Ok(Left {
        letters: read_all(root, PENDING, chat, LOAD_MAX)?,
        records: read_all(root, THREADS, chat, THREADS_MAX)?,
    })
}

fn read_all<T: DeserializeOwned>(root: &Path, state: &str, chat: &str, max: usize) -> io::Result<Vec<T>> {
    let folder = folder_of(root, state, chat);
    let half = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"));
    entries(&folder)?.into_iter().filter(half).try_for_each(fs::remove_file)?;
    let files = names(&folder)?;
    if files.len() > max {
        warn!(
            chat,
            folder = %folder.display(),
            files = files.len(),
            taken = max,
            "More files wait in the outbox than are read at a start; the rest waits for the next"
        );
    }
    let mut found = Vec::new();
    for file in files.into_iter().take(max) {
        match read(&file) {
            Ok(content) => found.push(content),
            Err(error) => set_aside(root, state, chat, &file, &error),
        }
    }
    Ok(found)
}

/// Moves a file that cannot be read out of the way; a thread's record is worth nothing unread.
fn set_aside(root: &Path, state: &str, chat: &str, file: &Path, error: &io::Error) {
    let aside = folder_of(root, ASIDE, chat);
    let moved = if state == PENDING {
        file.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into()).and_then(|name| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
            fs::rename(file, aside.join(name))?;
            keep_newest(&aside, ASIDE_MAX)
        })
    } else {
        fs::remove_file(file)
    };
    warn!(
        chat,
        file = %file.display(),
        aside = %aside.display(),
        %error,
        moved = moved.is_ok(),
        "Set aside an unreadable file of the outbox"
    );
}

/// Takes back what can be read by now.
fn retry_aside(root: &Path, chat: &str) -> io::Result<()> {
    let pending = folder_of(root, PENDING, chat);
    for file in names(&folder_of(root, ASIDE, chat))? {
        if let (Ok(letter), Some(name)) = (read::<Letter>(&file), file.file_name()) {
            info!(chat, id = letter.id(), "Took back a message that was set aside");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&pending)?;
            fs::rename(&file, pending.join(name))?;
        }
    }
    Ok(())
}

/// Removes the oldest files beyond `max`.
fn keep_newest(folder: &Path, max: usize) -> io::Result<()> {
    let mut files = names(folder)?;
    let age = |file: &PathBuf| fs::metadata(file).and_then(|data| data.modified()).ok();
    files.sort_by_cached_key(age);
    let surplus = files.len().saturating_sub(max);
    files.drain(..surplus).try_for_each(fs::remove_file)
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

/// Removes what lies there of chats that are not configured and of which nothing has changed since `before`; gives their names.
pub(super) fn forget_strangers(root: &Path, chats: &[String], before: SystemTime) -> io::Result<Vec<String>> {
    let known: Vec<String> = chats.iter().map(|chat| file_segment(chat)).collect();
    let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for state in [PENDING, THREADS, DEAD, ASIDE] {
        for folder in entries(&root.join(state))? {
            let name = folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if !known.contains(&name) && folder.is_dir() {
                folders.entry(name).or_default().push(folder);
            }
        }
    }
    let mut forgotten = Vec::new();
    for (name, folders) in folders {
        let mut idle = true;
        for folder in &folders {
            // A folder changes with every file that comes or goes; files are never written in place.
            idle &= fs::metadata(folder)?.modified()? < before;
        }
        if idle {
            folders.iter().try_for_each(fs::remove_dir_all)?;
            forgotten.push(name);
        }
    }
    Ok(forgotten)
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<T> {
    let mut text = String::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let version: Version = serde_json::from_str(&text)?;
    if version.schema > SCHEMA {
        return Err(io::Error::other(format!(
            "written by a newer flipback: format {}, this one reads {SCHEMA}",
            version.schema
        )));
    }
    Ok(serde_json::from_str::<Stored<T>>(&text)?.content)
}

/// The part of a file that every version of it has.
#[derive(Deserialize)]
struct Version {
    schema: u32,
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
mod tests;
