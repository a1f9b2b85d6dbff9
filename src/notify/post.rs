//! One request to one chat, once. Knows what an answer means; retries, order and disk are the lane's business.

use std::{error::Error, fmt::Write as _, time::Duration};

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

use super::rehearsal::Rehearsal;
use crate::model::settings::{ChatSettings, Secret, SecretError};

/// A connection that does not stand by then never will; shorter than most chats' timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of an answer is read; chats say "ok", one sentence, repeat the message, or list a thread's last ones.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// So much of it is repeated in an error.
const ANSWER_CHARS_MAX: usize = 200;
/// Parts of a URL shorter than this (`v1`, `hooks`) are no secret and are not searched for in answers.
const SECRET_PART_BYTES_MIN: usize = 8;

/// Why a chat was not told. Never carries the URL or the token.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The webhook URL or the token cannot be read.
    #[error("failed to read the chat's webhook URL or token")]
    Secret(#[source] SecretError),
    /// The webhook URL is not usable as one.
    #[error("the chat's webhook URL is no http:// or https:// URL with a host")]
    NotAUrl,
    /// The token cannot be sent.
    #[error("the chat's token has characters that an HTTP header cannot carry")]
    BadToken,
    /// No HTTP client could be made.
    #[error("failed to make an HTTP client: {0}")]
    Client(String),
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The request did not reach the chat.
    #[error("failed to reach the chat")]
    Send(#[source] reqwest::Error),
    /// The chat took the request and refused the message in its answer.
    #[error("the chat refused: {said}")]
    Refused {
        /// What it said, shortened.
        said: String,
        /// Whether the same message would be refused again.
        permanent: bool,
    },
    /// A mail server was not reached, or the way to it is set up wrongly.
    #[error("failed to {step}: {why}")]
    Mail {
        /// What was attempted.
        step: &'static str,
        /// What came of it, without a secret.
        why: String,
        /// Whether only another configuration helps.
        permanent: bool,
    },
    /// The signing key cannot be used.
    #[error("the signing key begins with whsec_, and what follows is not base64")]
    BadKey,
    /// The chat refused, and what it said is known to mean something that a person can set right.
    #[error("the chat refused: {said}")]
    Advised {
        /// What it said, shortened.
        said: String,
        /// What a person can do; `{credential}` stands for where the credential comes from.
        advice: &'static str,
        /// Whether the same message would be refused again.
        permanent: bool,
    },
    /// The chat refused.
    #[error("the chat answered {status}{}", if .said.is_empty() { String::new() } else { format!(": {}", .said) })]
    Status {
        /// Its HTTP status.
        status: u16,
        /// What it said, shortened; empty when it said nothing.
        said: String,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
}

impl DeliverError {
    /// Whether the same request will fail again however often it is tried.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotAUrl | Self::BadToken | Self::BadKey => true,
            Self::Refused { permanent, .. } | Self::Advised { permanent, .. } | Self::Mail { permanent, .. } => *permanent,
            // A redirect is never followed: it would carry the message, and with it the trust in the URL, elsewhere.
            Self::Status { status, .. } => (300..500).contains(status) && !matches!(status, 408 | 425 | 429),
            // A credential file may be mounted a moment later.
            Self::Secret(_) | Self::Client(_) | Self::Timeout(_) | Self::Send(_) => false,
        }
    }

    /// How long the chat asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What a person can do about it, given where the chat's credential comes from.
    #[must_use]
    pub fn remedy(&self, credential: Option<&Secret>) -> String {
        let place = match credential {
            Some(Secret::File(path)) => format!("{path:?}"),
            Some(Secret::Value(_)) | None => "the setting or environment variable that holds it".to_owned(),
        };
        match self {
            Self::Status { status: 404 | 410, .. } => {
                format!("the webhook URL is no longer valid: create a new one in the chat and put it into {place}")
            }
            Self::Status { status: 401 | 403, .. } => {
                format!(
                    "the chat refuses this webhook: check that it is still allowed to post, or create a new one and put it into {place}"
                )
            }
            Self::Status { status: 300..=399, .. } => format!("the webhook URL redirects: put the URL it redirects to into {place}"),
            Self::Status { status: 400..=499, .. } if self.is_permanent() => {
                "the chat does not accept this message: check that the chat's `kind` matches what the URL speaks".to_owned()
            }
            Self::Status { status: 429, .. } => "the chat limits the rate of messages; it is tried again".to_owned(),
            Self::Status { .. } => "the chat has trouble of its own; it is tried again".to_owned(),
            Self::Refused { .. } => format!("look up what it said in the chat's documentation; its credential is in {place}"),
            Self::Advised { advice, .. } => advice.replace("{credential}", &place),
            Self::NotAUrl | Self::Secret(_) => format!("put the webhook URL, and nothing else, into {place}"),
            Self::Mail { permanent: true, .. } => "correct the settings of this chat: host, port, security, from, to".to_owned(),
            Self::Mail { .. } => "check host, port and security of this chat, and that the mail server can be reached from here".to_owned(),
            Self::BadKey => "put the key into its file as it was issued: whsec_ and base64, or any text without that beginning".to_owned(),
            Self::BadToken => "put the token, and nothing else, into its file or environment variable".to_owned(),
            Self::Client(_) => "check that certificate authorities are installed (the package ca-certificates)".to_owned(),
            Self::Timeout(_) | Self::Send(_) => {
                "check that the chat can be reached from here: name resolution, proxy, firewall, NetworkPolicy".to_owned()
            }
        }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(line, ": {next}");
        cause = next.source();
    }
    line
}

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
        return "[its answer is left out, since it repeats the webhook's secret]".to_owned();
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

    fn status(status: u16) -> DeliverError {
        DeliverError::Status {
            status,
            said: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn only_a_chats_own_trouble_is_worth_a_long_retry() {
        for transient in [408, 425, 429, 500, 502, 503, 504] {
            assert!(!status(transient).is_permanent(), "{transient}");
        }
        for permanent in [301, 307, 400, 401, 403, 404, 410, 413] {
            assert!(status(permanent).is_permanent(), "{permanent}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let file = Secret::File("/etc/flipback/slack-url".into());
        assert_eq!(
            status(404).remedy(Some(&file)),
            "the webhook URL is no longer valid: create a new one in the chat and put it into \"/etc/flipback/slack-url\""
        );
        for code in 300..600 {
            assert!(!status(code).remedy(Some(&file)).is_empty());
        }
    }

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

    #[test]
    fn what_a_chat_is_known_to_mean_becomes_advice_with_a_place() {
        let advised = DeliverError::Advised {
            said: "invalid_auth".into(),
            advice: "put a bot token into {credential}",
            permanent: true,
        };
        let file = Secret::File("/etc/flipback/token".into());
        assert_eq!(advised.remedy(Some(&file)), "put a bot token into \"/etc/flipback/token\"");
        assert_eq!(advised.to_string(), "the chat refused: invalid_auth");
    }
}
