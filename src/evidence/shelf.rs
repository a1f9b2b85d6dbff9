//! Where captured files go: a bundle's folder with a bound on its bytes, on the writes at a time and on their duration.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    DISK_TIMEOUT,
    disk::{self, EvidenceError},
    full::Space,
    scrub::Scrub,
    tail::Tail,
};
use crate::model::chain;

/// Files written at a time.
const WRITES_MAX: u32 = 4;

/// The folder of one capture.
pub(super) struct Shelf {
    folder: PathBuf,
    writes: Arc<Semaphore>,
    bytes_max: u64,
    room: AtomicU64,
    space: Space,
    scrub: Arc<Scrub>,
}

impl Shelf {
    /// One that takes so many bytes.
    pub(super) fn new(folder: PathBuf, bytes_max: u64, space: Space, scrub: Arc<Scrub>) -> Self {
        Self {
            folder,
            writes: Arc::new(Semaphore::new(WRITES_MAX as usize)),
            bytes_max,
            room: AtomicU64::new(bytes_max),
            space,
            scrub,
        }
    }

    /// What hides secrets in whatever is put here.
    pub(super) fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    /// Writes one file, unless the bundle is full.
    pub(super) async fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), String> {
        self.take(bytes.len() as u64)?;
        let path = self.folder.join(file);
        let space = self.space.clone();
        let write = {
            let path = path.clone();
            move || space.with(|| disk::put(&path, &bytes))
        };
        let written = disk::bounded(&self.writes, DISK_TIMEOUT, "write", path, write).await;
        written.map_err(|error| chain(&error))
    }

    /// [`Self::put`], as JSON that people can read.
    pub(super) async fn put_json(&self, file: &str, value: &Value) -> Result<(), String> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        self.put(file, bytes).await
    }

    /// Begins a log that keeps its newest `bytes_max`, or fewer where the bundle has less room.
    pub(super) async fn log(&self, file: &str, bytes_max: u64) -> Result<LogFile<'_>, String> {
        let ring = bytes_max.min(self.room.load(Ordering::Relaxed));
        if ring == 0 {
            return Err(self.is_full());
        }
        let path = self.folder.join(file);
        let (scrub, begun) = (Arc::clone(&self.scrub), path.clone());
        let begin = move || Tail::new(&begun, ring, scrub).map_err(disk::failed("write", &begun));
        let tail = disk::bounded(&self.writes, DISK_TIMEOUT, "write", path.clone(), begin).await;
        Ok(LogFile {
            shelf: self,
            path,
            tail: Some(tail.map_err(|error| chain(&error))?),
        })
    }

    fn take(&self, size: u64) -> Result<(), String> {
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(size));
        taken.map(drop).map_err(|_| self.is_full())
    }

    fn is_full(&self) -> String {
        format!("left out, since the bundle would exceed {} MiB", self.bytes_max >> 20)
    }

    /// Waits for writes under way, whose waiter the deadline took: what is hashed must not change any more.
    pub(super) async fn quiet(&self) {
        let _ = tokio::time::timeout(DISK_TIMEOUT, self.writes.acquire_many(WRITES_MAX)).await;
    }
}

/// A log that is arriving.
pub(super) struct LogFile<'s> {
    shelf: &'s Shelf,
    path: PathBuf,
    /// Absent while, and after, a write of it hangs.
    tail: Option<Tail>,
}

impl LogFile<'_> {
    /// Cleans and writes down what has arrived.
    pub(super) async fn push(&mut self, chunk: Vec<u8>) -> Result<(), String> {
        let space = self.shelf.space.clone();
        self.work(move |tail, path| {
            let clean = tail.clean(&chunk);
            space.with(|| tail.write(&clean).map_err(disk::failed("write", path)))
        })
        .await
    }

    /// Gives the log its name; `false`: there was nothing in it.
    pub(super) async fn finish(mut self) -> Result<bool, String> {
        let space = self.shelf.space.clone();
        let finish = move |tail: &mut Tail, path: &Path| {
            let rest = tail.rest();
            space.with(|| tail.write(&rest).map_err(disk::failed("write", path)))?;
            space.with(|| tail.finish(path).map_err(disk::failed("write", path)))
        };
        let size = self.work(finish).await?;
        // Logs that arrive together may overdraw the room, by no more than their own bounds.
        let spent = |room: u64| Some(room.saturating_sub(size.unwrap_or_default()));
        let _ = self.shelf.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
        Ok(size.is_some())
    }

    async fn work<T, F>(&mut self, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tail, &Path) -> Result<T, EvidenceError> + Send + 'static,
    {
        let mut tail = self.tail.take().ok_or("an earlier write of it did not end")?;
        let path = self.path.clone();
        let run = move || {
            let done = work(&mut tail, &path);
            Ok((tail, done))
        };
        let ran = disk::bounded(&self.shelf.writes, DISK_TIMEOUT, "write", self.path.clone(), run).await;
        let (tail, done) = ran.map_err(|error| chain(&error))?;
        self.tail = Some(tail);
        done.map_err(|error| chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::settings::EvidenceSettings;

    fn shelf(folder: &Path, bytes_max: u64) -> Shelf {
        let space = Space::new(folder.to_owned(), Arc::new(EvidenceSettings::default()));
        Shelf::new(folder.to_owned(), bytes_max, space, Arc::new(Scrub::new(&[])))
    }

    #[tokio::test]
    async fn a_full_bundle_takes_no_more_and_says_so() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let shelf = shelf(folder.path(), 3 << 20);
        let bytes = |size: usize| vec![b'x'; size];
        shelf.put("a", bytes(2 << 20)).await.expect("fits");
        let refused = shelf.put("b", bytes(2 << 20)).await.expect_err("does not fit");
        assert_eq!(refused, "left out, since the bundle would exceed 3 MiB");
        let mut log = shelf.log("c.log", 8 << 20).await.expect("there is room");
        for _ in 0..100 {
            log.push(b"0123456789abcdef\n".repeat(2000)).await.expect("writes");
        }
        assert!(log.finish().await.expect("is named"));
        assert!(shelf.log("d.log", 1).await.is_err() || shelf.room.load(Ordering::Relaxed) < 17);
        assert!(!folder.path().join("b").exists());
        let kept = std::fs::metadata(folder.path().join("c.log")).expect("is there").len();
        assert!(kept <= 1 << 20 && kept > (1 << 20) - 20, "what there is room for: {kept}");
    }
}
