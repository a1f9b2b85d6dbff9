//! Clusters and their Prometheus servers.

use std::{collections::BTreeMap, path::Path, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::model::settings::{ClusterSettings, PrometheusSettings, Secret};

use super::{
    check::{WAIT_MAX, WAIT_MIN, is_label, secret},
    environment::Scripts,
    error::Problems,
    raw::{Node, NodeKind, Table},
};

/// How long one query may take: a query that outlasts the poll would delay the next look.
const PROMETHEUS_TIMEOUT: Duration = Duration::from_secs(4);

/// `[clusters.<name>]` with the name each has in the file, each with the shared `[prometheus]` below its own.
pub(super) fn clusters(root: &Table<'_>, base: &Path, scripts: &Scripts, default: Vec<ClusterSettings>) -> Vec<(String, ClusterSettings)> {
    let mut shared = root.table_or_empty("prometheus");
    if let Some(url) = &scripts.prometheus_url {
        shared.force("url", url.clone());
    }
    let tables = root.table_or_empty("clusters").entries();
    let only = tables.len() <= 1;
    if tables.is_empty() {
        let prometheus = prometheus(shared, base);
        let unnamed = |cluster| {
            (
                String::new(),
                ClusterSettings {
                    prometheus: prometheus.clone(),
                    ..cluster
                },
            )
        };
        return default.into_iter().map(unnamed).collect();
    }
    let mut clusters = Vec::with_capacity(tables.len());
    for (name, node) in tables {
        let Some(table) = node.table(root.problems) else { continue };
        if !is_label(&name) {
            root.problems
                .add(node.problem("a cluster's name of lower-case letters, digits and '-'"));
        }
        let own = table.table_or_empty("prometheus").node();
        let merged = shared.node().overlaid(&own);
        if let Some(mut merged) = merged.table(root.problems) {
            if let (true, Some(url)) = (only, &scripts.prometheus_url) {
                merged.force("url", url.clone());
            }
            let settings = cluster(table, &name, prometheus(merged, base), base);
            clusters.push((name, settings));
        }
    }
    clusters
}

fn cluster(table: Table<'_>, name: &str, prometheus: Option<PrometheusSettings>, base: &Path) -> ClusterSettings {
    let settings = ClusterSettings {
        name: name.to_owned(),
        kubeconfig: table.file_path("kubeconfig", base),
        context: table.text("context"),
        read_timeout: table.duration("read_timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(super::READ_TIMEOUT),
        flip_timeout: table.duration("flip_timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(super::FLIP_TIMEOUT),
        prometheus,
    };
    table.close();
    settings
}

/// `None` without an URL: rules that need one are then blind, and it is said.
fn prometheus(table: Table<'_>, base: &Path) -> Option<PrometheusSettings> {
    let timeout = table.duration("timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(PROMETHEUS_TIMEOUT);
    let mut basic = basic(&table, base);
    let mut url = None;
    if let (Some(node), Some(text)) = (table.get("url").cloned(), table.text("url")) {
        url = prometheus_url(&node, &text, table.problems);
    }
    if let Some(url) = &mut url {
        // An URL from the environment may carry user and password, as curl's does; they are taken out of it.
        if let (false, Some(password)) = (url.username().is_empty(), url.password()) {
            basic = Some((url.username().to_owned(), Secret::Value(SecretString::from(password.to_owned()))));
        }
        // Cannot fail for http and https, the only schemes accepted above.
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    let bearer = secret(&table, "bearer", base);
    if let (Some(_), Some(_)) = (&bearer, &basic) {
        table.problems.add(
            table
                .problem("bearer_file", "either a bearer token or a user name, not both")
                .hint("one Authorization header cannot hold two"),
        );
    }
    let certificate = table.file_path("client_certificate_file", base);
    let key = table.file_path("client_key_file", base);
    if certificate.is_some() != key.is_some() {
        let lacking = if key.is_some() {
            "client_certificate_file"
        } else {
            "client_key_file"
        };
        table
            .problems
            .add(table.missing(lacking, "client_certificate_file and client_key_file together"));
    }
    let settings = PrometheusSettings {
        url: url.unwrap_or_else(|| Url::parse("http://unset.invalid").expect("a valid URL")),
        timeout,
        bearer,
        basic,
        ca_file: table.file_path("ca_file", base),
        client_certificate: certificate.zip(key),
        headers: headers(table.table_or_empty("headers"), base),
    };
    let given = table.get("url").is_some();
    table.close();
    given.then_some(settings)
}

fn prometheus_url(node: &Node, text: &str, problems: &Problems) -> Option<Url> {
    let allowed = "a URL such as \"http://prometheus:9090\"";
    // The value is not shown: it may carry a password.
    let refuse = |hint: &str| {
        problems.add(node.hidden_problem(allowed).hint(hint));
        None
    };
    match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            refuse("it must begin with http:// or https:// and name a host")
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => refuse("the base URL has neither ? nor #"),
        Ok(url) if url.path().trim_end_matches('/').ends_with("/api/v1") => refuse("leave out /api/v1: flipback adds it"),
        Ok(url) if !url.username().is_empty() && !node.is_from_outside() => {
            refuse("a password does not belong into the file: use username and password_file")
        }
        Ok(url) => Some(url),
        Err(error) => refuse(&format!("{error}")),
    }
}

fn basic(table: &Table<'_>, base: &Path) -> Option<(String, Secret)> {
    let username = table.text("username");
    let password = secret(table, "password", base);
    match (username, password) {
        (Some(username), Some(password)) => Some((username, password)),
        (None, None) => None,
        // A password that was refused has been spoken of.
        (Some(_), None) if table.whisper("password").is_some() => None,
        (Some(_), None) => {
            table
                .problems
                .add(table.missing("password_file", "username and password_file together"));
            None
        }
        (None, Some(_)) => {
            table.problems.add(table.missing("username", "username and password_file together"));
            None
        }
    }
}

/// Headers: a text, or `{ file = "..." }` for one that is a secret.
fn headers(table: Table<'_>, base: &Path) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, node) in table.entries() {
        let lower = name.to_ascii_lowercase();
        let secretive = ["auth", "token", "key", "cookie", "secret", "password"]
            .iter()
            .any(|word| lower.contains(word));
        if http::HeaderName::try_from(lower.as_str()).is_err() {
            table.problems.add(node.hidden_problem("a header's name, such as X-Scope-OrgID"));
        }
        match &node.kind {
            NodeKind::Text(_) if secretive && !node.is_from_outside() => {
                table.problems.add(
                    node.hidden_problem(format!("{name} = {{ file = \"...\" }}"))
                        .hint("this header looks like a secret, which does not belong into the file"),
                );
            }
            NodeKind::Text(text) => {
                headers.insert(name, Secret::Value(SecretString::from(text.clone())));
            }
            NodeKind::Table(_) => {
                if let Some(inner) = node.table(table.problems) {
                    match inner.file_path("file", base) {
                        Some(file) => {
                            headers.insert(name, Secret::File(file));
                        }
                        None => table
                            .problems
                            .add(inner.missing("file", "the path of a file that holds the header's value")),
                    }
                    inner.close();
                }
            }
            _ => table.problems.add(node.hidden_problem("a text, or { file = \"...\" }")),
        }
    }
    table.close();
    headers
}
