//! One object store, opened from settings; what it says about a failure, without what must not be said.
//!
//! Errors of the `object_store` crate print URLs, bodies and more. None of that is passed on: [`explain`] takes out the
//! status, the store's error code and the innermost cause, and hides every secret that it knows.

use std::{collections::BTreeMap, fs, io, os::unix::fs::DirBuilderExt, path::PathBuf, sync::LazyLock, time::Duration};

use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreScheme, PutOptions, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpError, HttpErrorKind},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::{CopyError, place};
use crate::model::settings::CopySettings;

/// A request that met a busy server is sent again so often at once; what fails then waits for its turn.
const RETRIES: usize = 2;
/// How long those retries may take: credentials must not expire meanwhile.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Shorter values are not worth hiding: they would be hidden within words.
const SECRET_CHARS_MIN: usize = 5;
/// A cause longer than this helps nobody.
const CAUSE_CHARS_MAX: usize = 300;

/// The settings' secrets as they are now.
#[derive(Clone, Default)]
pub(super) struct Options(BTreeMap<String, SecretString>);

impl Options {
    /// Reads them, files included: a rotated credential is picked up.
    pub(super) fn read(settings: &CopySettings) -> Result<Self, CopyError> {
        let read = settings.options.iter().map(|(name, secret)| {
            let value = secret.read().map_err(|source| CopyError::Secret {
                option: name.clone(),
                source,
            })?;
            Ok((name.to_ascii_lowercase(), value))
        });
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Whether nothing has changed.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|((a, x), (b, y))| a == b && x.expose_secret() == y.expose_secret())
    }

    /// Each option by the store's own key.
    fn keyed<K: std::str::FromStr>(&self, store: &'static str) -> Result<Vec<(K, String)>, CopyError> {
        let key = |(name, value): (&String, &SecretString)| match name.parse() {
            Ok(key) => Ok((key, value.expose_secret().to_owned())),
            Err(_) => Err(CopyError::Option {
                option: name.clone(),
                store,
            }),
        };
        self.0.iter().map(key).collect()
    }
}

/// An open store.
pub(super) struct Store {
    pub(super) inner: Box<dyn ObjectStore>,
    /// Below which bundles lie.
    prefix: Path,
    /// Where a store on this machine lies.
    local: Option<PathBuf>,
    secrets: Vec<SecretString>,
}

impl Store {
    /// Opens a store; no request is sent.
    pub(super) fn open(settings: &CopySettings, options: &Options) -> Result<Self, CopyError> {
        let secrets: Vec<SecretString> = options.0.values().cloned().chain(environment()).collect();
        let url = &settings.url;
        let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|_| CopyError::Url(place(settings)))?;
        let wrong = |error: object_store::Error| CopyError::Settings {
            place: place(settings),
            why: hidden(&in_full(&error), &secrets),
        };
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
            ..RetryConfig::default()
        };
        let mut local = None;
        // The environment first, since that is where the platforms' own identities are (IRSA, workload identity).
        let inner: Box<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => {
                let with = |builder: AmazonS3Builder, (key, value): (AmazonS3ConfigKey, String)| builder.with_config(key, value);
                let builder = options.keyed("S3")?.into_iter().fold(AmazonS3Builder::from_env(), with);
                Box::new(builder.with_url(url.as_str()).with_retry(retry).build().map_err(wrong)?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let with = |builder: GoogleCloudStorageBuilder, (key, value): (GoogleConfigKey, String)| builder.with_config(key, value);
                let builder = options
                    .keyed("Google Cloud Storage")?
                    .into_iter()
                    .fold(GoogleCloudStorageBuilder::from_env(), with);
                Box::new(builder.with_url(url.as_str()).with_retry(retry).build().map_err(wrong)?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let with = |builder: MicrosoftAzureBuilder, (key, value): (AzureConfigKey, String)| builder.with_config(key, value);
                let builder = options.keyed("Azure")?.into_iter().fold(MicrosoftAzureBuilder::from_env(), with);
                Box::new(builder.with_url(url.as_str()).with_retry(retry).build().map_err(wrong)?)
            }
            ObjectStoreScheme::Local => {
                if let Some(option) = options.0.keys().next() {
                    return Err(CopyError::Option {
                        option: option.clone(),
                        store: "a folder",
                    });
                }
                let folder = url.to_file_path().map_err(|()| CopyError::Url(place(settings)))?;
                make_folder(&folder).map_err(|error| CopyError::Settings {
                    place: place(settings),
                    why: error.to_string(),
                })?;
                local = Some(folder.clone());
                Box::new(LocalFileSystem::new_with_prefix(folder).map_err(wrong)?.with_fsync(true))
            }
            _ => return Err(CopyError::Url(place(settings))),
        };
        Ok(Self {
            prefix: if local.is_some() { Path::default() } else { prefix },
            inner,
            local,
            secrets,
        })
    }

    /// Makes room for a bundle: on this machine a folder that nobody else enters, elsewhere nothing.
    pub(super) fn prepare(&self, incident: &str) -> io::Result<()> {
        self.local.as_ref().map_or(Ok(()), |folder| make_folder(&folder.join(incident)))
    }

    /// Where a file of a bundle goes.
    pub(super) fn path(&self, incident: &str, name: &str) -> Path {
        Path::from(format!("{}/{incident}/{name}", self.prefix))
    }

    /// How a file is put: with its type, so that a browser opens it. A folder knows no types.
    pub(super) fn attributes(&self, name: &str) -> Attributes {
        match self.local {
            Some(_) => Attributes::new(),
            None => Attributes::from_iter([(Attribute::ContentType, content_type(name))]),
        }
    }

    /// [`Self::attributes`] of one request.
    pub(super) fn options(&self, name: &str) -> PutOptions {
        PutOptions::from(self.attributes(name))
    }

    /// What went wrong, safe to print.
    pub(super) fn explain(&self, error: &object_store::Error) -> String {
        explain(error, &self.secrets)
    }
}

fn make_folder(path: &std::path::Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The type of a file by its name. Lines of JSON are text to a browser, which would else save them.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "json" => "application/json",
        "csv" => "text/csv; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// Secrets that the environment gives to a store.
fn environment() -> impl Iterator<Item = SecretString> {
    let is_secret = |name: &str| {
        let of_a_store = ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
        of_a_store && ["KEY", "TOKEN", "SECRET", "PASSWORD", "SAS"].iter().any(|part| name.contains(part))
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(move |(name, _)| is_secret(name))
        .map(|(_, value)| SecretString::from(value))
}

static STATUS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"status code: (\d{3}[A-Za-z ]*)").expect("a constant, tested"));
static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<Code>([A-Za-z0-9]{1,64})</Code>").expect("a constant, tested"));
static QUERY: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\?[^\s)>]*|//[^\s/@]*@").expect("a constant, tested"));

/// What went wrong in words that are safe to print: the store's status and code, or how the connection failed.
fn explain(error: &object_store::Error, secrets: &[SecretString]) -> String {
    let text = error.to_string();
    let found = |pattern: &Regex| pattern.captures(&text).map(|found| found[1].trim().to_owned());
    if let Some(status) = found(&STATUS) {
        let code = found(&CODE);
        let hint = hint(&status, code.as_deref());
        let code = code.map(|code| format!(", {code}")).unwrap_or_default();
        return format!("the store answered {status}{code}{hint}");
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    let mut how = None;
    loop {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            how = Some(match http.kind() {
                HttpErrorKind::Connect => "no connection",
                HttpErrorKind::Timeout => "no answer in time",
                HttpErrorKind::Interrupted => "the connection was lost",
                _ => "the request failed",
            });
        }
        match cause.source() {
            Some(source) => cause = source,
            None => break,
        }
    }
    let cause: String = hidden(&cause.to_string(), secrets).chars().take(CAUSE_CHARS_MAX).collect();
    how.map_or_else(|| cause.clone(), |how| format!("{how}: {cause}"))
}

/// A whole error, for one that is made before anything is sent.
fn in_full(error: &object_store::Error) -> String {
    let cause = match error {
        object_store::Error::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    cause.chars().take(CAUSE_CHARS_MAX).collect()
}

fn hint(status: &str, code: Option<&str>) -> &'static str {
    match code {
        Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "AuthenticationFailed") => {
            " (check the credentials)"
        }
        Some("NoSuchBucket" | "ContainerNotFound") => " (make the bucket, or correct its name)",
        Some("RequestTimeTooSkewed") => " (set the clock of this machine)",
        _ if status.starts_with("403") => " (may these credentials write there?)",
        _ if status.starts_with("401") => " (check the credentials)",
        _ => "",
    }
}

fn hidden(text: &str, secrets: &[SecretString]) -> String {
    let text = QUERY.replace_all(text, "").into_owned();
    secrets
        .iter()
        .map(ExposeSecret::expose_secret)
        .filter(|secret| secret.chars().count() >= SECRET_CHARS_MIN)
        .fold(text, |text, secret| text.replace(secret, "[secret]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    #[test]
    fn an_error_says_what_helps_and_nothing_secret() {
        let secrets = [SecretString::from("hunter2hunter2"), SecretString::from("us")];
        let body = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIAHUNTER</AWSAccessKeyId><StringToSign>hunter2hunter2</StringToSign></Error>";
        assert_eq!(
            explain(&generic(body), &secrets),
            "the store answered 403 Forbidden, SignatureDoesNotMatch (check the credentials)"
        );
        assert_eq!(
            explain(
                &generic("bad endpoint https://u:pw@h/x?sig=abc, key hunter2hunter2, house"),
                &secrets
            ),
            "bad endpoint https:h/x key [secret], house"
        );
    }

    #[test]
    fn a_browser_opens_what_is_copied() {
        assert_eq!(content_type("report.html"), "text/html; charset=utf-8");
        assert_eq!(content_type("logs/green/web-1/app.previous.log"), "text/plain; charset=utf-8");
        assert_eq!(content_type("MANIFEST.sha256"), "text/plain; charset=utf-8");
        assert_eq!(content_type("plot.png"), "image/png");
    }
}
