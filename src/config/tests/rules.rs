//! The kinds of rules: what they mean when little is said, and what is refused with which words.

use std::{fs, time::Duration};

use crate::model::{Action, CounterRule, GuardSpec, Histogram, Judging, Preset, RuleKind, RuleSpec, ScalarRule, Windows};

use super::{GUARD, PROMETHEUS, known_keys, loaded, reference, refused, repository};

/// The guard with one more rule.
fn guard(name: &str, lines: &str) -> GuardSpec {
    let config = loaded(&format!("{GUARD}[guards.rules.{name}]\n{lines}"), &[]);
    config.guards[0].as_ref().clone()
}

fn rule(name: &str, lines: &str) -> RuleSpec {
    let guard = guard(name, lines);
    let found = guard.rules.iter().find(|rule| rule.name.as_str() == name);
    found.expect("the rule is there").clone()
}

fn scalar(name: &str, lines: &str) -> ScalarRule {
    rule(name, lines).kind.scalar().expect("a number").clone()
}

/// What is said when a rule is added to the guard.
fn bad(name: &str, lines: &str) -> String {
    refused(&format!("{GUARD}[guards.rules.{name}]\n{lines}"), &[])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const LOGINS: &str = "kind = \"promql\"\nexpr = 'sum(logins{pod=~\"{deployment}-.+\"})'\n";
const RATE: &str = "kind = \"promql\"\nexpr = 'sum(rate(logins{pod=~\"{deployment}-.+\"}[1m]))'\nmax = 1\n";

// === what they mean ===

#[test]
fn availability_is_judged_on_the_good_share_of_the_presets_counters() {
    let RuleSpec { kind, action, .. } = rule("availability", "");
    let three_nines = CounterRule {
        threshold: 0.999,
        total: Preset::PrometheusHttp.total().to_owned(),
        bad: Preset::PrometheusHttp.bad().to_owned(),
    };
    assert_eq!((kind, action), (RuleKind::Availability(three_nines), Action::Rollback));
    let RuleKind::Availability(half) = rule("slo", "kind = \"availability\"\nthreshold = \"99.5 %\"").kind else {
        panic!("not the kind");
    };
    assert!((half.threshold - 0.995).abs() < 1e-12);
}

#[test]
fn the_scripts_error_rate_is_not_the_threshold_of_an_availability() {
    let config = loaded(&format!("{GUARD}[guards.rules.availability]"), &[("ERROR_RATE_THRESHOLD", "0.02")]);
    let counters: Vec<f64> = config.guards[0]
        .rules
        .iter()
        .filter_map(|rule| Some(rule.kind.counters()?.threshold))
        .collect();
    assert_eq!(counters, [0.02, 0.999]);
}

#[test]
fn rules_stand_in_the_order_people_read_them() {
    let text = format!(
        "{GUARD}[guards.rules.throughput]\nmin = 1\n[guards.rules.saturation_cpu]\n[guards.rules.probe]\n[guards.rules.availability]\n\
         [guards.rules.a]\n{LOGINS}max = 1"
    );
    let rules = loaded(&text, &[]).guards[0].rules.clone();
    let kinds: Vec<&str> = rules.iter().map(|rule| rule.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "error_rate",
            "availability",
            "latency",
            "latency",
            "promql",
            "throughput",
            "saturation",
            "probe",
            "endpoints"
        ]
    );
}

#[test]
fn throughput_reads_the_presets_total_and_only_alerts() {
    let alone = rule("throughput", "preset = \"linkerd\"\nmin = 100");
    assert_eq!(alone.action, Action::Alert);
    let expected = ScalarRule {
        expr: format!("sum(rate({}[1m]))", Preset::Linkerd.total()),
        min: Some(100.0),
        window: Some(seconds(60)),
        unit: Some("req/s".to_owned()),
        ..ScalarRule::default()
    };
    assert_eq!(alone.kind, RuleKind::Throughput(expected));
    let twice = scalar("throughput", "min = 100\nwindows = { short = \"5m\", long = \"1h\" }");
    assert_eq!(twice.expr, format!("sum(rate({}[{{window}}]))", Preset::PrometheusHttp.total()));
    assert_eq!(twice.window, Some(seconds(300)));
}

#[test]
fn saturation_is_the_fullest_containers_share_of_its_limit() {
    let rules = [
        rule("saturation_memory", ""),
        rule("memory", "kind = \"saturation\"\nresource = \"memory\""),
        rule("saturation_cpu", "max = \"90 %\"\nwindows = { short = \"5m\", long = \"1h\" }"),
    ];
    insta::assert_json_snapshot!(rules);
}

#[test]
fn a_critical_rule_and_its_limits_are_read() {
    let rule = rule("violations", &format!("{LOGINS}max = 0\ncritical = true"));
    assert!(rule.critical);
    let scalar = rule.kind.scalar().expect("a number");
    assert_eq!((scalar.max, scalar.window), (Some(0.0), None));
    let all = self::scalar(
        "all",
        &format!("{LOGINS}max = 10\nmin = -1.5\nmax_ratio_to_standby = 1.2\nmax_ratio_to_before = 2\nunit = \"logins\""),
    );
    assert_eq!(
        (
            all.max,
            all.min,
            all.max_ratio_to_standby,
            all.max_ratio_to_before,
            all.unit.as_deref()
        ),
        (Some(10.0), Some(-1.5), Some(1.2), Some(2.0), Some("logins"))
    );
}

#[test]
fn windows_are_read_for_shares_and_expressions() {
    let both = Some(Windows {
        short: seconds(300),
        long: seconds(3600),
    });
    assert_eq!(rule("error_rate", "windows = { short = \"5m\", long = \"1h\" }").windows, both);
    assert_eq!(
        rule("latency_p95", "[guards.rules.latency_p95.windows]\nshort = \"5m\"\nlong = \"1h\"").windows,
        both
    );
    let windowed = "kind = \"promql\"\nexpr = 'sum(rate(x{c=\"{color}\"}[{window}]))'\nmax = 1\nallow_overlap = true\n";
    let windowed = rule("w", &format!("{windowed}windows = {{ short = \"5m\", long = \"1h\" }}"));
    assert_eq!(
        (windowed.windows, windowed.kind.scalar().expect("a number").window),
        (both, Some(seconds(300)))
    );
}

#[test]
fn a_native_histogram_is_the_presets_without_its_buckets() {
    let RuleKind::Latency(native) = rule("latency_p95", "histogram = \"native\"").kind else {
        panic!("not the kind");
    };
    assert_eq!(native.histogram, Histogram::Native);
    assert!(native.buckets.starts_with("http_request_duration_seconds{"), "{}", native.buckets);
    let own = "histogram = \"native\"\nbuckets = 'x_seconds{c=\"{color}\"}'";
    assert!(matches!(rule("latency_p95", own).kind, RuleKind::Latency(latency) if latency.buckets == "x_seconds{c=\"{color}\"}"));
}

#[test]
fn a_window_is_the_declared_one_else_the_longest_range_in_the_text() {
    let window = |lines: &str| scalar("x", &format!("kind = \"promql\"\naction = \"alert\"\nmax = 1\n{lines}")).window;
    assert_eq!(window("expr = 'x'"), None);
    assert_eq!(window("expr = 'rate(x[1m]) + rate(x[2m])'"), Some(seconds(120)));
    assert_eq!(window("expr = 'max_over_time(rate(x[1m])[10m:30s])'"), Some(seconds(600)));
    assert_eq!(window("expr = 'x{a=\"[5m]\"}'"), None);
    assert_eq!(window("expr = 'job:x:rate5m'\nwindow = \"5m\""), Some(seconds(300)));
}

#[test]
fn an_overlap_is_for_those_who_cannot_flip_who_need_no_second_poll_or_who_accept_it() {
    for lines in ["action = \"alert\"", "critical = true", "allow_overlap = true"] {
        assert_eq!(scalar("x", &format!("{RATE}{lines}")).window, Some(seconds(60)), "{lines}");
    }
    let spanned = loaded(&format!("{GUARD}[guards.policy]\nconsecutive = 13\n[guards.rules.x]\n{RATE}"), &[]);
    assert_eq!(spanned.guards[0].policy.consecutive, 13);
    loaded(&format!("poll = \"30s\"\n{GUARD}[guards.rules.x]\n{RATE}"), &[]);
    // What a default rule lacks, a guard may add.
    loaded(
        &format!("[defaults.rules.x]\n{RATE}{GUARD}[guards.rules.x]\nallow_overlap = true"),
        &[],
    );
}

#[test]
fn a_color_may_have_a_service_of_its_own() {
    let text = GUARD.replace("name = \"web\"", "name = \"web\"\npreset = \"traefik\"");
    let text = text
        .replace("\"web-blue\" }", "\"web-blue\", service = \"web-b\" }")
        .replace("\"web-green\" }", "\"web-green\", service = \"web-g\" }");
    let config = loaded(&text, &[]);
    let services: Vec<Option<&str>> = config.guards[0].colors.values().map(|color| color.service.as_deref()).collect();
    assert_eq!(services, [Some("web-b"), Some("web-g")]);
}

#[test]
fn every_preset_is_a_word_of_the_configuration() {
    let services = GUARD
        .replace("\"web-blue\" }", "\"web-blue\", service = \"web-b\" }")
        .replace("\"web-green\" }", "\"web-green\", service = \"web-g\" }");
    for facts in Preset::ALL.map(Preset::facts).into_iter().filter(|facts| facts.name != "custom") {
        let text = services.replace("name = \"web\"", &format!("name = \"web\"\npreset = \"{}\"", facts.name));
        let guard = loaded(&text, &[]).guards[0].clone();
        let RuleKind::ErrorRate(errors) = &guard.rules[0].kind else {
            panic!("the first rule counts errors");
        };
        assert_eq!((errors.total.as_str(), errors.bad.as_str()), (facts.total, facts.bad));
        let RuleKind::Latency(latency) = &guard.rules[1].kind else {
            panic!("the second rule judges times");
        };
        assert_eq!((latency.buckets.as_str(), latency.unit), (facts.buckets, facts.unit));
        // The selectors a preset's page offers are ones that may be written.
        for variant in facts.variants {
            let rules = format!(
                "[guards.rules.error_rate]\ntotal = '{}'\nbad = '{}'\n[guards.rules.latency_p95]\nbuckets = '{}'",
                variant.total, variant.bad, variant.buckets
            );
            loaded(&format!("{text}{rules}"), &[]);
        }
    }
}

#[test]
fn numbers_written_out_as_in_the_reference_file_are_the_defaults() {
    let written = loaded(&reference(&["#:", "#"]), &[]).guards[0].clone();
    let bare = format!("{GUARD}[guards.rules.availability]\n[guards.rules.throughput]\nmin = 100\n[guards.rules.saturation_memory]\n");
    let bare = loaded(&bare, &[]).guards[0].clone();
    for name in ["availability", "throughput", "saturation_memory"] {
        let of = |guard: &GuardSpec| guard.rules.iter().find(|rule| rule.name.as_str() == name).cloned();
        assert!(of(&written).is_some() && of(&written) == of(&bare), "{name}");
    }
}

// === what is refused ===

#[test]
fn numbers_that_cannot_be_judged_are_refused() {
    let promql = |lines: &str| bad("x", &format!("{LOGINS}{lines}"));
    let said = [
        promql(""),
        promql("min = 2\nmax = 1"),
        promql("max = nan"),
        promql("max = inf"),
        promql("min = \"five\""),
        promql("max_ratio_to_standby = 0"),
        promql("max_ratio_to_before = -1.2"),
        promql("max_ratio_to_before = nan"),
        bad("x", "kind = \"promql\"\nmax = 1"),
        bad("throughput", ""),
        bad("throughput", "min = 0"),
        bad("throughput", "preset = \"custom\"\nmin = 1"),
        bad("saturation", ""),
        bad("saturation", "resource = \"disk\""),
        bad("saturation_cpu", "max = \"lots\""),
        bad("saturation_cpu", "resource = \"cpu\"\nexpr = 'x{c=\"{color}\"}'"),
        promql("max = 1\ntreshold = 2"),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn expressions_that_cannot_be_judged_are_refused() {
    let expr = |expr: &str, more: &str| bad("x", &format!("kind = \"promql\"\nmax = 1\nexpr = '''{expr}'''\n{more}"));
    let said = [
        expr("sum(x{c=\"{color})", ""),
        expr("sum(x{c=\"{color}\"}", ""),
        expr("rate(x{c=\"{color}\"}[$__rate_interval])", ""),
        expr("x{c=\"{colour}\"}", ""),
        expr("x{color}", ""),
        expr("x{c=\"{namespace}\"}", ""),
        expr("x", "action = \"alert\"\nmax_ratio_to_standby = 1.2"),
        expr("rate(x{c=\"{color}\"}[{window}])", "allow_overlap = true"),
        expr("x{c=\"{color}\"} offset {window}", ""),
        expr("x{c=\"{color}\",w=\"{window}\"}", ""),
        expr("x{c=\"{color}\"}", "windows = { short = \"5m\", long = \"1h\" }"),
        expr("rate(x{c=\"{color}\"}[5m])", "window = \"1m\"\nallow_overlap = true"),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn polls_that_recount_one_event_are_refused() {
    let said = [
        bad("x", RATE),
        bad("x", &format!("{LOGINS}max = 1\nwindow = \"30s\"")),
        bad(
            "x",
            "kind = \"promql\"\nexpr = 'sum(rate(x{c=\"{color}\"}[{window}]))'\nmax = 1\nwindows = { short = \"5m\", long = \"1h\" }",
        ),
        bad("throughput", "action = \"rollback\"\nmin = 1"),
        refused(
            &format!("poll = \"10s\"\n{GUARD}[guards.policy]\nconsecutive = 1\n[guards.rules.x]\n{RATE}"),
            &[],
        ),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn windows_that_cannot_agree_are_refused() {
    let said = [
        bad("error_rate", "windows = { short = \"1h\", long = \"5m\" }"),
        bad("error_rate", "windows = { short = \"5m\" }"),
        bad("error_rate", "windows = { short = \"1s\", long = \"12h\", longer = \"1d\" }"),
        bad("error_rate", "windows = \"5m\""),
        bad("endpoints", "windows = { short = \"5m\", long = \"1h\" }"),
        refused(
            &format!(
                "{GUARD}[guards.policy]\nmode = \"classic\"\n[guards.rules.error_rate]\nwindows = {{ short = \"5m\", long = \"1h\" }}"
            ),
            &[],
        ),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn a_single_breach_of_a_share_a_state_or_a_ratio_is_refused() {
    let said = [
        bad("error_rate", "critical = true"),
        bad("availability", "critical = true"),
        bad("latency_p95", "critical = true"),
        bad("probe", "critical = true"),
        bad("endpoints", "critical = true"),
        bad("x", &format!("{LOGINS}max = 1\nmax_ratio_to_standby = 1.2\ncritical = true")),
        bad(
            "x",
            "kind = \"promql\"\nexpr = 'rate(x{c=\"{color}\"}[{window}])'\nmax = 1\ncritical = true\nwindows = { short = \"5m\", long = \"1h\" }",
        ),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn shares_and_histograms_out_of_range_are_refused() {
    let said = [
        bad("error_rate", "threshold = 0"),
        bad("error_rate", "threshold = -0.05"),
        bad("error_rate", "threshold = nan"),
        bad("availability", "threshold = \"5 %\""),
        bad("availability", "threshold = 99.9"),
        bad("availability", "threshold = 1"),
        bad("latency_p95", "threshold = \"0s\""),
        bad("latency_p95", "histogram = \"exponential\""),
        bad("latency_p95", "histogram = \"native\"\nbuckets = 'x_bucket{c=\"{color}\"}'"),
        bad("error_rate", "preset = \"isito\""),
    ];
    insta::assert_snapshot!(said.join("\n----\n"));
}

#[test]
fn a_color_without_what_the_preset_needs_is_refused_and_the_routes_services_are_no_colors() {
    let nginx = GUARD.replace("name = \"web\"", "name = \"web\"\npreset = \"nginx-ingress\"");
    let same = nginx
        .replace("\"web-blue\" }", "\"web-blue\", service = \"web\" }")
        .replace("\"web-green\" }", "\"web-green\", service = \"web\" }");
    insta::assert_snapshot!([refused(&nginx, &[]), refused(&same, &[])].join("\n----\n"));
}

// === what is warned of ===

#[test]
fn classic_mode_is_read_and_its_overlap_is_warned_of() {
    let classic = |top: &str, lines: &str| {
        loaded(
            &format!("{top}{PROMETHEUS}{GUARD}[guards.policy]\nmode = \"classic\"\n{lines}"),
            &[],
        )
    };
    let config = classic("", &format!("[guards.rules.x]\n{RATE}"));
    assert_eq!(config.guards[0].policy.mode, Judging::Classic);
    insta::assert_snapshot!(config.warnings.join("\n"));
    let spanned = classic("poll = \"30s\"\n", "window = \"30s\"\nwindow_latency = \"1m\"");
    assert_eq!(spanned.warnings, Vec::<String>::new());
}

#[test]
fn a_threshold_that_the_presets_histogram_does_not_have_is_warned_of() {
    let guard = ["blue", "green"].iter().fold(GUARD.to_owned(), |guard, color| {
        let deployment = format!("deployment = \"web-{color}\"");
        guard.replace(&deployment, &format!("{deployment}, service = \"web-{color}-alone\""))
    });
    let with = |preset: &str| loaded(&format!("{PROMETHEUS}[defaults]\npreset = \"{preset}\"\n{guard}"), &[]).warnings;
    for preset in ["otel", "istio", "linkerd", "nginx-ingress", "envoy", "traefik"] {
        assert_eq!(
            with(preset),
            Vec::<String>::new(),
            "the defaults of {preset} are bounds of its histogram"
        );
    }
    let asked = format!("{PROMETHEUS}[defaults]\npreset = \"istio\"\n[defaults.rules.latency_p99]\nthreshold = \"2s\"\n{GUARD}");
    insta::assert_snapshot!(loaded(&asked, &[]).warnings.join("\n"));
}

// === the page ===

/// The configurations that `docs/rules.md` shows, each with the section it stands in.
fn shown(page: &str) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    let mut section = String::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```toml") => open = Some(String::new()),
            (Some(_), "```") => shown.extend(open.take().map(|text| (section.clone(), text))),
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    section = title.trim_matches('`').to_owned();
                }
            }
        }
    }
    shown
}

#[test]
fn every_example_of_the_page_of_rules_loads_and_is_of_its_kind() {
    let page = fs::read_to_string(repository().join("docs/rules.md")).expect("readable");
    let shown = shown(&page);
    for (section, text) in &shown {
        let config = loaded(&format!("{PROMETHEUS}{GUARD}{text}"), &[]);
        assert_eq!(config.warnings, Vec::<String>::new(), "{section}");
        let kinds: Vec<&str> = config.guards[0].rules.iter().map(|rule| rule.kind.as_str()).collect();
        let is_kind = super::super::rule::kind_words().contains(&section.as_str());
        assert!(!is_kind || kinds.contains(&section.as_str()), "{section}: {kinds:?}");
    }
    for kind in super::super::rule::kind_words() {
        assert!(shown.iter().any(|(section, _)| section == kind), "{kind} has no example");
    }
}

#[test]
fn every_key_of_a_kind_stands_in_its_section_of_the_page() {
    let page = fs::read_to_string(repository().join("docs/rules.md")).expect("readable");
    let common = page
        .split("\n## ")
        .find(|section| section.starts_with("Keys of every kind"))
        .expect("there");
    for kind in super::super::rule::kind_words() {
        let section = page
            .split("\n## ")
            .find(|section| section.starts_with(&format!("`{kind}`")))
            .unwrap_or_else(|| panic!("no section {kind}"));
        for key in known_keys("rules.x", &format!("{GUARD}[guards.rules.x]\nkind = \"{kind}\"\nzzz = 1")) {
            let written = format!("| `{key}` |");
            assert!(
                section.contains(&written) || common.contains(&written),
                "{kind}.{key} is not in docs/rules.md"
            );
        }
    }
}
