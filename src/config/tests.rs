//! The configuration as its users meet it: files, variables, flags, and the sentences when something is wrong.

use std::{fs, path::Path, time::Duration};

use secrecy::ExposeSecret;

use crate::model::{
    Color, Mode, Policy, RouteSpec, RuleKind,
    settings::{ChatKind, Secret},
};

use super::*;

mod chats;
mod evidence;
mod replicas;
mod rules;
mod safety;

/// A guard that needs nothing else.
const GUARD: &str = r#"
[[guards]]
name = "web"
namespace = "shop"
[guards.route]
service = "web"
selector_key = "version"
[guards.colors]
blue = { value = "blue", deployment = "web-blue" }
green = { value = "green", deployment = "web-green" }
"#;

const PROMETHEUS: &str = "[prometheus]\nurl = \"http://prometheus:9090\"\n";

/// Loads a file's text as `flipback.toml` with an environment.
fn load_text(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("flipback.toml");
    fs::write(&file, text).expect("writable");
    load(&Sources {
        file: Some(file),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags,
    })
    .map_err(|errors| errors.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn loaded(text: &str, environment: &[(&str, &str)]) -> Config {
    load_text(text, environment, Flags::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    load_text(text, environment, Flags::default()).expect_err("must be refused")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `config/flipback.toml` with the lines of some markers uncommented.
fn reference(markers: &[&str]) -> String {
    let text = fs::read_to_string(repository().join("config/flipback.toml")).expect("readable");
    let mut lines = Vec::new();
    for line in text.lines() {
        for marker in markers {
            if let Some(rest) = line.strip_prefix(marker) {
                // `# prose` and, for the plain marker, the other markers are no keys.
                if *marker != "#" || rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') {
                    lines.push(rest.trim_start().to_owned());
                }
                break;
            }
        }
    }
    lines.join("\n")
}

#[test]
fn the_reference_files_defaults_are_the_codes_defaults() {
    let defaults = reference(&["#"]);
    assert!(defaults.lines().count() > 60, "the markers were not understood:\n{defaults}");
    let written = loaded(&format!("{defaults}\n{GUARD}"), &[]);
    let unwritten = loaded(GUARD, &[]);
    let strip = |config: &Config| {
        let config = Config {
            origin: None,
            hash: String::new(),
            ..config.clone()
        };
        format!("{config:#?}")
    };
    assert_eq!(strip(&written), strip(&unwritten));
    let bare = Config {
        guards: written.guards.clone(),
        warnings: written.warnings.clone(),
        ..Config::default()
    };
    assert_eq!(strip(&written), strip(&bare));
    assert_eq!(written.guards[0].policy, Policy::default());
    assert_eq!(written.guards[0].evidence, crate::model::EvidenceSpec::default());
}

#[test]
fn every_default_of_the_code_stands_in_the_reference_file() {
    let defaults: toml::Table = toml::from_str(&reference(&["#"])).expect("TOML");
    let policy = defaults["defaults"]["policy"].as_table().expect("a table");
    for (knob, _) in serde_json::to_value(Policy::default())
        .expect("serializes")
        .as_object()
        .expect("an object")
    {
        let elsewhere = ["poll", "min_requests"].contains(&knob.as_str());
        assert!(
            elsewhere || policy.contains_key(knob),
            "defaults.policy.{knob} is not in config/flipback.toml"
        );
    }
    let evidence = defaults["defaults"]["evidence"].as_table().expect("a table");
    for (knob, _) in serde_json::to_value(crate::model::EvidenceSpec::default())
        .expect("serializes")
        .as_object()
        .expect("an object")
    {
        assert!(
            evidence.contains_key(knob),
            "defaults.evidence.{knob} is not in config/flipback.toml"
        );
    }
}

#[test]
fn every_key_of_the_reference_file_is_known() {
    let config = loaded(&reference(&["#:", "#"]), &[]);
    let guard = &config.guards[0];
    assert_eq!(guard.id.as_str(), "shop/web");
    assert_eq!(guard.rules.len(), 9, "{:?}", guard.rules);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn a_probe_written_out_as_in_the_reference_file_is_the_default_probe() {
    let of = |config: &Config| {
        let rule = config.guards[0]
            .rules
            .iter()
            .find(|rule| rule.name.as_str() == "health")
            .expect("there");
        rule.kind.clone()
    };
    let written = of(&loaded(&reference(&["#:", "#"]), &[]));
    let bare = of(&loaded(&format!("{GUARD}\n[guards.rules.health]\nkind = \"probe\""), &[]));
    assert_eq!(written, bare);
}

/// The keys that a table knows, as its own refusal of an unknown one lists them.
fn known_keys(table: &str, text: &str) -> Vec<String> {
    let said = refused(text, &[]);
    let problem = said
        .split("\n\n")
        .find(|problem| problem.contains(": ") && problem.contains(&format!("{table}.zzz")) && problem.contains("unknown key"))
        .unwrap_or_else(|| panic!("no refusal of {table}.zzz in {said}"));
    let allowed = problem.split("allowed: ").nth(1).expect("allowed").lines().next().expect("a line");
    allowed.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_of_the_code_stands_in_the_reference_file() {
    let text = fs::read_to_string(repository().join("config/flipback.toml")).expect("readable");
    let rule = |name: &str, more: &str| format!("{GUARD}\n[guards.rules.{name}]\n{more}\nzzz = 1");
    let tables = [
        ("serve", format!("[serve]\nzzz = 1\n{GUARD}")),
        ("log", format!("[log]\nzzz = 1\n{GUARD}")),
        ("prometheus", format!("[prometheus]\nzzz = 1\n{GUARD}")),
        ("clusters.eu", format!("[clusters.eu]\nzzz = 1\n{GUARD}")),
        ("chats.slack", format!("[chats.slack]\nzzz = 1\n{GUARD}")),
        ("chats.slack_bot", format!("[chats.slack_bot]\nzzz = 1\n{GUARD}")),
        ("chats.teams", format!("[chats.teams]\nzzz = 1\n{GUARD}")),
        ("chats.discord", format!("[chats.discord]\nzzz = 1\n{GUARD}")),
        ("chats.webhook", format!("[chats.webhook]\nzzz = 1\n{GUARD}")),
        ("chats.pagerduty", format!("[chats.pagerduty]\nzzz = 1\n{GUARD}")),
        ("chats.alertmanager", format!("[chats.alertmanager]\nzzz = 1\n{GUARD}")),
        ("chats.email", format!("[chats.email]\nzzz = 1\n{GUARD}")),
        ("chats.slack.templates", format!("[chats.slack.templates]\nzzz = 1\n{GUARD}")),
        ("evidence", format!("[evidence]\nzzz = 1\n{GUARD}")),
        ("evidence.retention", format!("[evidence.retention]\nzzz = 1\n{GUARD}")),
        ("evidence.copy", format!("[evidence.copy]\nzzz = 1\n{GUARD}")),
        ("audit", format!("[audit]\nzzz = 1\n{GUARD}")),
        ("blast_radius", format!("[blast_radius]\nzzz = 1\n{GUARD}")),
        ("maintenance[0]", format!("[[maintenance]]\nzzz = 1\nfrom = \"01:00\"\n{GUARD}")),
        ("maintenance[0]", format!("[[maintenance]]\nzzz = 1\nstarts = \"x\"\n{GUARD}")),
        ("defaults.scale_up", format!("[defaults.scale_up]\nzzz = 1\n{GUARD}")),
        ("defaults.connections", format!("[defaults.connections]\nzzz = 1\n{GUARD}")),
        ("defaults.policy.reassert", format!("[defaults.policy.reassert]\nzzz = 1\n{GUARD}")),
        ("guards[web].maintenance[0]", format!("{GUARD}[[guards.maintenance]]\nzzz = 1")),
        ("probe", format!("[probe]\nzzz = 1\n{GUARD}")),
        ("defaults", format!("[defaults]\nzzz = 1\n{GUARD}")),
        ("defaults.policy", format!("[defaults.policy]\nzzz = 1\n{GUARD}")),
        ("defaults.evidence", format!("[defaults.evidence]\nzzz = 1\n{GUARD}")),
        ("guards[web]", GUARD.replace("name = \"web\"", "name = \"web\"\nzzz = 1")),
        ("guards[web].route", GUARD.replace("[guards.route]", "[guards.route]\nzzz = 1")),
        (
            "guards[web].colors.blue",
            GUARD.replace("value = \"blue\"", "zzz = 1, value = \"blue\""),
        ),
        ("rules.error_rate", rule("error_rate", "")),
        (
            "rules.error_rate.windows",
            rule("error_rate.windows", "short = \"5m\"\nlong = \"1h\""),
        ),
        ("rules.availability", rule("availability", "")),
        ("rules.logins", rule("logins", "kind = \"promql\"")),
        ("rules.throughput", rule("throughput", "")),
        ("rules.saturation_cpu", rule("saturation_cpu", "")),
        ("rules.latency_p95", rule("latency_p95", "")),
        ("rules.endpoints", rule("endpoints", "")),
        ("rules.health", rule("health", "kind = \"probe\"")),
    ];
    for (table, bad) in tables {
        for key in known_keys(table, &bad) {
            let line = |line: &str| {
                line.strip_prefix('#').is_some_and(|rest| {
                    let rest = rest.trim_start_matches([':', ';']).trim_start();
                    rest.starts_with(&format!("{key} =")) || rest.contains(&format!("{{ {key} =")) || rest.contains(&format!(", {key} ="))
                })
            };
            // The topics are one list, and each may be a table of templates.
            let listed = table.ends_with(".templates") && text.contains(&format!(" {key},")) || text.contains(&format!(" {key}."));
            let header =
                listed || text.contains(&format!("{key}]")) || text.contains(&format!("{key}.")) || text.contains(&format!("[[{key}]]"));
            assert!(text.lines().any(line) || header, "{table}.{key} is not in config/flipback.toml");
        }
    }
}

#[test]
fn an_empty_rule_set_means_errors_two_latencies_and_endpoints() {
    let config = loaded(&format!("{PROMETHEUS}{GUARD}"), &[]);
    insta::assert_json_snapshot!(config.guards[0]);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn the_examples_load() {
    let folder = repository().join("config/examples");
    let example = |name: &str| {
        load(&Sources {
            file: Some(folder.join(name)),
            ..Sources::default()
        })
        .unwrap_or_else(|errors| panic!("{errors}"))
    };
    let erlmcp = example("erlmcp.toml");
    let names: Vec<&str> = erlmcp.guards.iter().map(|guard| guard.id.as_str()).collect();
    assert_eq!(names, ["erlmcp-staging/erlmcp", "erlmcp-production/erlmcp"]);
    assert_eq!(erlmcp.guards[0].policy.cooldown, Duration::from_secs(300));
    assert_eq!(erlmcp.chats.len(), 2);
    assert_eq!(erlmcp.warnings, Vec::<String>::new());

    let engine_ops = example("engine-ops.toml");
    let names: Vec<&str> = engine_ops.guards.iter().map(|guard| guard.id.as_str()).collect();
    assert_eq!(names, ["us-east/engine-ops/engine-ops", "eu-west/engine-ops/engine-ops"]);
    let kinds: Vec<&str> = engine_ops.guards[0].rules.iter().map(|rule| rule.kind.as_str()).collect();
    assert_eq!(kinds, ["probe", "probe", "endpoints"]);
    assert!(engine_ops.clusters.iter().all(|cluster| cluster.prometheus.is_none()));
    assert_eq!(engine_ops.warnings, Vec::<String>::new());

    let jade = example("jadevectordb.toml");
    let RuleKind::ErrorRate(errors) = &jade.guards[0].rules[0].kind else {
        panic!("the first rule counts errors")
    };
    assert!(errors.total.starts_with("jadevectordb_requests_total{"), "{}", errors.total);
    assert_eq!(jade.warnings, Vec::<String>::new());

    let vitalstream = example("vitalstream.toml");
    let alerts = |config: &Config| {
        let rules = config.guards[0].rules.iter();
        let alerting = rules.filter(|rule| rule.action == crate::model::Action::Alert);
        alerting.map(|rule| rule.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        alerts(&vitalstream),
        [
            "alarms",
            "analyses",
            "data_reads",
            "throughput",
            "saturation_cpu",
            "saturation_memory"
        ]
    );
    assert_eq!(vitalstream.warnings, Vec::<String>::new());

    let teei = example("teei.toml");
    let names: Vec<&str> = teei.guards.iter().map(|guard| guard.id.as_str()).collect();
    assert_eq!(names, ["us-west/teei/teei", "eu-central/teei/teei"]);
    let critical = teei.guards[1].rules.iter().filter(|rule| rule.critical);
    assert_eq!(critical.count(), 3);
    assert_eq!(alerts(&teei), Vec::<String>::new());
    assert_eq!(teei.warnings, Vec::<String>::new());
    let kinds: Vec<ChatKind> = teei.chats.iter().map(ChatSettings::kind).collect();
    assert_eq!(kinds, [ChatKind::Discord, ChatKind::Slack]);

    let listed = fs::read_dir(folder).expect("readable").count();
    assert_eq!(listed, 5, "an example is not loaded by this test");
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = format!("poll = \"10s\"\n{GUARD}");
    assert_eq!(loaded(GUARD, &[]).poll, Duration::from_secs(5));
    assert_eq!(loaded(&file, &[]).poll, Duration::from_secs(10));
    assert_eq!(loaded(&file, &[("FLIPBACK_POLL", "15s")]).poll, Duration::from_secs(15));
    assert_eq!(loaded(&file, &[("MONITOR_INTERVAL", "20")]).poll, Duration::from_secs(20));
    let flags = Flags {
        poll: Some(Duration::from_secs(2)),
        ..Flags::default()
    };
    for environment in [&[("FLIPBACK_POLL", "15s")][..], &[("MONITOR_INTERVAL", "20")]] {
        let config = load_text(&file, environment, flags.clone()).expect("valid");
        assert_eq!(config.poll, Duration::from_secs(2));
        assert_eq!(config.guards[0].policy.poll, Duration::from_secs(2));
    }
}

#[test]
fn a_guards_own_value_beats_the_defaults_key_by_key() {
    let config = loaded(
        &format!(
            "[defaults.policy]\nconsecutive = 4\ncooldown = \"1h\"\n[defaults.rules.error_rate]\nthreshold = \"1 %\"\naction = \"alert\"\n\
             {GUARD}[guards.policy]\nconsecutive = 5\n[guards.rules.error_rate]\nthreshold = \"2 %\""
        ),
        &[],
    );
    let guard = &config.guards[0];
    assert_eq!(guard.policy.consecutive, 5);
    assert_eq!(guard.policy.cooldown, Duration::from_secs(3600));
    let RuleKind::ErrorRate(errors) = &guard.rules[0].kind else {
        panic!("the first rule counts errors")
    };
    assert!((errors.threshold - 0.02).abs() < 1e-12);
    assert_eq!(guard.rules[0].action, crate::model::Action::Alert);
    assert_eq!(guard.rules.len(), 4, "the built-in rules stay");
}

#[test]
fn a_rule_can_be_switched_off_and_a_set_can_stand_alone() {
    let off = loaded(&format!("{GUARD}[guards.rules.latency_p99]\nenabled = false"), &[]);
    assert_eq!(off.guards[0].rules.len(), 3);
    let alone = GUARD.replace("name = \"web\"", "name = \"web\"\ninherit_rules = false");
    let alone = loaded(&format!("{alone}[guards.rules.endpoints]\ndown_for = \"20s\""), &[]);
    assert_eq!(alone.guards[0].rules.len(), 1);
    assert_eq!(alone.warnings, Vec::<String>::new());
}

#[test]
fn variables_reach_into_one_guard_and_into_names_with_dashes() {
    let file = format!(
        "[chats.ops-room]\nkind = \"slack\"\nurl_file = \"x\"\n{}{}",
        GUARD.replace("\"web\"", "\"web-shop\""),
        GUARD.replace("\"web\"", "\"api\"")
    );
    let config = loaded(
        &file,
        &[
            ("FLIPBACK_GUARDS__WEB_SHOP__MODE", "monitor"),
            ("FLIPBACK_GUARDS__WEB_SHOP__POLICY__CONSECUTIVE", "7"),
            ("FLIPBACK_CHATS__OPS_ROOM__TIMEOUT", "3s"),
            ("FLIPBACK_GUARDS__API__CHATS", "ops-room"),
        ],
    );
    assert_eq!(config.guards[0].mode, Mode::Monitor);
    assert_eq!(config.guards[0].policy.consecutive, 7);
    assert_eq!(config.guards[1].mode, Mode::Enforce);
    assert_eq!(config.guards[1].policy.consecutive, 3);
    assert_eq!(config.guards[1].chats, ["ops-room"]);
    assert_eq!(config.chats[0].timeout, Duration::from_secs(3));
}

#[test]
fn a_variable_that_looks_like_a_number_stays_a_name() {
    let config = loaded(
        GUARD,
        &[
            ("FLIPBACK_GUARDS__WEB__NAMESPACE", "0123"),
            ("FLIPBACK_GUARDS__WEB__COLORS__BLUE__VALUE", "1e3"),
        ],
    );
    assert_eq!(config.guards[0].namespace, "0123");
    let blue = &config.guards[0].colors[&Color::new("blue").expect("valid")];
    assert_eq!(blue.value, "1e3");
}

#[test]
fn the_scripts_variables_win_over_the_file() {
    let erlmcp = |environment: &[(&str, &str)]| {
        let sources = Sources {
            file: Some(repository().join("config/examples/erlmcp.toml")),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            flags: Flags::default(),
        };
        load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let config = erlmcp(&[
        ("NAMESPACE_PREFIX", "mcp"),
        ("ACTIVE_SERVICE", "mcp-live"),
        ("PROMETHEUS_URL", "http://user:hunter2@elsewhere:9090"),
        ("ERROR_RATE_THRESHOLD", "0.02"),
        ("P95_LATENCY_THRESHOLD", "800"),
        ("LATENCY_P99_THRESHOLD", "1500"),
        ("CONSECUTIVE_FAILURES_THRESHOLD", "4"),
        ("HEALTH_CHECK_FAILURE_THRESHOLD", "4"),
        ("MONITOR_INTERVAL", "30"),
        ("GRACE_PERIOD", "120"),
        ("HEALTH_CHECK_TIMEOUT", "10"),
        ("SLACK_WEBHOOK_URL", "https://hooks.slack.example/x"),
        ("TEAMS_WEBHOOK_URL", "https://teams.example/y"),
        ("DISCORD_WEBHOOK_URL", "https://discord.example/z"),
    ]);
    assert_eq!(config.poll, Duration::from_secs(30));
    let guard = &config.guards[0];
    assert_eq!(guard.namespace, "mcp-staging");
    assert_eq!(guard.route.object(), "Service/mcp-live");
    assert_eq!(guard.policy.consecutive, 4);
    assert_eq!(guard.policy.warm_up, Duration::from_secs(120));
    assert_eq!(guard.policy.warm_up_latency, Duration::from_secs(120));
    insta::assert_json_snapshot!(guard.rules);
    let prometheus = config.clusters[0].prometheus.as_ref().expect("set");
    assert_eq!(prometheus.url.as_str(), "http://elsewhere:9090/");
    let (user, password) = prometheus.basic.as_ref().expect("taken out of the URL");
    assert_eq!(
        (user.as_str(), password.read().expect("a value").expose_secret()),
        ("user", "hunter2")
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(
        config
            .chats
            .iter()
            .all(|chat| matches!(chat.channel.credential(), Some(Secret::Value(_))))
    );
    assert_eq!(config.variables.len(), 14);
}

#[test]
fn a_webhook_in_the_environment_is_a_chat_without_a_file() {
    let config = loaded(GUARD, &[("SLACK_WEBHOOK_URL", "https://hooks.slack.example/x")]);
    assert_eq!(config.chats.len(), 1);
    assert_eq!((config.chats[0].name.as_str(), config.chats[0].kind()), ("slack", ChatKind::Slack));
    let renamed = loaded(
        &format!("[chats.ops]\nkind = \"slack\"\nurl_file = \"x\"\n{GUARD}"),
        &[("SLACK_WEBHOOK_URL", "https://hooks.slack.example/x")],
    );
    assert_eq!(renamed.chats.len(), 1);
    assert_eq!(renamed.chats[0].name, "ops");
    assert!(matches!(renamed.chats[0].channel.credential(), Some(Secret::Value(_))));
}

#[test]
fn names_of_one_thing_that_disagree_are_refused() {
    insta::assert_snapshot!(refused(
        GUARD,
        &[
            ("P95_LATENCY_THRESHOLD", "1000"),
            ("LATENCY_P95_THRESHOLD", "900"),
            ("MONITOR_INTERVAL", "30"),
            ("FLIPBACK_POLL", "5s"),
            ("CONSECUTIVE_FAILURES_THRESHOLD", "3"),
            ("HEALTH_CHECK_FAILURE_THRESHOLD", "5"),
            ("SLACK_WEBHOOK_URL", "https://hooks.slack.example/secret-one"),
            ("FLIPBACK_CHATS__SLACK__URL", "https://hooks.slack.example/secret-two"),
        ],
    ));
}

#[test]
fn monitor_only_comes_from_flag_file_or_variable() {
    let flags = Flags {
        monitor_only: true,
        ..Flags::default()
    };
    let enforce = GUARD.replace("name = \"web\"", "name = \"web\"\nmode = \"enforce\"");
    for config in [
        load_text(&enforce, &[], flags).expect("valid"),
        loaded(&format!("monitor_only = true\n{enforce}"), &[]),
        loaded(&enforce, &[("FLIPBACK_MONITOR_ONLY", "true")]),
    ] {
        assert_eq!(config.guards[0].mode, Mode::Monitor);
    }
    assert_eq!(loaded(&enforce, &[]).guards[0].mode, Mode::Enforce);
}

#[test]
fn paths_start_at_the_files_folder_and_those_of_variables_where_we_stand() {
    let sources = Sources {
        file: Some(repository().join("config/examples/jadevectordb.toml")),
        environment: vec![("FLIPBACK_SERVE__TOKEN_FILE".into(), "token".into())],
        flags: Flags::default(),
    };
    let config = load(&sources).expect("valid");
    let Some(Secret::File(url)) = config.chats[0].channel.credential() else {
        panic!("a file")
    };
    assert_eq!(*url, repository().join("config/examples/secrets/slack-url"));
    let Some(Secret::File(token)) = &config.serve.token else {
        panic!("a file")
    };
    assert_eq!(token.as_path(), Path::new("token"));
}

#[test]
fn with_several_clusters_a_guard_names_its_own() {
    let file = format!(
        "{PROMETHEUS}[clusters.eu]\ncontext = \"eu\"\n[clusters.us]\n[clusters.us.prometheus]\nurl = \"http://us:9090\"\n{}",
        GUARD.replace("name = \"web\"", "name = \"web\"\ncluster = \"us\"")
    );
    let config = loaded(&file, &[("PROMETHEUS_URL", "http://both:9090")]);
    assert_eq!(config.guards[0].id.as_str(), "us/shop/web");
    assert_eq!(config.guards[0].cluster, "us");
    let url = |cluster: usize| config.clusters[cluster].prometheus.as_ref().expect("set").url.to_string();
    assert_eq!((url(0), url(1)), ("http://both:9090/".into(), "http://us:9090/".into()));
    let only = loaded(
        &format!("[clusters.eu]\n[clusters.eu.prometheus]\nurl = \"http://eu:9090\"\n{GUARD}"),
        &[("PROMETHEUS_URL", "http://x")],
    );
    assert_eq!(only.clusters[0].prometheus.as_ref().expect("set").url.as_str(), "http://x/");
    assert_eq!(only.guards[0].cluster, only.clusters[0].name);
}

#[test]
fn an_only_cluster_with_a_name_is_told_by_it_and_changes_no_guards_name() {
    let named = loaded(&format!("[clusters.eu]\n{GUARD}"), &[]);
    assert_eq!((named.guards[0].id.as_str(), named.guards[0].cluster.as_str()), ("shop/web", "eu"));
    let asked = loaded(
        &format!(
            "[clusters.eu]\n{}",
            GUARD.replace("name = \"web\"", "name = \"web\"\ncluster = \"eu\"")
        ),
        &[],
    );
    assert_eq!((asked.guards[0].id.as_str(), asked.guards[0].cluster.as_str()), ("shop/web", "eu"));
    let nameless = loaded(GUARD, &[]);
    assert_eq!(
        (nameless.guards[0].id.as_str(), nameless.guards[0].cluster.as_str()),
        ("shop/web", "")
    );
}

#[test]
fn the_hash_changes_with_what_is_judged_and_with_nothing_else() {
    let hash = |file: &str| loaded(file, &[]).guards[0].config_hash.clone();
    assert_eq!(hash(GUARD), hash(&format!("data_dir = \"/elsewhere\"\n{GUARD}")));
    assert_ne!(hash(GUARD), hash(&format!("{GUARD}[guards.policy]\nconsecutive = 4")));
    assert_eq!(hash(GUARD).len(), 12);
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_shown() {
    let said = refused(
        &format!(
            "[serve]\ntoken = \"hunter2\"\n[chats.slack]\nurl = \"https://hooks.slack.example/hunter2\"\n\
             [prometheus]\nurl = \"http://user:hunter2@prometheus\"\nbearer = \"hunter2\"\npassword = \"hunter2\"\nusername = \"x\"\n\
             [prometheus.headers]\nAuthorization = \"Bearer hunter2\"\n{GUARD}"
        ),
        &[],
    );
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(said);
}

#[test]
fn a_secret_in_a_variable_is_accepted_and_not_shown() {
    let config = loaded(GUARD, &[("FLIPBACK_SERVE__TOKEN", "hunter2")]);
    assert!(matches!(config.serve.token, Some(Secret::Value(_))));
    assert!(!format!("{config:?}").contains("hunter2"));
    let said = refused(GUARD, &[("FLIPBACK_CHATS__SLACK__URL", "hunter2")]);
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn broken_toml_names_line_and_column_and_shows_no_line() {
    let said = refused("poll = \"5s\"\nurl = \"hunter2", &[]);
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(said);
}

#[test]
fn a_missing_file_is_said() {
    let missing = Sources {
        file: Some("/nonexistent/flipback.toml".into()),
        ..Sources::default()
    };
    insta::assert_snapshot!(load(&missing).expect_err("must be refused").to_string());
}

#[test]
fn everything_wrong_is_said_at_once() {
    insta::assert_snapshot!(refused(
        r#"
poll = 5
dat_dir = "/x"
[log]
filter = "flipback=loud"
format = "xml"
[serve]
listen = "8080"
[clusters.eu]
read_timeout = "5M"
[chats.room]
[chats.teams]
url_file = "x"
token_file = "y"
[defaults]
mode = "monitr"
chats = ["nobody"]
[defaults.policy]
consecutive = 0
confidence = 0.2
poll = "5s"
expire = "30s"
consecutiv = 3
[defaults.evidence]
log_bytes = "lots"
[profile]
x = 1
[[guards]]
name = "Web"
namespace = "shop"
[guards.route]
kind = "ingress"
service = "web"
preview = "web"
selector_key = "no key"
[guards.colors]
blue = "same"
green = "same"
[guards.rules.error_rate]
threshold = 5
critical = true
[guards.rules.latency_p95]
threshold = 0.5
quantile = 1.0
[guards.rules.custom]
threshold = "1s"
[[guards]]
namespace = "shop"
"#,
        &[
            ("FLIPBACK_POLICY__CONSECUTIVE", "3"),
            ("FLIPBACK_GUARDS__NOBODY__MODE", "monitor"),
            ("ERROR_RATE_THRESHOLD", "five")
        ],
    ));
}

#[test]
fn guards_that_would_fight_are_refused() {
    let twice = format!("{GUARD}{}", GUARD.replace("name = \"web\"", "name = \"web2\""));
    let preview = format!(
        "{}{}",
        GUARD,
        GUARD
            .replace("name = \"web\"", "name = \"other\"")
            .replace("service = \"web\"", "service = \"other\"\npreview = \"web\"")
    );
    let same_name = format!("{GUARD}{}", GUARD.replace("service = \"web\"", "service = \"web2\""));
    insta::assert_snapshot!([refused(&twice, &[]), refused(&preview, &[]), refused(&same_name, &[])].join("\n----\n"));
}

#[test]
fn selectors_that_cannot_be_judged_are_refused() {
    let rule = |kind: &str, lines: &str| refused(&format!("{GUARD}[guards.rules.{kind}]\n{lines}"), &[]);
    let said = [
        rule(
            "error_rate",
            "total = 'rate(x{a=\"{color}\"}[1m])'\nbad = 'x{a=\"{color}\",s=\"5\"}'",
        ),
        rule("error_rate", "total = 'x{a=\"{color}\"}'"),
        rule("error_rate", "total = 'x{a=\"b\"}'\nbad = 'x{a=\"{colour}\"}'"),
        rule("error_rate", "total = 'x'\nbad = 'x{a=\"{color}'"),
        rule("error_rate", "preset = \"custom\""),
        rule("error_rate", "total = 'x{color}'\nbad = 'x{a=\"{color}\"}'"),
        rule("error_rate", "total = 'x{a=~\"\\\\d(\\\"\",b=\"{color}'\nbad = 'x{a=\"{color}\"}'"),
        rule("latency_p95", "buckets = 'x_seconds{a=\"{color}\"}'"),
        rule("latency_p95", "buckets = 'x_bucket{a=\"{color}\",le=\"1\"}'"),
        refused(&GUARD.replace("{ value = \"blue\", deployment = \"web-blue\" }", "\"blue\""), &[]),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn quotes_and_brackets_within_quotes_are_no_syntax() {
    let config = loaded(
        &format!(
            "{GUARD}[guards.rules.error_rate]\ntotal = 'x{{a=~\"(b|\\\\[)\\\"\",c=`{{color}}`}}'\nbad = \"x{{a=~'[0-9]+',c='{{color}}'}}\""
        ),
        &[],
    );
    let RuleKind::ErrorRate(errors) = &config.guards[0].rules[0].kind else {
        panic!("the first rule counts errors")
    };
    assert_eq!(errors.bad, "x{a=~'[0-9]+',c='{color}'}");
}

#[test]
fn a_filter_whose_word_is_no_level_is_refused() {
    assert!(refused(&format!("[log]\nfilter = \"loud\"\n{GUARD}"), &[]).contains("log.filter"));
    assert_eq!(
        loaded(&format!("[log]\nfilter = \"info,flipback=debug\"\n{GUARD}"), &[]).log.filter,
        "info,flipback=debug"
    );
}

#[test]
fn knobs_that_cannot_hold_together_are_refused() {
    let policy = |lines: &str| refused(&format!("poll = \"30s\"\n{GUARD}[guards.policy]\n{lines}"), &[]);
    let said = [
        policy("stretch = \"10s\""),
        policy("expire = \"60s\""),
        policy("blind_after = \"45s\""),
        policy("slow_window = \"1m\""),
        policy("watch = \"10s\""),
        refused(&format!("{GUARD}[guards.evidence]\nafter = \"5m\""), &[]),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn one_color_is_no_choice() {
    let one = GUARD.replace("green = { value = \"green\", deployment = \"web-green\" }\n", "");
    insta::assert_snapshot!(refused(&one, &[]));
}

#[test]
fn guards_as_one_table_are_refused_with_a_hint() {
    insta::assert_snapshot!(refused("[guards.web]\nnamespace = \"shop\"", &[]));
}

#[test]
fn nothing_guarded_is_refused_and_the_scripts_variables_guard_nothing() {
    insta::assert_snapshot!(refused("", &[("NAMESPACE_PREFIX", "erlmcp"), ("ACTIVE_SERVICE", "erlmcp-active")]));
}

#[test]
fn a_metric_rule_without_a_prometheus_is_warned_of() {
    insta::assert_snapshot!(
        loaded(
            &format!("{GUARD}[guards.rules.health]\nkind = \"probe\"\ntimeout = \"10s\""),
            &[("NAMESPACE_PREFIX", "x")]
        )
        .warnings
        .join("\n")
    );
}

#[test]
fn a_colors_name_is_its_value_unless_told_otherwise() {
    let config = loaded(&GUARD.replace("value = \"blue\", ", ""), &[]);
    let blue = &config.guards[0].colors[&Color::new("blue").expect("valid")];
    assert_eq!((blue.value.as_str(), blue.deployment.as_deref()), ("blue", Some("web-blue")));
}

#[test]
fn a_service_route_is_read_whole() {
    let config = loaded(
        &GUARD.replace("service = \"web\"", "service = \"web\"\npreview = \"web-preview\""),
        &[],
    );
    let RouteSpec::Service(route) = &config.guards[0].route;
    assert_eq!(
        (route.active.as_str(), route.preview.as_deref(), route.selector_key.as_str()),
        ("web", Some("web-preview"), "version")
    );
}

proptest::proptest! {
    /// Whatever stands in a file or a variable: an answer, never a panic.
    #[test]
    fn no_value_makes_the_reader_panic(key in "[a-z_]{1,12}", value in "\\PC{0,40}", number in proptest::num::f64::ANY) {
        let quoted = toml::Value::String(value.clone()).to_string();
        for line in [format!("{key} = {quoted}"), format!("poll = {quoted}"), format!("poll = {number:?}"), value.clone()] {
            let _ = load_text(&format!("{line}\n{GUARD}[guards.rules.error_rate]\nthreshold = {quoted}"), &[], Flags::default());
        }
        let variable = format!("FLIPBACK_{}", key.to_ascii_uppercase());
        let _ = load_text(GUARD, &[(variable.as_str(), value.as_str()), ("ERROR_RATE_THRESHOLD", value.as_str()), ("PROMETHEUS_URL", value.as_str())], Flags::default());
    }
}
