//! How secrets look in text: the shapes that are hidden wherever they are captured.
//!
//! The shapes of providers' tokens follow those that gitleaks knows. The crates that redact text were looked at and do not
//! fit: they hide commit hashes, digests and addresses too, which is what evidence is read for, and miss JSON.

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// Bytes of one compiled own pattern; a larger one is a mistake.
const OWN_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that one pattern's search may remember.
const CACHE_BYTES_MAX: usize = 512 * 1024;

/// Tokens that betray themselves by how they begin.
const TOKENS: &str = concat!(
    r"(?-u:\b)(?:",
    // JSON Web Tokens, signed and encrypted ones.
    r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*){0,3}",
    // AWS, Google, Azure DevOps and DigitalOcean.
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",
    r"|do[opr]_v1_[a-f0-9]{64}",
    // GitHub, GitLab, Atlassian, npm, PyPI.
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    r"|gl(?:pat|ptt|dt|rt|cbt|ft|soat|agent|imt)-[A-Za-z0-9_-]{20,}",
    r"|ATATT3[A-Za-z0-9_=-]{20,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}",
    // Slack, Telegram, SendGrid, Twilio.
    r"|xox[abceoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}",
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|SK[0-9a-f]{32}",
    // Stripe, Shopify.
    r"|(?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    // Model providers, Vault, Databricks, Grafana, New Relic, age.
    r"|sk-(?:proj-|ant-|svcacct-|admin-|or-)?[A-Za-z0-9_-]{20,}|hf_[A-Za-z]{30,}",
    r"|hv[sbr]\.[A-Za-z0-9_-]{20,}|dapi[a-f0-9]{32}|gl(?:sa|c)_[A-Za-z0-9_+/=]{20,}|NRAK-[A-Z0-9]{27}",
    r"|AGE-SECRET-KEY-1[A-Z0-9]{50,}",
    // A private key, written as base64: `-----BEGIN `.
    r"|LS0tLS1CRUdJTi[A-Za-z0-9+/=]{20,}",
    r")",
);
/// A PEM block; one whose end is in another line goes to the end of this one.
const PEM: &str = r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY|\z)";
/// `scheme://user:password@`, and a long user name alone, which is a token.
const USERINFO: &str = r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s/:@]*:([^\s/]+)|([^\s/:@]{16,}))@";
/// The header, as HTTP writes it, as JSON, and as Go prints it.
const AUTHORIZATION: &str = concat!(
    r#"(?i)authorization\\?["']?\s*[:=]\s*\[?\\?["']?(?:digest\s+([^\r\n]+)"#,
    r#"|(?:basic|bearer|token|negotiate|ntlm|hawk|apikey|aws4-hmac-sha256)\s+([^\s"',\\\]]+)|([^\s"',\\\]]{16,}))"#
);
/// The scheme without its header.
const BEARER: &str = r"(?i)(?-u:\b)(?:bearer\s+([A-Za-z0-9._~+/=-]{16,})|basic\s+([A-Za-z0-9+/]{8,}={1,2}))";
/// Cookies are sessions.
const COOKIE: &str = r#"(?i)(?-u:\b)(?:set-)?cookie["']?\s*:\s*\[?["']?([^"'\r\n\]]*=[^"'\r\n\]]*)"#;
/// `password=x`, `"password": "x"`, `DB_PASSWORD: x`, `--pwd x`: whatever stands there.
const PASSWORD: &str = concat!(
    r#"(?i)(?:(?:passw(?:or)?d|passphrase)[A-Za-z0-9_.-]*|(?:(?-u:\b)|_)(?:pwd|pass)|(?-i:[a-z0-9](?:Pwd|Pass)))\\?["']?\s*(?:=>|[:=])\s*"#,
    r#"(\\?"(?:[^"\\]|\\[^"])*(?:\\?"|\z)|'[^']*(?:'|\z)|[^\s"',;&)}\]]+)"#
);
/// Names of secrets that are no passwords.
const NAMES: &str = concat!(
    r"(?:secret|token|credential|(?-u:\b)creds|_creds|signature|(?-u:\b)dsn|_dsn|jwt|csrf|(?:jsession|phpsess|session_?|sess)id",
    r"|(?:api|access|account|auth|private|encryption|signing|shared|master|secret|service)[_.-]?key|sharedaccesskey|webhook[_.-]?url)",
    r"s?(?:[_.-]?(?:[0-9]{1,2}|value|hash|string|b64|base64|data|header))?",
);
/// What stands beside such a name, after `=`, or after a colon where the name is in quotes.
const NAMED: &str = r#"(?:\\?["']\s*(?:=>|:|=)|\s*(?:=>|=))\s*(\\?"(?:[^"\\]|\\[^"])*(?:\\?"|\z)|'[^']*(?:'|\z)|[^\s"',;&)}\]\[{\\]+)"#;
/// What stands beside such a name, after a colon: a sentence may do that too.
const SAID: &str = r#"\s*:\s*\\?["']?([A-Za-z0-9_.~+/=-]{8,})"#;
/// Parts of a URL's query that sign or open something, whatever they are called elsewhere.
const QUERY: &str = r#"(?i)[?&](?:key|sig|code|auth|sid|hmac|assertion|x-amz-[a-z-]+|x-goog-[a-z-]+)=([^&\s"'<>]+)"#;
/// Addresses of chats, which are secrets as a whole.
const WEBHOOKS: &str = concat!(
    r#"(?i)https://(?:hooks\.slack(?:-gov)?\.com/[a-z]+/([A-Za-z0-9/_+-]{16,})|[a-z0-9.-]+\.webhook\.office\.com/([^\s"'<>]+)"#,
    r#"|discord(?:app)?\.com/api/webhooks/([0-9]+/[A-Za-z0-9_-]{16,})|events\.pagerduty\.com/integration/([^\s"'<>/]+))"#
);

/// Whether a value gives away nothing though its name says that it would.
type Spare = fn(&str) -> bool;

/// Some patterns, searched for together.
#[derive(Debug)]
pub(super) struct Shapes {
    /// Which of them occur at all: nearly always none.
    any: RegexSet,
    each: Vec<(Regex, Spare)>,
}

impl Shapes {
    fn of(patterns: &[(String, Spare)]) -> Result<Self, regex::Error> {
        let texts = patterns.iter().map(|(pattern, _)| pattern);
        let any = RegexSetBuilder::new(texts.clone()).dfa_size_limit(2 * CACHE_BYTES_MAX).build()?;
        let one = |(pattern, spare): &(String, Spare)| {
            let regex = RegexBuilder::new(pattern)
                .size_limit(OWN_BYTES_MAX)
                .dfa_size_limit(CACHE_BYTES_MAX)
                .build()?;
            Ok((regex, *spare))
        };
        let each = patterns.iter().map(one).collect::<Result<_, regex::Error>>()?;
        Ok(Self { any, each })
    }

    /// The shapes known to everybody.
    pub(super) fn known() -> &'static Self {
        static KNOWN: LazyLock<Shapes> = LazyLock::new(|| {
            let plain = |pattern: &str, spare: Spare| (pattern.to_owned(), spare);
            let named = |rest: &str, spare: Spare| (format!("(?i){NAMES}{rest}"), spare);
            let patterns = [
                plain(TOKENS, |_| false),
                plain(PEM, str::is_empty),
                plain(USERINFO, is_reference),
                plain(AUTHORIZATION, is_reference),
                plain(BEARER, |value| !has_digit(value) && !value.ends_with('=')),
                plain(COOKIE, is_reference),
                plain(PASSWORD, is_blank),
                named(NAMED, is_harmless),
                named(SAID, |value| !has_digit(value) || is_harmless(value)),
                plain(QUERY, is_harmless),
                plain(WEBHOOKS, |_| false),
            ];
            Shapes::of(&patterns).expect("the patterns are constant, and a test uses each")
        });
        &KNOWN
    }

    /// Shapes that somebody asked for. One that is no regular expression, which configuration refuses, is taken by the
    /// letter: hiding too little would be worse.
    pub(super) fn own(patterns: &[String]) -> Option<Self> {
        if patterns.is_empty() {
            return None;
        }
        let sound = |pattern: &String| match RegexBuilder::new(pattern).size_limit(OWN_BYTES_MAX).build() {
            Ok(_) => pattern.clone(),
            Err(error) => {
                tracing::error!(%error, "A pattern of evidence.redact is no regular expression: only its letters are hidden");
                regex::escape(pattern)
            }
        };
        let patterns: Vec<(String, Spare)> = patterns
            .iter()
            .map(sound)
            .map(|pattern| (pattern, str::is_empty as Spare))
            .collect();
        Self::of(&patterns).ok()
    }

    /// Adds the places that are to be hidden: the first group of a pattern that has any, else all of it.
    pub(super) fn find(&self, text: &str, found: &mut Vec<std::ops::Range<usize>>) {
        for index in &self.any.matches(text) {
            let Some((regex, spare)) = self.each.get(index) else { continue };
            for captures in regex.captures_iter(text) {
                let group = captures.iter().skip(1).flatten().next();
                let Some(hit) = group.or_else(|| captures.get(0)) else { continue };
                if !spare(hit.as_str()) {
                    found.push(hit.range());
                }
            }
        }
    }
}

fn has_digit(value: &str) -> bool {
    value.bytes().any(|byte| byte.is_ascii_digit())
}

fn bare(value: &str) -> &str {
    value.trim_matches(['"', '\'', '\\'])
}

/// A reference such as `$(DB_PASSWORD)` gives nothing away.
pub(super) fn is_reference(value: &str) -> bool {
    bare(value).starts_with('$')
}

/// Nothing, a reference, or what somebody has hidden already.
fn is_blank(value: &str) -> bool {
    let value = bare(value);
    value.is_empty()
        || is_reference(value)
        || value.bytes().all(|byte| matches!(byte, b'*' | b'x' | b'X' | b'.'))
        || value.starts_with("[redacted")
}

/// A number or a word that many things are called by.
fn is_harmless(value: &str) -> bool {
    let word = bare(value);
    let known = [
        "true",
        "false",
        "null",
        "nil",
        "none",
        "undefined",
        "expired",
        "invalid",
        "missing",
        "valid",
    ];
    is_blank(value) || word.parse::<f64>().is_ok() || known.iter().any(|known| word.eq_ignore_ascii_case(known))
}
