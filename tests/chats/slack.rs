//! A double of Slack's Web API: one channel, its messages, their threads and files; and faults, each used once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use super::stub::{Answer, Request, Stub};

pub const CHANNEL: &str = "C0123456789";
pub const TOKEN: &str = "xoxb-very-secret-token";

/// What goes wrong with one call.
pub struct Fault {
    pub method: &'static str,
    /// The call is carried out all the same.
    pub takes: bool,
    pub answer: Answer,
}

/// What the workspace holds.
#[derive(Default)]
pub struct Workspace {
    /// As posted and changed, each with its `ts`.
    pub messages: Vec<Value>,
    /// Bytes, title and thread of each file shared.
    pub files: Vec<(Vec<u8>, String, String)>,
    /// Bytes sent, not yet shared, by file id.
    uploads: Vec<(String, Vec<u8>)>,
    pub faults: VecDeque<Fault>,
    /// The app may not read the channel.
    pub is_blind: bool,
}

#[derive(Clone, Default)]
pub struct Slack(Arc<Mutex<Workspace>>);

impl Slack {
    pub fn workspace(&self) -> MutexGuard<'_, Workspace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fails(&self, method: &'static str, takes: bool, answer: Answer) {
        self.workspace().faults.push_back(Fault { method, takes, answer });
    }

    /// Starts the API; its base URL is `<address>/api/`.
    pub async fn serve(&self) -> Stub {
        let workspace = Arc::clone(&self.0);
        Stub::start(move |request| {
            let mut workspace = workspace.lock().unwrap_or_else(PoisonError::into_inner);
            let method = request.path().trim_start_matches("/api/").to_owned();
            let fault = workspace.faults.iter().position(|fault| method.starts_with(fault.method));
            let Some(fault) = fault.and_then(|at| workspace.faults.remove(at)) else {
                return workspace.answer(&method, request);
            };
            if fault.takes {
                workspace.answer(&method, request);
            }
            fault.answer
        })
        .await
    }

    /// The replies of a thread, its first message not among them.
    pub fn replies(&self, ts: &Value) -> Vec<Value> {
        let workspace = self.workspace();
        workspace
            .messages
            .iter()
            .filter(|message| message["thread_ts"] == *ts)
            .cloned()
            .collect()
    }

    /// The messages that stand in the channel itself.
    pub fn heads(&self) -> Vec<Value> {
        let workspace = self.workspace();
        workspace
            .messages
            .iter()
            .filter(|message| message["thread_ts"].is_null())
            .cloned()
            .collect()
    }
}

fn refuse(word: &str) -> Answer {
    Answer::Json(200, json!({"ok": false, "error": word}))
}

impl Workspace {
    fn answer(&mut self, method: &str, request: &Request) -> Answer {
        if let Some(id) = method.strip_prefix("/upload/") {
            assert!(!request.headers.contains_key("authorization"), "the token goes to the API only");
            self.uploads.push((id.to_owned(), request.body.clone()));
            return Answer::Text(200, "OK - 1");
        }
        if request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return refuse("invalid_auth");
        }
        match method {
            "chat.postMessage" => self.post(request.json()),
            "chat.update" => self.update(&request.json()),
            "conversations.history" | "conversations.replies" if self.is_blind => Answer::Json(
                200,
                json!({"ok": false, "error": "missing_scope", "needed": "channels:history", "provided": "chat:write"}),
            ),
            "conversations.history" => self.list(|message| message["thread_ts"].is_null()),
            "conversations.replies" => {
                let ts = request.form()["ts"].clone();
                self.list(|message| message["thread_ts"] == *ts || message["ts"] == *ts)
            }
            "files.getUploadURLExternal" => {
                let length: usize = request.form()["length"].parse().expect("a length");
                assert!(length > 0 && request.form()["filename"] == "plot.png");
                let id = format!("F{}", self.uploads.len() + self.files.len());
                let host = &request.headers["host"];
                Answer::Json(
                    200,
                    json!({"ok": true, "file_id": id, "upload_url": format!("http://{host}/upload/{id}")}),
                )
            }
            "files.completeUploadExternal" => self.share(&request.json()),
            _ => refuse("unknown_method"),
        }
    }

    fn post(&mut self, mut message: Value) -> Answer {
        if message["channel"] != CHANNEL && message["channel"] != "#deploys" {
            return refuse("channel_not_found");
        }
        let thread = &message["thread_ts"];
        if !thread.is_null() && !self.messages.iter().any(|known| known["ts"] == *thread) {
            return refuse("thread_not_found");
        }
        let ts = format!("1795234354.{:06}", self.messages.len() + 1);
        message["ts"] = ts.clone().into();
        self.messages.push(message.clone());
        Answer::Json(200, json!({"ok": true, "channel": CHANNEL, "ts": ts, "message": message}))
    }

    fn update(&mut self, change: &Value) -> Answer {
        assert_eq!(change["channel"], CHANNEL, "a message is changed by its channel's id");
        let Some(message) = self.messages.iter_mut().find(|message| message["ts"] == change["ts"]) else {
            return refuse("message_not_found");
        };
        for part in ["text", "blocks", "attachments"] {
            message[part] = change[part].clone();
        }
        Answer::Json(200, json!({"ok": true, "channel": CHANNEL, "ts": change["ts"]}))
    }

    fn list(&self, is_wanted: impl Fn(&Value) -> bool) -> Answer {
        let messages: Vec<&Value> = self.messages.iter().filter(|message| is_wanted(message)).collect();
        Answer::Json(200, json!({"ok": true, "messages": messages, "has_more": false}))
    }

    fn share(&mut self, request: &Value) -> Answer {
        assert_eq!(request["channel_id"], CHANNEL, "a file is shared by its channel's id");
        let file = &request["files"][0];
        let Some(at) = self.uploads.iter().position(|(id, _)| file["id"] == *id) else {
            return refuse("file_not_found");
        };
        let (_, bytes) = self.uploads.remove(at);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.files.push((bytes, text(&file["title"]), text(&request["thread_ts"])));
        Answer::Json(200, json!({"ok": true, "files": [{"id": file["id"]}]}))
    }
}
