//! A stand-in for Slack, Teams and a generic webhook: it accepts what they accept and remembers what it got, in order.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    clock,
    listen::{Ending, Listening},
};

/// Messages remembered.
const MESSAGES_MAX: usize = 1000;

/// One message as a chat got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// When.
    pub at: Timestamp,
    /// `slack`, `teams`, `webhook`.
    pub chat: String,
    /// What was posted.
    pub body: Value,
}

type Messages = Arc<Mutex<VecDeque<Message>>>;

/// The chats' server.
#[derive(Debug)]
pub(super) struct Chats {
    messages: Messages,
    server: Listening,
}

impl Chats {
    /// Starts listening on loopback.
    pub(super) async fn start() -> io::Result<Self> {
        let messages = Messages::default();
        let app = Router::new().route("/{chat}/{*secret}", post(receive)).with_state(messages.clone());
        let server = Listening::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), app, Ending::Graceful).await?;
        Ok(Self { messages, server })
    }

    /// The webhook URL of `slack`, `teams` or `webhook`.
    pub(super) fn url(&self, chat: &str) -> String {
        format!("http://{}/{chat}/hooks/not-a-real-secret", self.server.address())
    }

    /// What came so far, oldest first.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

async fn receive(State(messages): State<Messages>, Path((chat, _)): Path<(String, String)>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "invalid_payload").into_response();
    };
    let answer = match chat.as_str() {
        "slack" => (StatusCode::OK, "ok").into_response(),
        "teams" => StatusCode::ACCEPTED.into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    };
    let mut all = messages.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= MESSAGES_MAX {
        all.pop_front();
    }
    all.push_back(Message {
        at: clock::now(),
        chat,
        body,
    });
    answer
}
