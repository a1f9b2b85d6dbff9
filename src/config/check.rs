//! Gives the merged tree its meaning: the daemon's own keys here, the rest by `cluster`, `chat` and `guard`; what is unlikely to be meant
//! becomes a warning.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use secrecy::SecretString;

use crate::model::{
    GuardSpec, Judging, Preset, RuleKind, RuleSpec, TimeUnit,
    incident::INCIDENTS,
    settings::{BlastRadius, ChatSettings, LogFormat, LogSettings, Secret, ServeSettings},
};

use super::{
    Config, Sources, chat, cluster, duration,
    environment::{self, Scripts},
    error::Problems,
    evidence, guard, layers, maintenance,
    raw::{Node, NodeKind, Share, Table},
    replicas,
};

/// Time between two looks: faster than a second recounts samples, slower than ten minutes guards nothing.
const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(600);
/// Shared causes show within minutes; a ledger holds no more than some days.
const RADIUS_WINDOW: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);
/// Bounds of every network wait.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(10);
pub(super) const WAIT_MAX: Duration = Duration::from_secs(120);

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
    let serve = serve(root.table_or_empty("serve"), &base, &data_dir, defaults.serve);
    let log = log(root.table_or_empty("log"), defaults.log);
    let probe_resolve = probe_resolve(root.table_or_empty("probe"));
    let clusters = cluster::clusters(&root, &base, &scripts, defaults.clusters);
    let replicas = replicas::replicas(&root, &clusters, &sources.environment);
    let chats = chat::chats(&root, &base, &scripts);
    let evidence = evidence::evidence(root.table_or_empty("evidence"), &data_dir, &base);
    let audit = evidence::audit(root.table_or_empty("audit"));
    let monitor_only = root.flag("monitor_only").unwrap_or(false);
    let maintenance = maintenance::shared(&root);
    let shared = guard::Shared {
        maintenance: &maintenance,
        poll,
        clusters: &clusters,
        chats: &chats.names,
        scripts: &scripts,
        monitor_only,
    };
    let guards = guard::guards(&root, &shared);
    let clusters = clusters.into_iter().map(|(_, cluster)| cluster).collect();
    let mut config = Config {
        blast_radius: blast_radius(root.table_or_empty("blast_radius")),
        clusters,
        guards: guards.into_iter().map(Arc::new).collect(),
        chats: chats.settings,
        evidence,
        audit,
        serve,
        replicas,
        data_dir,
        poll,
        probe_resolve,
        log,
        origin: sources.file.clone(),
        hash: String::new(),
        warnings: Vec::new(),
        variables: used.into_iter().collect(),
    };
    root.close();
    config.warnings = warnings(&config, &scripts);
    config.warnings.extend(chats.warnings);
    let names = config.guards.iter().map(|guard| &guard.id);
    let missed = maintenance::without_a_guard(&maintenance, names);
    config.warnings.extend(missed);
    config
}

/// `[blast_radius]`.
fn blast_radius(table: Table<'_>) -> BlastRadius {
    let default = BlastRadius::default();
    let radius = BlastRadius {
        flips: table.count("flips", 0..=100_000).unwrap_or(default.flips),
        share: table.share("share", Share::Closed).unwrap_or(default.share),
        window: table.duration("window", RADIUS_WINDOW).unwrap_or(default.window),
    };
    table.close();
    radius
}

fn serve(table: Table<'_>, base: &Path, data_dir: &Path, default: ServeSettings) -> ServeSettings {
    let settings = ServeSettings {
        listen: table
            .parse("listen", "an address with its port, such as \"127.0.0.1:8080\" or \"[::]:8080\"")
            .unwrap_or(default.listen),
        token: secret(&table, "token", base),
        evidence: table
            .flag("evidence")
            .unwrap_or(default.evidence.is_some())
            .then(|| data_dir.join(INCIDENTS)),
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
pub(super) fn secret(table: &Table<'_>, name: &str, base: &Path) -> Option<Secret> {
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

/// Whether a name is a DNS label, as namespaces and Services are.
pub(super) fn is_label(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(sound) && !name.starts_with('-') && !name.ends_with('-')
}

/// Classic mode's windows overlap by nature: one event is counted at several polls.
fn classic(guard: &GuardSpec) -> Option<String> {
    let policy = &guard.policy;
    if policy.mode != Judging::Classic {
        return None;
    }
    let polls = policy.consecutive.max(2);
    let covered = policy.poll * (polls - 1);
    let scalars = guard.rules.iter().filter_map(|rule| rule.kind.scalar()?.window);
    let longest = scalars.chain([policy.window, policy.window_latency]).max().unwrap_or_default();
    (covered < longest).then(|| {
        format!(
            "guard {}: classic mode looks back over {} and its {polls} bad polls span {}, so that one short blip can roll back; poll less often, raise \
             consecutive, shorten the windows, or use mode = \"intervals\", which counts each request once",
            guard.id,
            duration::print(longest),
            duration::print(covered),
        )
    })
}

/// A latency threshold that the preset's histogram does not have, unless its bounds were changed.
fn between_bounds(guard: &GuardSpec, rule: &RuleSpec) -> Option<String> {
    let RuleKind::Latency(latency) = &rule.kind else {
        return None;
    };
    let facts = Preset::ALL.map(Preset::facts).into_iter().find(|facts| {
        let selectors = facts.variants.iter().map(|variant| variant.buckets).chain([facts.buckets]);
        facts.unit == latency.unit && selectors.into_iter().any(|buckets| buckets == latency.buckets)
    })?;
    let bound = latency.bound();
    let near = |known: &f64| (known - bound).abs() <= bound.abs() * 1e-9;
    if facts.bounds.is_empty() || facts.bounds.iter().any(near) {
        return None;
    }
    let below = facts.bounds.iter().rev().find(|known| **known < bound);
    let above = facts.bounds.iter().find(|known| **known > bound);
    let symbol = match latency.unit {
        TimeUnit::Seconds => "s",
        TimeUnit::Milliseconds => "ms",
    };
    let named: Vec<String> = [below, above]
        .into_iter()
        .flatten()
        .map(|known| format!("{known}{symbol}"))
        .collect();
    Some(format!(
        "guard {}: the threshold of rule {}, {}, is no usual bucket bound of the preset {}: the nearest are {}; set it to one of them, unless the bounds \
         were changed",
        guard.id,
        rule.name,
        duration::print(latency.threshold),
        facts.name,
        named.join(" and "),
    ))
}

/// Patterns of guards' names that no guard has: a chat that is told of nothing, and nobody notices.
fn without_a_guard(config: &Config) -> Vec<String> {
    let fits_none = |pattern: &&String| !config.guards.iter().any(|guard| guard.id.fits(pattern));
    let told = |chat: &ChatSettings| {
        let patterns = chat.filter.guards.iter().filter(fits_none);
        let name = &chat.name;
        patterns
            .map(|pattern| format!("chat {name}: no guard is called {pattern:?}"))
            .collect::<Vec<_>>()
    };
    config.chats.iter().flat_map(told).collect()
}

/// What is no error and yet unlikely to be meant.
fn warnings(config: &Config, scripts: &Scripts) -> Vec<String> {
    let mut warnings = without_a_guard(config);
    for guard in &config.guards {
        let sighted = config
            .clusters
            .iter()
            .any(|cluster| cluster.name == guard.cluster && cluster.prometheus.is_some());
        let metric = guard.rules.iter().find(|rule| rule.kind.needs_prometheus());
        if let (false, Some(rule)) = (sighted, metric) {
            warnings.push(format!(
                "guard {}: the rule {} needs a Prometheus and none is configured, so it stays blind; set prometheus.url, or inherit_rules = false \
                 and only rules of kind probe and endpoints",
                guard.id, rule.name
            ));
        }
        if guard.policy.consecutive < 2 {
            warnings.push(format!(
                "guard {}: consecutive = 1 counts as 2: a single breach rolls back only by a rule with critical = true",
                guard.id
            ));
        }
        warnings.extend(classic(guard));
        warnings.extend(guard.rules.iter().filter_map(|rule| between_bounds(guard, rule)));
        for rule in &guard.rules {
            if let RuleKind::Probe(probe) = &rule.kind {
                let longest = probe.timeout * (probe.retries + 1);
                if longest > config.poll {
                    warnings.push(format!(
                        "guard {}: a failing probe of rule {} takes up to {} and delays the next look, which is due after {}; lower timeout or retries",
                        guard.id,
                        rule.name,
                        duration::print(longest),
                        duration::print(config.poll),
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
