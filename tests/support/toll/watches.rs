//! The watches that pass a toll house: answers without an end, which the test may cut, end, or let fall silent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, stream};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Chunks under way of one watch.
const CHUNKS_MAX: usize = 1024;

/// What is done to watches. Each has a number; those that are there now are those below the next one's.
#[derive(Debug, Default)]
pub(super) struct Watches {
    next: AtomicU64,
    rules: watch::Sender<Rules>,
    /// How often a watch was told that its version is gone.
    gone: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// Those below break off.
    cut: u64,
    /// Those below end, as if their time were over.
    ended: u64,
    /// Those below say nothing any more, and stay open.
    silent: u64,
    /// Every one ends before it has said anything.
    brief: bool,
}

/// One watch on its way.
struct Carried {
    number: u64,
    rules: watch::Receiver<Rules>,
    chunks: mpsc::Receiver<(Instant, io::Result<Bytes>)>,
    over: bool,
}

impl Watches {
    pub(super) fn cut(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.rules.send_modify(|rules| rules.cut = next);
    }

    pub(super) fn end(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.rules.send_modify(|rules| rules.ended = next);
    }

    pub(super) fn silence(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.rules.send_modify(|rules| rules.silent = next);
    }

    pub(super) fn set_brief(&self, brief: bool) {
        self.rules.send_modify(|rules| rules.brief = brief);
    }

    pub(super) fn count(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// The body of a watch's answer, each part of which comes so late.
    pub(super) fn carry(self: &Arc<Self>, answer: reqwest::Response, late: Duration) -> Body {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let carried = Carried {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            rules: self.rules.subscribe(),
            chunks,
            over: false,
        };
        let watches = Arc::clone(self);
        // Beside the daemon's reading, so that lateness does not add up.
        tokio::spawn(async move {
            let mut upstream = answer.bytes_stream();
            loop {
                let chunk = tokio::select! {
                    () = sender.closed() => return,
                    chunk = upstream.next() => chunk,
                };
                let Some(chunk) = chunk else { return };
                if chunk
                    .as_ref()
                    .is_ok_and(|chunk| String::from_utf8_lossy(chunk).contains("\"code\":410"))
                {
                    watches.gone.fetch_add(1, Ordering::Relaxed);
                }
                let broken = chunk.is_err();
                let chunk = chunk.map_err(io::Error::other);
                if sender.send((Instant::now() + late, chunk)).await.is_err() || broken {
                    return;
                }
            }
        });
        Body::from_stream(stream::unfold(carried, Carried::next))
    }
}

impl Carried {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.over {
            return None;
        }
        loop {
            let rules = *self.rules.borrow_and_update();
            if self.number < rules.cut {
                self.over = true;
                return Some((Err(io::Error::other("cut")), self));
            }
            if self.number < rules.ended || rules.brief {
                return None;
            }
            let silent = self.number < rules.silent;
            tokio::select! {
                changed = self.rules.changed() => {
                    changed.ok()?;
                }
                chunk = self.chunks.recv(), if !silent => {
                    let (due, chunk) = chunk?;
                    tokio::time::sleep_until(due).await;
                    self.over = chunk.is_err();
                    return Some((chunk, self));
                }
            }
        }
    }
}
