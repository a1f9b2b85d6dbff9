use std::time::Duration;

use super::{
    chat::chat,
    figures::{query, ratios},
    *,
};
use crate::{
    model::{Absence, Color, RuleName, RuleSpec, ScalarRule, settings::ChatSettings},
    observe::{Buckets, QueryReport, figure},
};

fn report() -> QueryReport {
    QueryReport {
        color: Color::new("blue").expect("valid"),
        rule: RuleName::new("latency_p95").expect("valid"),
        kind: "latency".into(),
        query: "x_bucket{pod=~\"web-blue-.+\"}".into(),
        value: Some("1200 requests, 3 slower than 0.7 seconds, on 3 targets".into()),
        number: None,
        absent: None,
        bad_share: Some(0.0025),
        buckets: Some(Buckets {
            threshold: 0.7,
            is_bound: false,
            refusal: Some("0.7 s lies between the buckets 0.5 s and 1 s; set the threshold to one of them".into()),
            below: Some(0.5),
            above: Some(1.0),
            bounds: vec![0.5, 1.0, 2.5],
        }),
        scrape_spacing: Some(Duration::from_millis(14_990)),
        time_to_detect: Some(Duration::from_millis(39_985)),
        warnings: vec!["leave more room".into()],
    }
}

#[test]
fn findings_are_what_people_read() {
    let mut findings = Findings::default();
    findings.add("configuration", Level::Ok, "flipback.toml: 1 guard");
    query(&mut findings, "guard shop/web", &report(), None, true);
    let absent = QueryReport {
        value: None,
        absent: Some(Absence::Empty),
        buckets: None,
        warnings: Vec::new(),
        ..report()
    };
    query(&mut findings, "guard shop/web", &absent, None, true);
    query(&mut findings, "guard shop/web", &absent, None, false);
    insta::assert_snapshot!(anstream::adapter::strip_str(&table(&findings.list)).to_string());
}

#[test]
fn an_idle_standby_is_worth_a_look_and_no_error() {
    let absent = QueryReport {
        value: None,
        absent: Some(Absence::Empty),
        buckets: None,
        warnings: Vec::new(),
        ..report()
    };
    let mut findings = Findings::default();
    query(&mut findings, "x", &absent, None, false);
    query(&mut findings, "x", &absent, None, true);
    let levels: Vec<Level> = findings.list.iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [Level::Warning, Level::Wrong]);
}

#[test]
fn numbers_are_told_with_their_limits_and_the_standbys() {
    let color = |name: &str| Color::new(name).expect("valid");
    let scalar = ScalarRule {
        expr: "x".into(),
        max: Some(100.0),
        max_ratio_to_standby: Some(1.2),
        unit: Some("tokens/s".into()),
        ..ScalarRule::default()
    };
    let rule = RuleSpec::new(RuleName::new("tokens").expect("valid"), crate::model::RuleKind::Promql(scalar));
    let number = |name: &str, number: Option<f64>| QueryReport {
        value: number.map(|number| figure(number, Some("tokens/s"))),
        number,
        absent: number.is_none().then_some(Absence::Empty),
        ..QueryReport::new(&color(name), &rule)
    };
    let mut findings = Findings::default();
    let about = "guard shop/web";
    query(&mut findings, about, &number("blue", Some(12.5)), Some(&rule), true);
    for (here, there) in [(12.5, Some(11.0)), (12.5, Some(10.0)), (12.5, Some(0.0)), (12.5, None)] {
        let reports = [number("blue", Some(here)), number("green", there)];
        ratios(
            &mut findings,
            about,
            std::slice::from_ref(&rule),
            &reports,
            &color("blue"),
            &color("green"),
        );
    }
    insta::assert_snapshot!(anstream::adapter::strip_str(&table(&findings.list)).to_string());
}

#[test]
fn it_is_said_where_no_message_will_link_to_a_report() {
    let said = |config: &Config| {
        let mut findings = Findings::default();
        configuration(&mut findings, config);
        findings.list.iter().any(|finding| finding.what.contains("evidence.public_url"))
    };
    let url = crate::model::settings::Secret::File("/nonexistent/url".into());
    let mut config = Config::default();
    assert!(!said(&config), "nobody is told anything");
    config.chats = vec![ChatSettings::new("slack", crate::model::settings::Channel::Slack { url })];
    assert!(said(&config));
    config.evidence.public_url = Some("https://flipback.example.com/incidents".parse().expect("a URL"));
    assert!(!said(&config));
}

#[tokio::test]
async fn a_chat_without_its_file_is_wrong_and_names_no_secret() {
    let mut findings = Findings::default();
    let url = crate::model::settings::Secret::File("/nonexistent/url".into());
    let settings = ChatSettings::new("slack", crate::model::settings::Channel::Slack { url });
    chat(&mut findings, &settings, None).await;
    assert_eq!(findings.list[0].level, Level::Wrong);
    assert!(findings.list[0].what.contains("/nonexistent/url"));
}
