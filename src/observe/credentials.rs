//! Who we say we are to a Prometheus: the headers that prove it, and what must not come back from there into any text.
//!
//! A proxy before a server may answer with the whole request it did not like. What it says is told to people, in logs, pages, chats and
//! evidence, and is left out where it repeats a credential.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};

use crate::model::{
    chain,
    settings::{PrometheusSettings, Secret},
};

/// Shorter words appear by chance: a password of so few letters is no secret.
const SECRET_BYTES_MIN: usize = 6;
/// The one header that servers speak of rightly: it names a tenant.
const TENANT: &str = "x-scope-orgid";
/// In the place of what a server said.
const LEFT_OUT: &str = "[its words are left out, since they repeat a credential]";

/// The headers to send, read now, and the secrets in them.
pub(super) struct Credentials {
    /// What proves who we are.
    pub headers: HeaderMap,
    hidden: Vec<SecretString>,
}

impl Credentials {
    /// Reads every file; the error is a sentence for a person.
    pub(super) fn read(settings: &PrometheusSettings) -> Result<Self, String> {
        let secret = |what: &str, secret: &Secret| secret.read().map_err(|error| format!("{what} cannot be read: {}", chain(&error)));
        let mut all = Self {
            headers: HeaderMap::new(),
            hidden: Vec::new(),
        };
        for (name, value) in &settings.headers {
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no valid name of a header"))?;
            let what = format!("the header {name}");
            let value = secret(&what, value)?;
            if header != TENANT {
                // Of "Bearer abc" the last word is what matters, and the first what everybody says.
                all.hide(value.expose_secret().rsplit(' ').next().unwrap_or_default());
            }
            all.headers.insert(header, sensitive(&what, value.expose_secret())?);
        }
        if let Some(bearer) = &settings.bearer {
            let token = secret("the bearer token", bearer)?;
            all.hide(token.expose_secret());
            let value = sensitive("the bearer token", &format!("Bearer {}", token.expose_secret()))?;
            all.headers.insert(AUTHORIZATION, value);
        } else if let Some((user, password)) = &settings.basic {
            let password = secret("the password", password)?;
            let pair = BASE64_STANDARD.encode(format!("{user}:{}", password.expose_secret()));
            all.hide(password.expose_secret());
            all.hide(&pair);
            let value = sensitive("the basic credentials", &format!("Basic {pair}"))?;
            all.headers.insert(AUTHORIZATION, value);
        }
        Ok(all)
    }

    fn hide(&mut self, secret: &str) {
        if secret.len() < SECRET_BYTES_MIN {
            return;
        }
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        self.hidden.extend([SecretString::from(secret), SecretString::from(encoded)]);
    }

    /// What a server said, unless it repeats a credential.
    pub(super) fn clean(&self, said: String) -> String {
        let repeats = self.hidden.iter().any(|secret| said.contains(secret.expose_secret()));
        if repeats { LEFT_OUT.to_owned() } else { said }
    }
}

fn sensitive(what: &str, text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| format!("{what} holds characters that no header may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use url::Url;

    use super::*;

    fn value(text: &str) -> Secret {
        Secret::Value(SecretString::from(text.to_owned()))
    }

    #[test]
    fn what_repeats_a_credential_in_any_form_is_left_out_and_the_rest_is_told() {
        let settings = PrometheusSettings {
            url: Url::parse("http://prometheus:9090").expect("a URL"),
            timeout: Duration::from_secs(1),
            bearer: None,
            basic: Some(("reader".to_owned(), value("hunter2/hunter2"))),
            ca_file: None,
            client_certificate: None,
            headers: BTreeMap::from([
                ("X-Scope-OrgID".to_owned(), value("production")),
                ("Proxy-Token".to_owned(), value("Bearer let-me-in")),
            ]),
        };
        let credentials = Credentials::read(&settings).expect("nothing is read from a file");
        for echo in [
            "wrong password hunter2/hunter2",
            "no access for ?password=hunter2%2Fhunter2",
            "Authorization: Basic cmVhZGVyOmh1bnRlcjIvaHVudGVyMg==",
            "proxy-token: Bearer let-me-in",
        ] {
            assert_eq!(credentials.clean(echo.to_owned()), LEFT_OUT, "{echo}");
        }
        for said in ["no tenant production", "the reader may not query", "Bearer expected"] {
            assert_eq!(credentials.clean(said.to_owned()), said);
        }
        let token = PrometheusSettings {
            basic: None,
            bearer: Some(value("a-long-token")),
            ..settings
        };
        let credentials = Credentials::read(&token).expect("nothing is read from a file");
        assert_eq!(credentials.clean("you sent a-long-token".to_owned()), LEFT_OUT);
    }
}
