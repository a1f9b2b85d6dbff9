//! A delivery that is written down instead of being sent: the same notifiers, on the same road, up to the last step. For
//! people who want to see what a chat would be told before it is.
//!
//! Refuses to read a secret: what would hold one holds the word `[secret]`. Addresses that are secrets are not shown.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::Value;

use super::post::{Answer, Body, Part, To};

/// What every chat's API answers when it is content, in one: identifiers that a notifier may ask for.
const CONTENT: &str = r#"{"ok":true,"status":"success","id":"1","ts":"1700000000.000100","channel":"C0123456789","file_id":"F0123456789",
"upload_url":"https://rehearsal.invalid/upload","files":[{"id":"F0123456789"}]}"#;

/// What was not sent, in order.
#[derive(Clone, Debug, Default)]
pub struct Rehearsal(Arc<Mutex<Vec<Draft>>>);

/// One request, or one mail, that was not sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draft {
    /// Where it would have gone, without what is secret.
    pub to: String,
    /// Its headers, without what is secret.
    pub headers: BTreeMap<String, String>,
    /// What it would have said.
    pub body: Value,
}

impl Rehearsal {
    /// What was written down since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Draft> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, draft: Draft) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(draft);
    }

    /// Writes a request down and answers it as a content chat would.
    pub(super) fn request(&self, to: &To<'_>, body: &Body, headers: &HeaderMap, bearer: bool) -> Answer {
        let to = match to {
            To::Secret(_) | To::Asking(..) => "POST [secret URL]".to_owned(),
            To::Below(_, path) => format!("POST [secret URL]/{}", path.trim_start_matches('/')),
            To::Open(url) => format!("POST {}{}", url.origin().ascii_serialization(), url.path()),
        };
        let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let mut headers: BTreeMap<String, String> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        if bearer {
            headers.insert("authorization".to_owned(), "Bearer [secret]".to_owned());
        }
        // Of the moment, and made with a key that is none.
        for (name, placeholder) in [("webhook-timestamp", "[now]"), ("webhook-signature", "v1,[signature]")] {
            if let Some(value) = headers.get_mut(name) {
                placeholder.clone_into(value);
            }
        }
        headers.insert("content-type".to_owned(), media_type(body).to_owned());
        self.note(Draft {
            to,
            headers,
            body: shown(body),
        });
        Answer {
            body: CONTENT.as_bytes().to_vec(),
        }
    }
}

fn media_type(body: &Body) -> &'static str {
    match body {
        Body::Json(_) => "application/json",
        Body::Bytes(_, media_type) => media_type,
        Body::Form(_) => "application/x-www-form-urlencoded",
        Body::Parts(_) => "multipart/form-data",
    }
}

fn shown(body: &Body) -> Value {
    match body {
        Body::Json(bytes) => content(bytes),
        Body::Bytes(bytes, _) => content(bytes),
        Body::Form(fields) => fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), content(value.as_bytes())))
            .collect(),
        Body::Parts(parts) => parts.iter().map(|part| (part.name.clone(), file(part))).collect(),
    }
}

/// JSON as JSON, text as text, anything else by its size.
fn content(bytes: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    std::str::from_utf8(bytes).map_or_else(|_| format!("[{} bytes]", bytes.len()).into(), Into::into)
}

fn file(part: &Part) -> Value {
    match &part.file_name {
        Some(name) => format!("[{name}, {}, {} bytes]", part.media_type, part.content.len()).into(),
        None => content(&part.content),
    }
}
