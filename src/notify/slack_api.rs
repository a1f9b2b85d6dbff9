//! Slack's Web API, one call at a time. It answers HTTP 200 to nearly everything: whether a call worked stands in its JSON.

use reqwest::header::HeaderMap;
use serde_json::Value;
use url::Url;

use super::{
    DeliverError,
    post::{Body, Post, To},
};
use crate::model::settings::Secret;

/// Slack's error codes are short words; anything else is not repeated, since it could repeat the token.
const ERROR_CHARS_MAX: usize = 64;

/// The Web API as one app sees it.
#[derive(Clone, Copy)]
pub(super) struct Api<'a> {
    pub(super) post: &'a Post,
    pub(super) base: &'a Url,
    pub(super) token: &'a Secret,
}

impl Api<'_> {
    /// Calls a method, within the chat's timeout.
    ///
    /// # Errors
    /// [`DeliverError::Advised`] where Slack's refusal is known, [`DeliverError::Refused`] where it is not.
    pub(super) async fn call(self, method: &str, body: Body) -> Result<Value, DeliverError> {
        let mut url = self.base.clone();
        let path = format!("{}/{method}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let answer = self.post.send(To::Open(url), body, HeaderMap::new(), Some(self.token)).await?;
        let Ok(said) = serde_json::from_slice::<Value>(&answer.body) else {
            return Err(DeliverError::Refused {
                said: "its answer is no JSON".to_owned(),
                permanent: false,
            });
        };
        if said["ok"] == true { Ok(said) } else { Err(refusal(&said)) }
    }

    /// Whether an address that Slack named for an upload is one that bytes may be sent to.
    pub(super) fn may_upload_to(self, url: &Url) -> bool {
        url.scheme() == "https" || url.origin() == self.base.origin()
    }
}

/// Whether Slack may have done what it was asked for, although it did not say so.
pub(super) fn is_in_doubt(error: &DeliverError) -> bool {
    match error {
        DeliverError::Send(error) => !error.is_connect() && !error.is_builder(),
        DeliverError::Timeout(_) => true,
        DeliverError::Status { status, .. } => *status >= 500,
        // Slack's own words: "it's possible some aspect of the operation succeeded before the error was raised".
        DeliverError::Advised { said, .. } => matches!(said.as_str(), "internal_error" | "fatal_error" | "request_timeout"),
        DeliverError::Refused { permanent, .. } => !permanent,
        DeliverError::Secret(_)
        | DeliverError::NotAUrl
        | DeliverError::BadToken
        | DeliverError::BadKey
        | DeliverError::Mail { .. }
        | DeliverError::Client(_) => false,
    }
}

/// Whether the message that a reply or a change is meant for is not there any more.
pub(super) fn is_thread_gone(error: &DeliverError) -> bool {
    matches!(
        error,
        DeliverError::Advised { said, .. }
            if matches!(said.as_str(), "message_not_found" | "thread_not_found" | "cannot_reply_to_message")
    )
}

const INVITE: &str = "the app cannot post there: type `/invite @flipback` (or the name you gave the app) in the channel, and set the \
                      chat's `channel` to the channel's id, C0123456789, from its details in Slack";
const TOKEN: &str = "Slack does not accept the bot token: copy the Bot User OAuth Token (xoxb-...) of the app into {credential}, \
                     reinstalling the app to the workspace if need be";
const SCOPE: &str = "give the app the scope that is named (OAuth & Permissions; chat:write is needed, files:write for pictures, \
                     channels:history to avoid repeated messages) and reinstall it; its token is in {credential}";
const POLICY: &str = "a rule of the workspace or the channel keeps the app from posting: ask its administrators to allow the app, \
                      or name another channel";
const ARCHIVED: &str = "the channel is archived: unarchive it, or name another one in the chat's `channel`";
const FORM: &str = "Slack does not accept the form of this message: if the chat has templates of its own, look at them, else report \
                    it to flipback's makers";
const GONE: &str = "the first message of this thread was deleted, or can no longer be changed; later ones start a new thread";
const BUSY: &str = "Slack has trouble of its own, or limits the rate of messages; it is tried again";
const UNKNOWN: &str = "look the word up in Slack's documentation (https://docs.slack.dev/reference/methods/chat.postMessage); the \
                       app's token is in {credential}";

/// What Slack's word means, and whether it will say it again.
fn meaning(word: &str) -> (&'static str, bool) {
    match word {
        "not_in_channel" | "channel_not_found" => (INVITE, true),
        "is_archived" => (ARCHIVED, true),
        "invalid_auth"
        | "not_authed"
        | "account_inactive"
        | "token_revoked"
        | "token_expired"
        | "not_allowed_token_type"
        | "org_login_required" => (TOKEN, true),
        "missing_scope" | "no_permission" => (SCOPE, true),
        "restricted_action"
        | "restricted_action_read_only_channel"
        | "restricted_action_thread_only_channel"
        | "restricted_action_non_threadable_channel"
        | "restricted_action_thread_locked"
        | "access_denied"
        | "ekm_access_denied"
        | "enterprise_is_restricted"
        | "team_access_not_granted"
        | "two_factor_setup_required"
        | "messages_tab_disabled" => (POLICY, true),
        "msg_too_long"
        | "msg_blocks_too_long"
        | "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_attachments"
        | "too_many_attachments"
        | "attachment_payload_limit_exceeded"
        | "invalid_metadata_format"
        | "invalid_metadata_schema"
        | "metadata_too_large"
        | "no_text"
        | "invalid_arguments"
        | "invalid_json"
        | "json_not_object" => (FORM, true),
        "message_not_found" | "thread_not_found" | "cannot_reply_to_message" | "cant_update_message" | "edit_window_closed" => (GONE, true),
        "ratelimited"
        | "rate_limited"
        | "message_limit_exceeded"
        | "accesslimited"
        | "internal_error"
        | "fatal_error"
        | "service_unavailable"
        | "request_timeout"
        | "team_added_to_org"
        | "update_failed" => (BUSY, false),
        _ => (UNKNOWN, true),
    }
}

fn refusal(said: &Value) -> DeliverError {
    let word = said["error"].as_str().map_or("an error without a name", |word| tame(word));
    let (advice, permanent) = meaning(word);
    let needed = said["needed"].as_str().map(tame);
    DeliverError::Advised {
        said: needed.map_or_else(|| word.to_owned(), |needed| format!("{word} (needs {needed})")),
        advice,
        permanent,
    }
}

/// A word of Slack's, unless it is none.
fn tame(word: &str) -> &str {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':' | '.' | ',');
    if !word.is_empty() && word.len() <= ERROR_CHARS_MAX && word.chars().all(plain) {
        word
    } else {
        "an error that is not one of its words"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::settings::{Channel, Secret};

    fn remedy(answer: &Value) -> String {
        refusal(answer).remedy(&Channel::SlackBot {
            token: Secret::File("/etc/flipback/slack-token".into()),
            channel: "C0123456789".into(),
            api: "https://slack.com/api/".parse().expect("a URL"),
        })
    }

    #[test]
    fn what_slack_says_becomes_what_a_person_can_do() {
        let words = [
            "not_in_channel",
            "channel_not_found",
            "is_archived",
            "invalid_auth",
            "restricted_action",
            "msg_too_long",
            "message_not_found",
            "ratelimited",
            "what_is_this",
        ];
        let mut lines: Vec<String> = words
            .iter()
            .map(|word| {
                let answer = json!({"ok": false, "error": word});
                let sort = if refusal(&answer).is_permanent() { "for good" } else { "for now" };
                format!("{} [{sort}]\n  {}", refusal(&answer), remedy(&answer))
            })
            .collect();
        let scope = json!({"ok": false, "error": "missing_scope", "needed": "files:write", "provided": "chat:write"});
        lines.push(format!("{}\n  {}", refusal(&scope), remedy(&scope)));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_answer_that_repeats_the_token_is_not_repeated() {
        for odd in ["xoxb-1-2-abcdef", "no such token: xoxb-1", "", &"x".repeat(65), "Error"] {
            let said = refusal(&json!({"ok": false, "error": odd, "needed": odd})).to_string();
            assert!(!said.contains("xoxb") && !said.contains(&"x".repeat(65)), "{said}");
        }
        assert!(refusal(&json!({})).is_permanent());
    }
}
