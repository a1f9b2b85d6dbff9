//! Gives the merged tree its meaning: the daemon, its clusters, its chats; guards are read by [`super::guard`].

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::model::{
    RuleKind,
    settings::{ChatKind, ChatSettings, ClusterSettings, LogFormat, LogSettings, PrometheusSettings, Secret, ServeSettings},
};

use super::{
    Config, Sources,
    environment::{self, Scripts},
    error::{Problem, Problems},
    guard, layers,
    raw::{Node, NodeKind, Table},
};

/// Time between two looks: faster than a second recounts samples, slower than ten minutes guards nothing.
const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(600);
/// Bounds of every network wait.
const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How long one query may take: a query that outlasts the poll would delay the next look.
const PROMETHEUS_TIMEOUT: Duration = Duration::from_secs(4);
/// How long one delivery may take.
const CHAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads everything; what is wrong goes to `problems`, and the answer is then only good for finding more of it.
pub(super) fn assemble(sources: &Sources, problems: &Problems) -> Config {
    let base = sources
        .file
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let variables = environment::own(&sources.environment);
    let (scripts, used) = environment::scripts(&sources.environment, problems);
    let tree = layers::merge(sources.file.as_deref(), &variables, &sources.flags, problems);
    let Some(mut root) = tree.and_then(|tree| tree.table(problems)) else {
        return Config::default();
    };
    if let Some(poll) = &scripts.poll {
        root.force("poll", poll.clone());
    }
    let defaults = Config::default();
    let poll = root.duration("poll", POLL_MIN..=POLL_MAX).unwrap_or(defaults.poll);
    let data_dir = root.file_path("data_dir", &base).unwrap_or(defaults.data_dir);
    let serve = serve(root.table_or_empty("serve"), &base, defaults.serve);
    let log = log(root.table_or_empty("log"), defaults.log);
    let probe_resolve = probe_resolve(root.table_or_empty("probe"));
    let clusters = clusters(&root, &base, &scripts, defaults.clusters);
    let (chat_names, chats) = chats(&root, &base, &scripts);
    let monitor_only = root.flag("monitor_only").unwrap_or(false);
    let shared = guard::Shared {
        poll,
        clusters: &clusters,
        chats: &chat_names,
        scripts: &scripts,
        monitor_only,
    };
    let guards = guard::guards(&root, &shared);
    let clusters = clusters.into_iter().map(|(_, cluster)| cluster).collect();
    let mut config = Config {
        clusters,
        guards: guards.into_iter().map(Arc::new).collect(),
        chats,
        serve,
        data_dir,
        poll,
        probe_resolve,
        log,
        origin: sources.file.clone(),
        warnings: Vec::new(),
        variables: used.into_iter().collect(),
    };
    root.close();
    config.warnings = warnings(&config, &scripts);
    config
}

fn serve(table: Table<'_>, base: &Path, default: ServeSettings) -> ServeSettings {
    let settings = ServeSettings {
        listen: table
            .parse("listen", "an address with its port, such as \"127.0.0.1:8080\" or \"[::]:8080\"")
            .unwrap_or(default.listen),
        token: secret(&table, "token", base),
    };
    table.close();
    settings
}

fn log(table: Table<'_>, default: LogSettings) -> LogSettings {
    let settings = LogSettings {
        format: table
            .choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
            .unwrap_or(default.format),
        filter: table
            .text_where("filter", "directives such as \"info\" or \"flipback=debug,kube=warn\"", is_filter)
            .unwrap_or(default.filter),
    };
    table.close();
    settings
}

/// Whether a text is a log filter. A bare word must be a level: the filter's own parser takes any other for the name of a target.
fn is_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let sound = |directive: &str| directive.contains(['=', '[']) || LEVELS.contains(&directive.trim().to_ascii_lowercase().as_str());
    text.split(',').all(sound) && text.parse::<tracing_subscriber::EnvFilter>().is_ok()
}

/// `[probe.resolve]`: addresses that probes use in place of others.
fn probe_resolve(table: Table<'_>) -> BTreeMap<String, SocketAddr> {
    let resolve = table.table_or_empty("resolve");
    let read = resolve
        .entries()
        .into_iter()
        .filter_map(|(from, _)| {
            Some((
                from.clone(),
                resolve.parse(&from, "an address with its port, such as \"127.0.0.1:8081\"")?,
            ))
        })
        .collect();
    resolve.close();
    table.close();
    read
}

/// A secret: `<name>_file` in the file, or `<name>` from the environment. Written out in the file it is refused.
fn secret(table: &Table<'_>, name: &str, base: &Path) -> Option<Secret> {
    let by_file = format!("{name}_file");
    let file = table.file_path(&by_file, base);
    let Some(value) = table.whisper(name) else {
        return file.map(Secret::File);
    };
    if !value.is_from_outside() {
        table.problems.add(
            value
                .hidden_problem(format!("{by_file}, the path of a file that holds it"))
                .hint("a secret does not belong into the configuration: put it into a file of its own, or into the environment"),
        );
        return None;
    }
    if let Some(NodeKind::Text(text)) = Some(&value.kind) {
        if table.get(&by_file).is_some_and(Node::is_from_outside) {
            table
                .problems
                .add(value.hidden_problem(format!("either this or {by_file}, not both")));
        }
        return Some(Secret::Value(SecretString::from(text.clone())));
    }
    table.problems.add(value.hidden_problem("a text"));
    None
}

/// `[clusters.<name>]` with the name each has in the file, each with the shared `[prometheus]` below its own.
fn clusters(root: &Table<'_>, base: &Path, scripts: &Scripts, default: Vec<ClusterSettings>) -> Vec<(String, ClusterSettings)> {
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
            let settings = cluster(table, if only { "" } else { &name }, prometheus(merged, base), base);
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

const CHAT_KINDS: &[(&str, ChatKind)] = &[
    ("slack", ChatKind::Slack),
    ("teams", ChatKind::Teams),
    ("webhook", ChatKind::Webhook),
];

/// `[chats.<name>]`, and those that the scripts' variables add.
///
/// The names come along: a chat that is refused is still one that guards may name.
fn chats(root: &Table<'_>, base: &Path, scripts: &Scripts) -> (Vec<String>, Vec<ChatSettings>) {
    let mut tables: BTreeMap<String, Node> = root.table_or_empty("chats").entries().into_iter().collect();
    for (kind, url) in [("slack", &scripts.slack), ("teams", &scripts.teams)] {
        let Some(url) = url else { continue };
        if let Some(name) = chat_for(kind, &tables, url, root.problems) {
            let at = format!("chats.{name}");
            let below = tables.remove(&name).unwrap_or_else(|| Node::empty(at, url.origin.clone()));
            if let Some(mut table) = below.table(root.problems) {
                table.force("url", url.clone());
                tables.insert(name, table.node());
            }
        }
    }
    let chats = tables
        .iter()
        .filter_map(|(name, node)| chat(name, node.table(root.problems)?, base))
        .collect();
    (tables.into_keys().collect(), chats)
}

/// The chat whose URL a variable sets: the one of that name, the only one of that kind, or a new one.
fn chat_for(kind: &str, tables: &BTreeMap<String, Node>, url: &Node, problems: &Problems) -> Option<String> {
    if tables.contains_key(kind) {
        return Some(kind.to_owned());
    }
    let is_kind = |node: &Node| match &node.kind {
        NodeKind::Table(entries) => entries.get("kind").is_some_and(|node| node.kind == NodeKind::Text(kind.to_owned())),
        _ => false,
    };
    let same: Vec<&String> = tables.iter().filter(|(_, node)| is_kind(node)).map(|(name, _)| name).collect();
    match same.as_slice() {
        [] => Some(kind.to_owned()),
        [only] => Some((*only).clone()),
        several => {
            problems.add(
                url.hidden_problem(format!("at most one chat of kind {kind:?}, or one that is called {kind:?}"))
                    .hint(format!("there are {}; say which by FLIPBACK_CHATS__<NAME>__URL", several.len())),
            );
            None
        }
    }
}

fn chat(name: &str, table: Table<'_>, base: &Path) -> Option<ChatSettings> {
    let by_name = CHAT_KINDS.iter().find(|(word, _)| *word == name).map(|(_, kind)| *kind);
    let kind = match table.choice("kind", CHAT_KINDS) {
        Some(kind) => Some(kind),
        None if by_name.is_none() && table.get("kind").is_none() => {
            table.problems.add(table.missing("kind", "\"slack\", \"teams\", \"webhook\""));
            None
        }
        None => by_name,
    };
    let url = secret(&table, "url", base);
    if let Some(Secret::Value(value)) = &url {
        use secrecy::ExposeSecret;
        if !Url::parse(value.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            table.problems.add(Problem {
                found: "a value that is not shown here".to_owned(),
                ..table.problem("url", "a URL that begins with https:// or http://")
            });
        }
    }
    if url.is_none() && table.whisper("url").is_none() && table.get("url_file").is_none() {
        let variable = format!("FLIPBACK_CHATS__{}__URL", name.to_ascii_uppercase().replace(['-', '.'], "_"));
        table.problems.add(
            table
                .missing("url_file", "the path of a file that holds the webhook's URL")
                .hint(format!("or set {variable}")),
        );
    }
    let timeout = table.duration("timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(CHAT_TIMEOUT);
    let token = secret(&table, "token", base);
    if token.is_some() && kind.is_some_and(|kind| kind != ChatKind::Webhook) {
        let key = if table.whisper("token").is_some() { "token" } else { "token_file" };
        let problem = table.problem(key, "no token: only chats of kind \"webhook\" have one");
        let found = "a token".to_owned();
        table.problems.add(Problem { found, ..problem });
    }
    table.close();
    Some(ChatSettings {
        name: name.to_owned(),
        kind: kind?,
        url: url?,
        timeout,
        token,
    })
}

/// Whether a name is a DNS label, as namespaces and Services are.
pub(super) fn is_label(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(sound) && !name.starts_with('-') && !name.ends_with('-')
}

/// What is no error and yet unlikely to be meant.
fn warnings(config: &Config, scripts: &Scripts) -> Vec<String> {
    let mut warnings = Vec::new();
    for guard in &config.guards {
        let sighted = config
            .clusters
            .iter()
            .any(|cluster| cluster.name == guard.cluster && cluster.prometheus.is_some());
        let metric = guard
            .rules
            .iter()
            .find(|rule| matches!(rule.kind, RuleKind::ErrorRate(_) | RuleKind::Latency(_)));
        if let (false, Some(rule)) = (sighted, metric) {
            warnings.push(format!(
                "guard {}: the rule {} needs a Prometheus and none is configured, so it stays blind; set prometheus.url, or inherit_rules = false \
                 and only rules of kind probe and endpoints",
                guard.id, rule.name
            ));
        }
        if guard.policy.consecutive < 2 {
            warnings.push(format!(
                "guard {}: consecutive = 1 counts as 2: a single breach never rolls back",
                guard.id
            ));
        }
        for rule in &guard.rules {
            if let RuleKind::Probe(probe) = &rule.kind {
                let longest = probe.timeout * (probe.retries + 1);
                if longest > config.poll {
                    warnings.push(format!(
                        "guard {}: a failing probe of rule {} takes up to {} and delays the next look, which is due after {}; lower timeout or retries",
                        guard.id,
                        rule.name,
                        super::duration::print(longest),
                        super::duration::print(config.poll),
                    ));
                }
            }
        }
    }
    let prefix_used = config.guards.iter().any(|guard| {
        let prefix = scripts.namespace_prefix.as_ref().and_then(|node| match &node.kind {
            NodeKind::Text(text) => Some(format!("{text}-")),
            _ => None,
        });
        prefix.is_none_or(|prefix| guard.namespace.starts_with(&prefix))
    });
    if scripts.namespace_prefix.is_some() && !prefix_used {
        warnings.push("NAMESPACE_PREFIX is set and changes nothing: no guard has an `environment`".to_owned());
    }
    warnings
}
