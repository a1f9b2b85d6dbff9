//! One Prometheus-compatible server: credentials, one request, and what can go wrong with it in words for a person.
//!
//! Requests are form POSTs (queries are long), never follow a redirect (it would carry credentials elsewhere), and are bounded in time
//! on both sides and in the size of the answer. Credentials and TLS files are read again for every look, so that a rotated one is picked
//! up; the client is rebuilt only when TLS material changed. No text made here holds a credential: errors are shown without their URL,
//! the server is named without user and password, and what it says is left out where it repeats what it was sent ([`Credentials`]).

use std::{error::Error as _, sync::Arc, time::Duration};

use http::{StatusCode, header::CONTENT_TYPE};
use prometheus_http_query::{Client, Error as ClientError};
use secrecy::SecretString;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{
    credentials::Credentials,
    envelope::{Answer, Envelope},
};
use crate::{
    metrics::Metrics,
    model::{
        Absence, chain,
        settings::{PrometheusSettings, Secret},
    },
};

/// Bytes of one answer: some 200,000 samples. More is a selector that forgot its labels.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of a TLS file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Characters of a server's own error text that are passed on.
const MESSAGE_CHARS_MAX: usize = 300;

/// Characters of a media type that are passed on.
const KIND_CHARS_MAX: usize = 80;

/// Why there is no answer. Sentences are for people.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// Not in time.
    Timeout,
    /// The server understood and refused this very query: a smaller one, or another, may pass.
    Refused(String),
    /// The server is overloaded or broken: it should be left alone for a while.
    Busy(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    /// The absence that readings become.
    pub(super) fn absence(&self) -> Absence {
        match self {
            Self::Timeout => Absence::Timeout,
            Self::Refused(why) | Self::Busy(why) | Self::Other(why) => Absence::Error(why.clone()),
        }
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    cluster: String,
    settings: PrometheusSettings,
    /// Base URL without user, password, query and trailing slash.
    base: String,
    session: Mutex<Option<Arc<Session>>>,
    metrics: Metrics,
}

/// A client and the material it was made from.
pub(super) struct Session {
    client: Client,
    tls: Tls,
    credentials: Credentials,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

/// TLS files as they were read.
#[derive(Clone, Default, PartialEq)]
struct Tls {
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

/// Where a query goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Span {
    /// Now, by the server's clock.
    Instant,
    /// Then.
    At(jiff::Timestamp),
    /// Whole seconds since 1970, first and last, and seconds between points.
    Range(i64, i64, f64),
}

impl Server {
    /// Describes the server; nothing is read or asked yet. A user part of the URL becomes basic authentication, where there is none.
    pub(super) fn new(cluster: &str, mut settings: PrometheusSettings, metrics: Metrics) -> Self {
        let url = bare(&settings.url);
        if settings.basic.is_none() && !settings.url.username().is_empty() {
            let password = SecretString::from(decoded(settings.url.password().unwrap_or_default()));
            settings.basic = Some((decoded(settings.url.username()), Secret::Value(password)));
        }
        settings.url = url;
        Self {
            cluster: cluster.to_owned(),
            base: settings.url.as_str().trim_end_matches('/').to_owned(),
            settings,
            session: Mutex::new(None),
            metrics,
        }
    }

    /// The server's address, safe to show.
    pub(super) fn name(&self) -> &str {
        &self.base
    }

    /// A client with the credentials as they are now; the error is a sentence for a person.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        let settings = self.settings.clone();
        // Files on a stuck mount must not stop the other tasks of this thread.
        let read = tokio::task::spawn_blocking(move || Ok((Credentials::read(&settings)?, tls(&settings)?)));
        let (credentials, tls) = match read.await {
            Ok(material) => material.map_err(Failure::Other)?,
            Err(_) => return Err(Failure::Other("the credentials could not be read".to_owned())),
        };
        let mut kept = self.session.lock().await;
        if let Some(session) = kept
            .as_ref()
            .filter(|session| session.tls == tls && session.credentials.headers == credentials.headers)
        {
            return Ok(session.clone());
        }
        let client = match kept.as_ref().filter(|session| session.tls == tls) {
            Some(session) => session.client.clone(),
            None => self.client(&tls).map_err(Failure::Other)?,
        };
        let session = Arc::new(Session { client, tls, credentials });
        *kept = Some(session.clone());
        Ok(session)
    }

    fn client(&self, tls: &Tls) -> Result<Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("flipback/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.settings.timeout)
            .timeout(self.settings.timeout)
            .pool_idle_timeout(Duration::from_secs(90));
        if let Some(ca) = &tls.ca {
            let path = self.settings.ca_file.as_deref().unwrap_or_else(|| std::path::Path::new(""));
            let certificates = reqwest::Certificate::from_pem_bundle(ca)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| format!("the CA file {} holds no PEM certificate", path.display()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(identity) = &tls.identity {
            let identity = reqwest::Identity::from_pem(identity)
                .map_err(|_| "the client certificate and its key are not a pair of PEM files".to_owned())?;
            builder = builder.identity(identity);
        }
        let client = builder
            .build()
            .map_err(|error| format!("no client could be made for {}: {}", self.base, why_not(&error.without_url())))?;
        Client::from(client, &self.base).map_err(|_| format!("{} is no URL of a Prometheus", self.base))
    }

    /// Asks one query; at most until `deadline`.
    pub(super) async fn ask(&self, session: &Session, query: &str, span: Span, deadline: Instant) -> Result<Answer, Failure> {
        let started = Instant::now();
        let until = deadline.min(started + self.settings.timeout);
        let result = match tokio::time::timeout_at(until, self.exchange(session, query, span, until - started)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Timeout),
        };
        let word = match &result {
            Ok(Answer { doubt: Some(_), .. }) => "partial",
            Ok(_) => "ok",
            Err(Failure::Timeout) => "timeout",
            Err(_) => "error",
        };
        self.metrics
            .prometheus_requests
            .with_label_values(&[self.cluster.as_str(), word])
            .inc();
        self.metrics
            .prometheus_duration
            .with_label_values(&[&self.cluster])
            .observe(started.elapsed().as_secs_f64());
        result
    }

    /// Shows by how many seconds its clock is ahead of ours; `None`: that is not known.
    pub(super) fn show_clock_offset(&self, seconds: Option<f64>) {
        let (offset, cluster) = (&self.metrics.prometheus_clock_offset, [self.cluster.as_str()]);
        match seconds {
            Some(seconds) => offset.with_label_values(&cluster).set(seconds),
            // There may be none.
            None => drop(offset.remove_label_values(&cluster)),
        }
    }

    async fn exchange(&self, session: &Session, query: &str, span: Span, patience: Duration) -> Result<Answer, Failure> {
        let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).max(1);
        let sent = match span {
            Span::Instant | Span::At(_) => {
                let mut request = session.client.query(query).timeout(millis);
                if let Span::At(then) = span {
                    // The crate's own parameter has whole seconds.
                    let millis = then.as_millisecond();
                    request = request.query("time", format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000)));
                }
                for (name, value) in &session.credentials.headers {
                    request = request.header(name.clone(), value.clone());
                }
                request.post_raw().await
            }
            Span::Range(from, to, step) => {
                let mut request = session.client.query_range(query, from, to, step).timeout(millis);
                for (name, value) in &session.credentials.headers {
                    request = request.header(name.clone(), value.clone());
                }
                request.post_raw().await
            }
        };
        let response = sent.map_err(|error| self.unsent(&error))?;
        let status = response.status();
        let credentials = &session.credentials;
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("");
        let kind: String = credentials.clean(kind.to_owned()).chars().take(KIND_CHARS_MAX).collect();
        let body = self.body(response).await?;
        match serde_json::from_slice::<Envelope>(&body).map(|envelope| envelope.cleaned(|said| credentials.clean(said))) {
            Ok(envelope) if status.is_success() && envelope.status == "success" => Ok(envelope.into_answer()),
            Ok(envelope) => Err(self.refusal(status, &envelope)),
            Err(error) => Err(self.strange(status, &kind, &error)),
        }
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => {
                    return Err(Failure::Refused(format!(
                        "{} answered with more than {} MiB: narrow the selectors",
                        self.base,
                        ANSWER_BYTES_MAX / 1024 / 1024
                    )));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) if error.is_timeout() => return Err(Failure::Timeout),
                Err(error) => {
                    let why = why_not(&error.without_url());
                    return Err(Failure::Other(format!("the answer of {} broke off: {why}", self.base)));
                }
            }
        }
    }

    /// Why no answer came at all.
    fn unsent(&self, error: &ClientError) -> Failure {
        // The crate wraps reqwest's error, whose own text would show the URL with its user part.
        let Some(error) = error.source().and_then(|source| source.downcast_ref::<reqwest::Error>()) else {
            return Failure::Other(format!("the request to {} failed", self.base));
        };
        if error.is_timeout() {
            return Failure::Timeout;
        }
        let why = error.source().map_or_else(String::new, chain);
        let base = &self.base;
        let tls = causes(error).any(|cause| cause.is::<rustls::Error>());
        Failure::Other(if tls {
            format!("TLS with {base} failed: {why}; check the URL's scheme, `ca_file` and the client certificate")
        } else if error.is_dns() {
            format!("the name in {base} cannot be resolved: check the Prometheus URL")
        } else if error.is_connect() {
            // What wraps the innermost cause says no more than "cannot be reached".
            let why = causes(error).last().map_or(why, ToString::to_string);
            format!("{base} cannot be reached: {why}; check that Prometheus runs, its URL and network policies")
        } else {
            format!("the request to {base} failed: {why}")
        })
    }

    /// Why an answer in the API's own form is an error.
    fn refusal(&self, status: StatusCode, envelope: &Envelope) -> Failure {
        let message: String = envelope
            .error
            .as_deref()
            .unwrap_or("no reason given")
            .chars()
            .take(MESSAGE_CHARS_MAX)
            .collect();
        let kind = envelope.error_type.as_deref().unwrap_or("");
        let base = &self.base;
        match status.as_u16() {
            503 if kind == "timeout" => Failure::Timeout,
            400 | 413 | 414 | 422 => Failure::Refused(format!("{base} refused the query ({status}): {message}")),
            _ if kind == "bad_data" || kind == "execution" => Failure::Refused(format!("{base} refused the query ({status}): {message}")),
            _ => self.status(status, Some(&message)),
        }
    }

    /// Why an answer that is not of the API's form is an error.
    fn strange(&self, status: StatusCode, kind: &str, error: &serde_json::Error) -> Failure {
        let base = &self.base;
        if !status.is_success() {
            return self.status(status, None);
        }
        if kind.contains("json") {
            let why = if error.is_eof() { "was cut off" } else { "is not understood" };
            return Failure::Other(format!(
                "the JSON answer of {base} {why}: is something between flipback and Prometheus?"
            ));
        }
        let kind = if kind.is_empty() { "something unnamed" } else { kind };
        Failure::Other(format!(
            "{base} answered with {kind} instead of JSON, so it is no Prometheus API: check the URL (without /api/v1, with the path prefix if there is one), or whether a login page stands before it"
        ))
    }

    /// What an HTTP status means here, and what to do.
    fn status(&self, status: StatusCode, message: Option<&str>) -> Failure {
        let base = &self.base;
        let said = message.map_or_else(String::new, |message| format!(": {message}"));
        match status.as_u16() {
            300..=399 => Failure::Other(format!(
                "{base} answered with a redirect ({status}), which is not followed: set the URL it redirects to"
            )),
            401 => Failure::Other(format!(
                "{base} does not know us ({status}){said}: check the bearer token or the basic credentials"
            )),
            403 => Failure::Other(format!(
                "{base} does not let us query ({status}){said}: the credentials lack the right, or a tenant header such as X-Scope-OrgID is missing"
            )),
            404 => Failure::Other(format!(
                "{base} has no query API ({status}): the URL must be the base without /api/v1, with the path prefix if there is one"
            )),
            405 => Failure::Other(format!(
                "{base} does not accept POST queries ({status}): allow POST to /api/v1/query and /api/v1/query_range"
            )),
            400 | 413 | 414 | 422 => Failure::Refused(format!("{base} refused the query ({status}){said}")),
            429 => Failure::Busy(format!("{base} limits our queries ({status}){said}")),
            500.. => Failure::Busy(format!("{base} is in trouble ({status}){said}")),
            _ => Failure::Other(format!("{base} answered {status}{said}")),
        }
    }
}

/// A URL without user, password, query and fragment.
fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have a user part to begin with.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// The user part of a URL as it was meant, without percent signs.
fn decoded(text: &str) -> String {
    let pair = format!("v={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// Why a request failed: its causes, without the words that every failed request has.
fn why_not(error: &reqwest::Error) -> String {
    error.source().map_or_else(|| error.to_string(), chain)
}

/// Every cause of an error. What is wrapped in an `io::Error` is no source of it, so it is unwrapped here.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    })
}

/// The TLS files, read now.
fn tls(settings: &PrometheusSettings) -> Result<Tls, String> {
    let ca = settings.ca_file.as_deref().map(pem).transpose()?;
    let identity = match &settings.client_certificate {
        Some((certificate, key)) => {
            let mut both = pem(certificate)?;
            both.push(b'\n');
            both.extend(pem(key)?);
            Some(both)
        }
        None => None,
    };
    Ok(Tls { ca, identity })
}

fn pem(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("the TLS file {} cannot be read: {error}", path.display()))?;
    Ok(bytes)
}
