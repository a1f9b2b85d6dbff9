//! What dashboards and alerts show exists: every metric, label and phase they name is one that flipback registers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    process::{Command, Output},
};

use flipback::{metrics::Metrics, model::Phase};
use regex::Regex;

fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every family has at least one series: an unused one is not exposed at all.
fn exercised() -> Metrics {
    let m = Metrics::new().expect("registers");
    m.guard_phase.with_label_values(&["g", "steady"]).set(1);
    m.rollback_refused.with_label_values(&["g", "blocked", "paused"]).set(1);
    m.active_color.with_label_values(&["g", "blue"]).set(1);
    m.ready_endpoints.with_label_values(&["g", "blue"]).set(1);
    m.rule_value.with_label_values(&["g", "error_rate"]).set(1.0);
    m.rule_threshold.with_label_values(&["g", "error_rate"]).set(1.0);
    m.rule_info
        .with_label_values(&["g", "error_rate", "error_rate", "ratio", "over"])
        .set(1);
    m.rule_streak.with_label_values(&["g", "error_rate"]).set(1);
    m.rule_outcomes.with_label_values(&["g", "error_rate", "pass"]).inc();
    m.blind.with_label_values(&["g"]).set(1);
    m.standby_ready.with_label_values(&["g"]).set(1);
    m.rollbacks.with_label_values(&["g", "rolled_back", "automatic"]).inc();
    m.maintenance.with_label_values(&["g"]).set(1);
    m.fleet_flipped.set(1);
    m.fleet_limit.set(5.0);
    m.fleet_held.set(1);
    m.config_successful.set(1);
    m.config_taken.set(1);
    m.config_info.with_label_values(&["c0ffee"]).set(1);
    m.flip_duration.observe(0.01);
    m.switches.with_label_values(&["g"]).inc();
    m.tick_duration.observe(0.01);
    m.last_tick.set(1);
    m.prometheus_requests.with_label_values(&["c", "ok"]).inc();
    m.prometheus_duration.with_label_values(&["c"]).observe(0.01);
    m.prometheus_clock_offset.with_label_values(&["c"]).set(0.0);
    m.probes.with_label_values(&["g", "ok"]).inc();
    m.watch_errors.with_label_values(&["c", "Service"]).inc();
    m.notifications.with_label_values(&["slack", "delivered"]).inc();
    m.notifications_pending.set(1);
    m.notification_oldest_pending.set(1);
    m.evidence_bundles.with_label_values(&["complete"]).inc();
    m.evidence_duration.observe(0.01);
    m.audit_entries.with_label_values(&["written"]).inc();
    m.evidence_copies.with_label_values(&["copied"]).inc();
    m.evidence_copies_pending.set(1);
    m.http_refused.with_label_values(&["guesses"]).inc();
    m.leading.with_label_values(&["0"]).set(1);
    m.replicas.set(2);
    m
}

/// Series names (suffixes included) and the labels each carries.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let sample = Regex::new(r#"^([a-z_]+)(?:\{(.*)\})? "#).expect("valid");
    let label = Regex::new(r#"([a-z_]+)="#).expect("valid");
    let text = exercised().expose().expect("encodes");
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for found in text.lines().filter_map(|line| sample.captures(line)) {
        let labels = found.get(2).map_or("", |labels| labels.as_str());
        names
            .entry(found[1].to_owned())
            .or_default()
            .extend(label.captures_iter(labels).map(|label| label[1].to_owned()));
    }
    names
}

/// What is wrong with the metrics a text names.
fn complaints(text: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // Added by Prometheus at scrape time.
    let scraped = ["job", "instance"];
    let named = Regex::new(r"\b(flipback_[a-z_]+|process_[a-z_]+)\b(?:\{([^}]*)\})?").expect("valid");
    let matcher = Regex::new(r#"([a-z_]+)(?:=~|!~|!=|=)\s*"([^"]*)""#).expect("valid");
    let mut complaints = Vec::new();
    for found in named.captures_iter(text) {
        let Some(labels) = known.get(&found[1]) else {
            complaints.push(format!("no metric is called {}", &found[1]));
            continue;
        };
        for part in matcher.captures_iter(found.get(2).map_or("", |labels| labels.as_str())) {
            let (label, value) = (&part[1], &part[2]);
            if !labels.contains(label) && !scraped.contains(&label) {
                complaints.push(format!("{} has no label {label}", &found[1]));
            }
            if label == "phase" && !value.split('|').all(|word| Phase::ALL.iter().any(|phase| phase.as_str() == word)) {
                complaints.push(format!("{value} names no phase"));
            }
        }
    }
    complaints
}

/// Every expression of the dashboard, its variables filled in.
fn dashboard_expressions() -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(&file("dashboards/flipback.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets
        .chain(annotations)
        .map(|target| target["expr"].as_str().expect("an expression"))
        .map(|expr| {
            ["$__rate_interval", "$__interval", "$__range"]
                .iter()
                .fold(expr.replace("$guard", ".*"), |expr, name| expr.replace(name, "5m"))
        })
        .collect()
}

fn alert_names() -> BTreeSet<String> {
    let alert = Regex::new(r"(?m)^\s*- alert: (\w+)$").expect("valid");
    alert
        .captures_iter(&file("alerts/flipback.rules.yaml"))
        .map(|found| found[1].to_owned())
        .collect()
}

/// `None`: promtool is missing, which has been told.
fn promtool(test: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new("promtool").args(arguments).current_dir(root()).output() {
        Ok(output) => Some(output),
        Err(error) if std::env::var_os("FLIPBACK_REQUIRE_REAL_PARTS").is_some_and(|value| value == "1") => {
            panic!("promtool is needed and does not run: {error}")
        }
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED {test}: promtool ({error}); run make test").expect("stderr");
            None
        }
    }
}

fn told(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_wrong_name_label_or_phase_is_noticed() {
    let known = exposed();
    let text = r#"flipback_blnd == 1 or flipback_blind{gard="x"} or flipback_guard_phase{phase=~"blocked|gone"} or flipback_tick_duration_seconds"#;
    assert_eq!(
        complaints(text, &known),
        [
            "no metric is called flipback_blnd",
            "flipback_blind has no label gard",
            "blocked|gone names no phase",
            "no metric is called flipback_tick_duration_seconds",
        ]
    );
    assert!(complaints("flipback_tick_duration_seconds_bucket and process_resident_memory_bytes", &known).is_empty());
}

#[test]
fn every_metric_the_dashboard_names_is_registered() {
    let known = exposed();
    let expressions = dashboard_expressions();
    assert!(expressions.len() > 30, "the dashboard has {} expressions", expressions.len());
    for expression in &expressions {
        assert_eq!(complaints(expression, &known), Vec::<String>::new(), "{expression}");
    }
    let file = file("dashboards/flipback.json");
    assert!(file.contains("label_values(flipback_guard_phase, guard)"));
}

#[test]
fn every_metric_the_alerts_name_is_registered() {
    let known = exposed();
    // Whole files: comments and test series may not name what does not exist either.
    for path in ["alerts/flipback.rules.yaml", "alerts/flipback.test.yaml"] {
        assert_eq!(complaints(&file(path), &known), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn every_registered_metric_is_shown() {
    let shown = format!("{}{}", dashboard_expressions().join(" "), file("alerts/flipback.rules.yaml"));
    let hidden: Vec<_> = exposed()
        .into_keys()
        .filter(|name| name.starts_with("flipback_"))
        .map(|name| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .fold(name, |name, end| name.trim_end_matches(end).to_owned())
        })
        .filter(|name| !shown.contains(name.as_str()))
        .collect();
    assert_eq!(hidden, Vec::<String>::new());
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test() {
    let (rules, tests) = (file("alerts/flipback.rules.yaml"), file("alerts/flipback.test.yaml"));
    let names = alert_names();
    assert!(names.len() >= 8, "{names:?}");
    for key in ["severity:", "summary:", "description:", "action:", "runbook_url:"] {
        assert_eq!(rules.matches(&format!("  {key} ")).count(), names.len(), "{key}");
    }
    for name in names {
        assert!(
            tests.contains(&format!("alertname=\"{name}\"")),
            "{name} has no test in which it fires"
        );
    }
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests_pass() {
    let name = "promtool_accepts_the_alerts_and_their_tests_pass";
    for arguments in [
        ["check", "rules", "alerts/flipback.rules.yaml"],
        ["test", "rules", "alerts/flipback.test.yaml"],
    ] {
        let Some(output) = promtool(name, &arguments) else { return };
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn prometheus_understands_every_expression_of_the_dashboard() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dashboard.yaml");
    let rules: Vec<_> = dashboard_expressions()
        .into_iter()
        .enumerate()
        .map(|(n, expr)| serde_json::json!({ "record": format!("panel_{n}"), "expr": expr }))
        .collect();
    // JSON is YAML.
    let rules = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&path, rules.to_string()).expect("writes");
    let path = path.to_str().expect("UTF-8");
    let Some(output) = promtool(
        "prometheus_understands_every_expression_of_the_dashboard",
        &["check", "rules", path],
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn every_kind_of_rule_breaches_at_a_hundred_percent_of_its_limit() {
    let known = dashboard_panel("Readings, as a share of their limit").join("\nor\n");
    let mut series = Vec::new();
    let mut expected = Vec::new();
    // Name, unit, side of the breach, value, threshold, share of the limit.
    for (rule, unit, breach, value, threshold, share) in [
        ("error_rate", "ratio", "over", 0.025, 0.05, 0.5),
        ("errors_bad", "ratio", "over", 0.1, 0.05, 2.0),
        ("availability", "ratio", "under", 0.75, 0.5, 0.5),
        ("availability_bad", "ratio", "under", 0.25, 0.5, 1.5),
        ("throughput", "req/s", "under", 200.0, 100.0, 0.5),
        ("sign_ups", "", "under", 0.0, 1.0, 10.0),
        ("tokens", "", "over", 30.0, 20.0, 1.5),
        ("endpoints", "endpoints", "under", 4.0, 1.0, 0.25),
        ("relative", "", "over", 3.0, f64::INFINITY, 0.0),
    ] {
        let labels = format!(r#"guard="g",rule="{rule}",instance="i",job="j""#);
        let constant = |name: &str, more: &str, value: f64| {
            let value = if value.is_infinite() {
                "+Inf".to_owned()
            } else {
                value.to_string()
            };
            serde_json::json!({ "series": format!("{name}{{{labels}{more}}}"), "values": value })
        };
        series.push(constant("flipback_rule_value", "", value));
        series.push(constant("flipback_rule_threshold", "", threshold));
        let more = format!(r#",kind="k",unit="{unit}",breach="{breach}""#);
        series.push(constant("flipback_rule_info", &more, 1.0));
        expected.push(serde_json::json!({ "labels": format!("{{{labels}}}"), "value": share }));
    }
    // JSON is YAML.
    let tests = serde_json::json!({ "tests": [{
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [{ "expr": known, "eval_time": "0s", "exp_samples": expected }],
    }]});
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.yaml");
    std::fs::write(&path, tests.to_string()).expect("writes");
    let path = path.to_str().expect("UTF-8");
    let name = "every_kind_of_rule_breaches_at_a_hundred_percent_of_its_limit";
    let Some(output) = promtool(name, &["test", "rules", path]) else {
        return;
    };
    assert!(output.status.success(), "{}", told(&output));
}

/// The expressions of one panel, for every guard.
fn dashboard_panel(title: &str) -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(&file("dashboards/flipback.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let panel = panels.iter().find(|panel| panel["title"] == title).expect("a panel of that title");
    let targets = panel["targets"].as_array().expect("targets").iter();
    targets
        .map(|target| target["expr"].as_str().expect("an expression").replace("$guard", ".*"))
        .collect()
}
