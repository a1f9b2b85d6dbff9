//! Guards: which object, which colors, by which rules. `[defaults]` lies below each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::model::{EvidenceSpec, GuardId, GuardSpec, Mode, Policy, Preset, RouteSpec, RuleSpec, ServiceRoute, settings::ClusterSettings};

use super::{
    check::is_label,
    color::{colors, every_color_fits, own_services},
    environment::Scripts,
    error::{Origin, Problem, Problems},
    maintenance, policy,
    raw::{Node, NodeKind, Table},
    rule,
};

/// What all guards share.
pub(super) struct Shared<'a> {
    pub(super) poll: Duration,
    /// With the names they have in the file; empty for the one that was not written.
    pub(super) clusters: &'a [(String, ClusterSettings)],
    /// The names of all chats.
    pub(super) chats: &'a [String],
    pub(super) scripts: &'a Scripts,
    pub(super) monitor_only: bool,
    /// The maintenance windows that name guards by pattern.
    pub(super) maintenance: &'a [maintenance::Shared],
}

impl Shared<'_> {
    /// What a guard's name says of its cluster: nothing where there is only one, be that named or not.
    fn told_apart<'c>(&self, cluster: &'c str) -> &'c str {
        if self.clusters.len() > 1 { cluster } else { "" }
    }
}

/// `[defaults]`, read.
struct Defaults {
    mode: Mode,
    chats: Vec<String>,
    namespace_prefix: Option<String>,
    inherit_rules: bool,
    preset: Preset,
    rules: BTreeMap<String, Node>,
    policy: Node,
    evidence: Node,
    standby: Standby,
    scale_up: Node,
    connections: Node,
}

/// What is done with a standby that cannot serve.
#[derive(Clone, Copy)]
enum Standby {
    /// The flip is refused.
    Ready,
    /// It is scaled up.
    ScaleUp,
}

const STANDBY: &[(&str, Standby)] = &[("ready", Standby::Ready), ("scale_up", Standby::ScaleUp)];

/// What the model's names bear.
pub(super) const NAME: &str = "1 to 63 lower-case letters, digits, '-', '_' or '.', beginning and ending with a letter or digit";

const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("monitor", Mode::Monitor)];

/// Reads `[defaults]` and every guard.
pub(super) fn guards(root: &Table<'_>, shared: &Shared<'_>) -> Vec<GuardSpec> {
    let problems = root.problems;
    let defaults = defaults(root.table_or_empty("defaults"), shared);
    let nodes = root.table_or_empty("guards").entries();
    if nodes.is_empty() {
        problems.add(
            root.missing("guards", "at least one [[guards]]")
                .hint("config/examples/ holds complete ones"),
        );
    }
    let mut guards = Vec::with_capacity(nodes.len());
    let mut taken = Taken::default();
    for (_, node) in &nodes {
        if let Some(guard) = node.table(problems).and_then(|table| guard(table, &defaults, shared)) {
            taken.check(&guard, node, problems);
            guards.push(guard);
        }
    }
    guards
}

fn defaults(mut table: Table<'_>, shared: &Shared<'_>) -> Defaults {
    if let Some(prefix) = &shared.scripts.namespace_prefix {
        table.force("namespace_prefix", prefix.clone());
    }
    // Read with the chats, whose words they are.
    table.get("templates");
    let rules: BTreeMap<String, Node> = table.table_or_empty("rules").entries().into_iter().collect();
    let defaults = Defaults {
        mode: table.choice("mode", MODES).unwrap_or_default(),
        chats: chats(&table, shared),
        namespace_prefix: table.text_where("namespace_prefix", "a namespace's beginning, such as \"shop\"", is_label),
        inherit_rules: table.flag("inherit_rules").unwrap_or(true),
        preset: table.choice("preset", rule::PRESETS).unwrap_or_default(),
        policy: table.table_or_empty("policy").node(),
        evidence: table.table_or_empty("evidence").node(),
        standby: table.choice("standby", STANDBY).unwrap_or(Standby::Ready),
        scale_up: table.table_or_empty("scale_up").node(),
        connections: table.table_or_empty("connections").node(),
        rules,
    };
    // Read once for their own sake: a guard that overrides or drops them would hide what is wrong with them.
    let no_scripts = Scripts::default();
    if let Some(policy) = defaults.policy.table(table.problems) {
        policy::policy(policy, &base_policy(shared), &no_scripts);
    }
    if let Some(evidence) = defaults.evidence.table(table.problems) {
        policy::evidence(evidence, &EvidenceSpec::default());
    }
    if let Some(scale_up) = defaults.scale_up.table(table.problems) {
        policy::scale_up(scale_up);
    }
    if let Some(connections) = defaults.connections.table(table.problems) {
        policy::connections(connections);
    }
    let alone = Problems::default();
    let context = rule::Context {
        preset: defaults.preset,
        policy: None,
        scripts: &no_scripts,
    };
    rule::rules(&defaults.rules, &context, &alone);
    // What a default rule lacks, a guard may add.
    alone.forward(table.problems, |problem| !problem.is_lack());
    table.close();
    defaults
}

fn base_policy(shared: &Shared<'_>) -> Policy {
    Policy {
        poll: shared.poll,
        ..Policy::default()
    }
}

fn guard(table: Table<'_>, defaults: &Defaults, shared: &Shared<'_>) -> Option<GuardSpec> {
    let problems = table.problems;
    if table.get("name").is_none() {
        problems.add(table.missing("name", "a name, such as \"web\""));
    }
    let name = table.text("name");
    let cluster = cluster(&table, shared);
    let namespace = namespace(&table, defaults);
    let id = match (&cluster, &namespace, &name) {
        (Some(cluster), Some(namespace), Some(name)) => match GuardId::new(shared.told_apart(cluster), namespace, name) {
            Ok(id) => Some(id),
            Err(_) => {
                problems.add(table.problem("name", NAME));
                None
            }
        },
        _ => None,
    };
    let mode = table.choice("mode", MODES).unwrap_or(defaults.mode);
    let route = route(table.table_or_empty("route"), shared.scripts);
    let colors = colors(table.table_or_empty("colors"));
    if let Some(RouteSpec::Service(route)) = &route {
        own_services(&table, &colors, route);
    }
    let policy_node = defaults.policy.overlaid(&table.table_or_empty("policy").node());
    let policy = policy_node
        .table(problems)
        .map(|policy| policy::policy(policy, &base_policy(shared), shared.scripts));
    let rules = rules(&table, defaults, policy.as_ref(), shared);
    every_color_fits(&table, &rules, &colors);
    let evidence_node = defaults.evidence.overlaid(&table.table_or_empty("evidence").node());
    let evidence = evidence_node
        .table(problems)
        .map(|evidence| policy::evidence(evidence, &EvidenceSpec::default()));
    let standby = table.choice("standby", STANDBY).unwrap_or(defaults.standby);
    let scale_up_node = defaults.scale_up.overlaid(&table.table_or_empty("scale_up").node());
    let scale_up = scale_up_node.table(problems).map(policy::scale_up);
    let connections_node = defaults.connections.overlaid(&table.table_or_empty("connections").node());
    let connections = connections_node.table(problems).map(policy::connections);
    let maintenance = maintenance::windows(&table, id.as_ref(), shared.maintenance);
    let chats = if table.get("chats").is_some() {
        chats(&table, shared)
    } else {
        defaults.chats.clone()
    };
    table.close();
    let mut spec = GuardSpec {
        id: id?,
        cluster: cluster?,
        namespace: namespace?,
        route: route?,
        colors,
        rules,
        policy: policy?,
        mode: if shared.monitor_only { Mode::Monitor } else { mode },
        scale_up: match standby {
            Standby::Ready => None,
            Standby::ScaleUp => Some(scale_up?),
        },
        connections: connections?,
        maintenance,
        evidence: evidence?,
        chats,
        config_hash: String::new(),
    };
    spec.config_hash = hash(&spec);
    Some(spec)
}

/// The first 12 hexadecimal digits of the SHA-256 of the guard's checked configuration.
fn hash(spec: &GuardSpec) -> String {
    let json = serde_json::to_vec(spec).expect("a guard's maps have text keys and its numbers are finite");
    Sha256::digest(json).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn chats(table: &Table<'_>, shared: &Shared<'_>) -> Vec<String> {
    let chats = table.texts("chats").unwrap_or_default();
    for chat in &chats {
        if !shared.chats.contains(chat) {
            let allowed = if shared.chats.is_empty() {
                "none: there is no [chats.<name>]".to_owned()
            } else {
                shared.chats.join(", ")
            };
            table.problems.add(Problem {
                found: format!("{chat:?}, which is no chat"),
                ..table.problem("chats", allowed)
            });
        }
    }
    chats
}

/// The cluster's name in the settings: empty for an only one without a name.
fn cluster(table: &Table<'_>, shared: &Shared<'_>) -> Option<String> {
    let names: Vec<&str> = shared.clusters.iter().map(|(name, _)| name.as_str()).collect();
    let given = table.get("cluster").is_some();
    let asked = table.text("cluster");
    match (shared.clusters, asked) {
        ([(_, only)], None) if !given => Some(only.name.clone()),
        (clusters, Some(asked)) if names.contains(&asked.as_str()) => clusters
            .iter()
            .find(|(name, _)| *name == asked)
            .map(|(_, cluster)| cluster.name.clone()),
        _ => {
            let allowed = if names == [""] {
                "none: there is no [clusters.<name>]".to_owned()
            } else {
                names.join(", ")
            };
            table.problems.add(table.problem("cluster", allowed));
            None
        }
    }
}

/// `namespace`, or `<namespace_prefix>-<environment>`.
fn namespace(table: &Table<'_>, defaults: &Defaults) -> Option<String> {
    const ALLOWED: &str = "a namespace, such as \"shop\"";
    let namespace = table.text_where("namespace", ALLOWED, is_label);
    let environment = table.text_where("environment", "an environment, such as \"staging\"", is_label);
    if table.get("namespace").is_some() && table.get("environment").is_some() {
        table.problems.add(
            table
                .problem("environment", "either namespace or environment")
                .hint("environment means the namespace <defaults.namespace_prefix>-<environment>"),
        );
        return None;
    }
    match (namespace, environment, &defaults.namespace_prefix) {
        (Some(namespace), _, _) => Some(namespace),
        (None, Some(environment), Some(prefix)) => Some(format!("{prefix}-{environment}")).filter(|namespace| {
            let sound = is_label(namespace);
            if !sound {
                table.problems.add(Problem {
                    found: format!("the namespace {namespace:?}"),
                    ..table.problem("environment", "at most 63 letters, digits and '-' together with the prefix")
                });
            }
            sound
        }),
        (None, Some(_), None) => {
            table.problems.add(
                table
                    .problem("environment", "an environment only where there is a prefix")
                    .hint("set defaults.namespace_prefix, or write the namespace out"),
            );
            None
        }
        (None, None, _) => {
            if table.get("namespace").is_none() && table.get("environment").is_none() {
                table.problems.add(table.missing("namespace", ALLOWED));
            }
            None
        }
    }
}

fn route(mut table: Table<'_>, scripts: &Scripts) -> Option<RouteSpec> {
    if let Some(service) = &scripts.active_service {
        table.force("service", service.clone());
    }
    table.choice("kind", &[("service", ())]);
    let service_allowed = "the name of the Service that users reach, such as \"web\"";
    let active = table.text_where("service", service_allowed, is_label);
    let preview = table.text_where("preview", "the name of the Service that reaches the other color", is_label);
    let selector_key = table.text_where("selector_key", "a label's key, such as \"version\"", is_label_key);
    for (name, allowed) in [
        ("service", service_allowed),
        (
            "selector_key",
            "the key of the Service's selector whose value names the color, such as \"version\"",
        ),
    ] {
        if table.get(name).is_none() {
            table.problems.add(table.missing(name, allowed));
        }
    }
    if active.is_some() && active == preview {
        table
            .problems
            .add(table.problem("preview", "another Service than `service`: it reaches the other color"));
    }
    table.close();
    Some(RouteSpec::Service(ServiceRoute {
        active: active?,
        preview,
        selector_key: selector_key?,
    }))
}

fn rules(table: &Table<'_>, defaults: &Defaults, policy: Option<&Policy>, shared: &Shared<'_>) -> Vec<RuleSpec> {
    let own: BTreeMap<String, Node> = table.table_or_empty("rules").entries().into_iter().collect();
    let mut below = BTreeMap::new();
    if table.flag("inherit_rules").unwrap_or(true) {
        if defaults.inherit_rules {
            below = rule::built_in();
        }
        below = rule::overlaid(&below, &defaults.rules);
    }
    let context = rule::Context {
        preset: table.choice("preset", rule::PRESETS).unwrap_or(defaults.preset),
        policy,
        scripts: shared.scripts,
    };
    let nodes = rule::overlaid(&below, &own);
    let before = table.problems.count();
    let rules = rule::rules(&nodes, &context, table.problems);
    if rules.is_empty() && table.problems.count() == before {
        table.problems.add(
            table
                .missing("rules", "at least one rule that is enabled")
                .hint("a guard without rules judges nothing"),
        );
    }
    rules
}

/// What earlier guards have taken.
#[derive(Default)]
struct Taken {
    names: BTreeSet<GuardId>,
    services: BTreeMap<(String, String, String), GuardId>,
}

impl Taken {
    /// Two guards on one object would undo each other's flips.
    fn check(&mut self, guard: &GuardSpec, node: &Node, problems: &Problems) {
        let at = |key: &str, found: String, allowed: &str| Problem {
            origin: origin_at(node, key),
            key: format!("{}.{key}", node.key),
            found,
            allowed: allowed.to_owned(),
            hint: None,
        };
        if !self.names.insert(guard.id.clone()) {
            problems.add(at("name", format!("a second guard called {}", guard.id), "a name of its own"));
        }
        let RouteSpec::Service(route) = &guard.route;
        let services = [("route.service", Some(&route.active)), ("route.preview", route.preview.as_ref())];
        for (key, service) in services {
            let Some(service) = service else { continue };
            let object = (guard.cluster.clone(), guard.namespace.clone(), service.clone());
            if let Some(other) = self.services.get(&object) {
                let found = format!("Service {}/{service}, which {other} already guards", guard.namespace);
                problems.add(at(key, found, "one guard per object").hint("two guards on one object would undo each other's flips"));
            } else {
                self.services.insert(object, guard.id.clone());
            }
        }
    }
}

/// Where the value at `key` came from, else where its table did.
fn origin_at(node: &Node, key: &str) -> Origin {
    let mut here = node;
    for part in key.split('.') {
        match &here.kind {
            NodeKind::Table(entries) if entries.contains_key(part) => here = &entries[part],
            _ => return node.origin.clone(),
        }
    }
    here.origin.clone()
}

/// A DNS subdomain, as Deployments' names are.
pub(super) fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.split('.').all(is_label)
}

/// A label's value, not empty.
pub(super) fn is_label_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(value.chars().next())
        && edge(value.chars().last())
}

/// A label's key, with or without a prefix.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_value(name),
        None => is_label_value(key),
    }
}
