//! One request to one chat, once. Knows what an answer means; retries, order and disk are the lane's business.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use reqwest::{
    Client, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    multipart::Form,
    redirect::Policy,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use super::{
    failure::{DeliverError, chain},
    rehearsal::Rehearsal,
};
use crate::model::settings::{ChatSettings, Secret};

/// A connection that does not stand by then never will; shorter than most chats' timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of an answer is read; chats say "ok", one sentence, repeat the message, or list a thread's last ones.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// So much of it is repeated in an error.
const ANSWER_CHARS_MAX: usize = 200;
/// Parts of a URL shorter than this (`v1`, `hooks`) are no secret and are not searched for in answers.
const SECRET_PART_BYTES_MIN: usize = 8;

/// The HTTP client of one chat.
pub(super) struct Post {
    chat: ChatSettings,
    client: Result<Client, String>,
    /// Where requests are written down instead of being sent.
    rehearsal: Option<Rehearsal>,
}

/// What an accepted request was answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The start of its body.
    pub(super) body: Vec<u8>,
}

/// What is sent.
pub(super) enum Body {
    /// JSON, byte by byte as a signature saw it.
    Json(Vec<u8>),
    /// Anything else, with its media type.
    Bytes(Vec<u8>, &'static str),
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(&'static str, String)>),
    /// Parts: name, file name, media type, content.
    Parts(Vec<Part>),
}

/// One part of a multipart body.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
    pub(super) media_type: &'static str,
    pub(super) content: Vec<u8>,
}

impl Body {
    /// A value as JSON; what cannot be written as JSON is a bug, and becomes `null`.
    pub(super) fn json<B: Serialize>(body: &B) -> Self {
        Self::Json(serde_json::to_vec(body).unwrap_or_else(|_| b"null".to_vec()))
    }
}

/// Where a request goes.
pub(super) enum To<'a> {
    /// A URL that is itself a secret.
    Secret(&'a Secret),
    /// A secret base URL, and what is appended to its path.
    Below(&'a Secret, &'a str),
    /// A URL that is itself a secret, and what is asked of it in its query.
    Asking(&'a Secret, &'a [(&'static str, &'a str)]),
    /// A URL that is none.
    Open(Url),
}

impl Post {
    pub(super) fn new(chat: ChatSettings) -> Self {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none())
            .user_agent(concat!("flipback/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error.without_url()));
        Self {
            chat,
            client,
            rehearsal: None,
        }
    }

    /// One that sends nothing, reads no secret, and writes down what it would have sent.
    pub(super) fn rehearsing(chat: ChatSettings, rehearsal: Rehearsal) -> Self {
        Self {
            rehearsal: Some(rehearsal),
            ..Self::new(chat)
        }
    }

    /// Where what would be sent is written down, if it is.
    pub(super) fn rehearsal(&self) -> Option<&Rehearsal> {
        self.rehearsal.as_ref()
    }

    /// Reads a secret of the chat.
    pub(super) async fn read(&self, secret: &Secret) -> Result<SecretString, DeliverError> {
        match self.rehearsal {
            Some(_) => Ok(SecretString::from("[secret]")),
            None => read(secret).await,
        }
    }

    /// The chat's settings.
    pub(super) fn chat(&self) -> &ChatSettings {
        &self.chat
    }

    pub(super) fn name(&self) -> &str {
        &self.chat.name
    }

    /// Posts `body` and takes any 2xx for success; ends within the chat's timeout.
    pub(super) async fn send(&self, to: To<'_>, body: Body, headers: HeaderMap, bearer: Option<&Secret>) -> Result<Answer, DeliverError> {
        self.send_hiding(to, body, headers, bearer, &[]).await
    }

    /// The same for a body that holds secrets: an answer that repeats one is not told.
    pub(super) async fn send_hiding(
        &self,
        to: To<'_>,
        body: Body,
        headers: HeaderMap,
        bearer: Option<&Secret>,
        hidden: &[SecretString],
    ) -> Result<Answer, DeliverError> {
        if let Some(rehearsal) = &self.rehearsal {
            return Ok(rehearsal.request(&to, &body, &headers, bearer.is_some()));
        }
        tokio::time::timeout(self.chat.timeout, self.exchange(to, body, headers, bearer, hidden))
            .await
            .unwrap_or(Err(DeliverError::Timeout(self.chat.timeout)))
    }

    async fn exchange(
        &self,
        to: To<'_>,
        body: Body,
        mut headers: HeaderMap,
        bearer: Option<&Secret>,
        hidden: &[SecretString],
    ) -> Result<Answer, DeliverError> {
        let client = self.client.as_ref().map_err(|why| DeliverError::Client(why.clone()))?;
        let url = target(to).await?;
        let token = match bearer {
            Some(token) => Some(read(token).await?),
            None => None,
        };
        if let Some(token) = &token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.expose_secret().trim())).map_err(|_| DeliverError::BadToken)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let request = client.post(url.clone()).headers(headers);
        let request = match body {
            Body::Json(bytes) => request.header(CONTENT_TYPE, "application/json").body(bytes),
            Body::Bytes(bytes, media_type) => request.header(CONTENT_TYPE, media_type).body(bytes),
            Body::Form(fields) => request.form(&fields),
            Body::Parts(parts) => request.multipart(form(parts)?),
        };
        let mut response = request.send().await.map_err(|error| DeliverError::Send(error.without_url()))?;
        let status = response.status();
        let asked = retry_after(response.headers());
        let body = answer(&mut response).await;
        if status.is_success() {
            return Ok(Answer { body });
        }
        let hidden: Vec<&SecretString> = token.iter().chain(hidden).collect();
        let said = scrubbed(&String::from_utf8_lossy(&body), &url, &hidden);
        let retry_after = asked.max((status == StatusCode::TOO_MANY_REQUESTS).then(|| said_retry_after(&body)).flatten());
        Err(refused(status, said, retry_after))
    }
}

async fn target(to: To<'_>) -> Result<Url, DeliverError> {
    let (secret, below, query) = match to {
        To::Open(url) => return Ok(url),
        To::Secret(secret) => (secret, None, &[][..]),
        To::Below(secret, below) => (secret, Some(below), &[][..]),
        To::Asking(secret, query) => (secret, None, query),
    };
    let secret = read(secret).await?;
    let mut url = Url::parse(secret.expose_secret().trim()).map_err(|_| DeliverError::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(DeliverError::NotAUrl);
    }
    if let Some(below) = below {
        let path = format!("{}/{}", url.path().trim_end_matches('/'), below.trim_start_matches('/'));
        url.set_path(&path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

fn form(parts: Vec<Part>) -> Result<Form, DeliverError> {
    let mut form = Form::new();
    for part in parts {
        let mut made = reqwest::multipart::Part::bytes(part.content);
        if let Some(file_name) = part.file_name {
            made = made.file_name(file_name);
        }
        let made = made
            .mime_str(part.media_type)
            .map_err(|error| DeliverError::Client(chain(&error.without_url())))?;
        form = form.part(part.name, made);
    }
    Ok(form)
}

fn refused(status: StatusCode, said: String, retry_after: Option<Duration>) -> DeliverError {
    DeliverError::Status {
        status: status.as_u16(),
        said,
        retry_after,
    }
}

/// Reads a secret off the runtime's threads: it may lie on a volume that hangs.
async fn read(secret: &Secret) -> Result<SecretString, DeliverError> {
    let secret = secret.clone();
    let read = tokio::task::spawn_blocking(move || secret.read()).await;
    match read {
        Ok(read) => read.map_err(DeliverError::Secret),
        Err(_) => Err(DeliverError::Client("the runtime is stopping".to_owned())),
    }
}

/// `Retry-After` in whole seconds; the form with a date would need a clock, and no chat uses it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// `retry_after` of a JSON answer, in seconds: Discord's is finer there than in its header.
fn said_retry_after(body: &[u8]) -> Option<Duration> {
    let said: serde_json::Value = serde_json::from_slice(body).ok()?;
    Duration::try_from_secs_f64(said.get("retry_after")?.as_f64()?).ok()
}

/// The start of the answer's body; a body that breaks off is as good as its start.
async fn answer(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ANSWER_BYTES_MAX {
            body.truncate(ANSWER_BYTES_MAX);
            break;
        }
    }
    body
}

/// The answer as one short line, or a placeholder when it repeats a part of the URL or another secret.
fn scrubbed(answer: &str, url: &Url, hidden: &[&SecretString]) -> String {
    let path = url.path().split('/').map(str::to_owned);
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    let raw_query = url.query().unwrap_or_default().split(['&', '=']).map(str::to_owned);
    let (user, password) = (url.username(), url.password().unwrap_or_default());
    // As the request carried it: in a header that some servers repeat.
    let basic = BASE64.encode(format!("{user}:{password}"));
    let login = [user.to_owned(), password.to_owned(), basic];
    let hidden = hidden.iter().map(|secret| secret.expose_secret().trim().to_owned());
    let parts: Vec<String> = path.chain(query).chain(raw_query).chain(login).chain(hidden).collect();
    without(answer, &parts)
}

/// What a server said as one short line, or a placeholder when it repeats one of the secrets.
pub(super) fn without(answer: &str, secrets: &[String]) -> String {
    let line = answer.split_whitespace().collect::<Vec<_>>().join(" ");
    let repeats = |part: &String| part.len() >= SECRET_PART_BYTES_MIN && (answer.contains(part.as_str()) || line.contains(part.as_str()));
    if secrets.iter().any(repeats) {
        return "[its answer is left out, since it repeats a secret of the chat]".to_owned();
    }
    if line.chars().count() > ANSWER_CHARS_MAX {
        line.chars().take(ANSWER_CHARS_MAX).chain(['…']).collect()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_repeats_the_secret_is_left_out() {
        let url = Url::parse("https://hooks.example/services/T000/B000/abcdefghijklmnop?sig=s3cr%2Fet-signature").expect("valid");
        for echo in [
            "no such path /services/T000/B000/abcdefghijklmnop",
            "bad sig s3cr/et-signature",
            "s3cr%2Fet-signature",
        ] {
            assert!(scrubbed(echo, &url, &[]).starts_with("[its answer is left out"), "{echo}");
        }
        let login = Url::parse("https://reader:hunter2-hunter2@alerts.example/").expect("valid");
        assert!(scrubbed("Authorization: Basic cmVhZGVyOmh1bnRlcjItaHVudGVyMg==", &login, &[]).starts_with("[its answer"));
        assert_eq!(scrubbed("no_service\n", &url, &[]), "no_service");
        let token = SecretString::from("a-long-bearer-token");
        assert!(scrubbed("you sent a-long-bearer-token", &url, &[&token]).starts_with("[its answer"));
        assert_eq!(scrubbed(&"x".repeat(5000), &url, &[]).chars().count(), ANSWER_CHARS_MAX + 1);
    }

    #[test]
    fn retry_after_reads_seconds_and_nothing_else() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect("valid"));
            retry_after(&headers)
        };
        assert_eq!(of("30"), Some(Duration::from_secs(30)));
        assert_eq!(of("0.5"), Some(Duration::from_millis(500)));
        for bad in ["-1", "NaN", "inf", "Wed, 21 Oct 2026 07:28:00 GMT", ""] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_read_from_an_answers_body_too() {
        let said = |body: &str| said_retry_after(body.as_bytes());
        assert_eq!(
            said(r#"{"message": "You are being rate limited.", "retry_after": 64.57, "global": false}"#),
            Some(Duration::from_millis(64_570))
        );
        for bad in [
            "",
            "slow down",
            "{}",
            r#"{"retry_after": -1}"#,
            r#"{"retry_after": "soon"}"#,
            r#"{"retry_after": 1e300}"#,
        ] {
            assert_eq!(said(bad), None, "{bad}");
        }
    }
}
