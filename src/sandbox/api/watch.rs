//! Watches: a stream of JSON lines that follows the history of one kind.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    failure::Failure,
    kinds::{Kind, text},
    newest::Follower,
    select::Filter,
    store::Change,
};

/// How often an idle watcher that asked for bookmarks gets one, as on a real server.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With what exists now.
    Now,
    /// With what exists now, and a bookmark that says where it ends.
    Streaming,
    /// After a resourceVersion.
    After(u64),
}

/// What a watcher asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub kind: &'static Kind,
    pub filter: Filter,
    pub start: Start,
    pub bookmarks: bool,
    pub timeout: Duration,
}

struct Watcher {
    api: Api,
    request: Request,
    cursor: u64,
    lines: VecDeque<Bytes>,
    newest: Follower,
    deadline: Instant,
    stop: CancellationToken,
    ended: bool,
}

/// Answers a watch.
pub(super) fn respond(api: &Api, request: Request) -> Response {
    let newest = api.newest();
    let stop = api.stopping();
    let mut watcher = Watcher {
        api: api.clone(),
        cursor: 0,
        lines: VecDeque::new(),
        newest,
        deadline: Instant::now() + request.timeout,
        stop,
        ended: false,
        request,
    };
    watcher.open();
    let lines = futures::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, Infallible>(line), watcher))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

impl Watcher {
    fn open(&mut self) {
        let asked = self.request.start;
        if let Start::After(version) = asked {
            self.cursor = version;
            return;
        }
        let (objects, version) = self.api.snapshot(self.request.kind, &self.request.filter);
        for object in objects {
            self.push("ADDED", &object);
        }
        self.cursor = version;
        if asked == Start::Streaming {
            self.bookmark(true);
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.newest.catch_up();
            self.collect();
            if self.lines.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    async fn wait(&mut self) {
        let bookmark_at = Instant::now() + BOOKMARK_EVERY;
        tokio::select! {
            biased;
            () = self.newest.changed() => {}
            () = self.stop.cancelled() => self.ended = true,
            () = tokio::time::sleep_until(self.deadline) => {
                if self.request.bookmarks {
                    self.bookmark(false);
                }
                self.ended = true;
            }
            () = tokio::time::sleep_until(bookmark_at), if self.request.bookmarks => self.bookmark(false),
        }
    }

    fn collect(&mut self) {
        match self.api.changes(self.request.kind, self.cursor) {
            Ok((changes, version)) => {
                for change in changes {
                    self.tell(&change);
                }
                self.cursor = version.max(self.cursor);
            }
            Err(expired) => {
                self.push("ERROR", &Failure::status(&expired));
                self.ended = true;
            }
        }
    }

    /// An object that comes to pass the filter is added, one that no longer does is deleted, as seen through it.
    fn tell(&mut self, change: &Change) {
        let passes = |object: &Option<std::sync::Arc<Value>>| object.as_ref().is_some_and(|object| self.request.filter.admits(object));
        match (passes(&change.before), passes(&change.after)) {
            (false, false) => {}
            (true, false) => {
                let Some(mut last) = change.before.as_deref().cloned() else {
                    return;
                };
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.push("DELETED", &last);
            }
            (before, true) => {
                let Some(object) = change.after.as_deref() else { return };
                let word = if before { "MODIFIED" } else { "ADDED" };
                self.push(word, object);
            }
        }
    }

    fn bookmark(&mut self, initial: bool) {
        let mut metadata = json!({ "resourceVersion": self.cursor.to_string(), "creationTimestamp": null });
        if initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let kind = self.request.kind;
        let mut object = json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata });
        // Typed clients refuse a bookmark without the parts their type requires.
        if text(&object, &["kind"]) == "EndpointSlice" {
            object["addressType"] = json!("");
            object["endpoints"] = json!(null);
            object["ports"] = json!(null);
        }
        if text(&object, &["kind"]) == "Event" {
            object["involvedObject"] = json!({});
        }
        self.push("BOOKMARK", &object);
    }

    fn push(&mut self, word: &str, object: &Value) {
        let mut line = json!({ "type": word, "object": object }).to_string().into_bytes();
        line.push(b'\n');
        self.lines.push_back(line.into());
    }
}
