//! The story as a person reads it, and the end as it is judged.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    DemoArgs, Output,
    print::{Farewell, Printer},
    script::Scenario,
    story::{Line, Narrator},
    summary::{Summary, Witnesses},
};
use crate::{
    model::{Color, GuardId, GuardStatus, Mode, Phase, RuleName, RuleStatus, Status, status::EventLine},
    sandbox::{AuditEntry, Message, Served},
};

const DAEMON: &str = "daemon";

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(seconds)
}

fn rule(outcome: &str, streak: u32, seconds: f64, why: &str) -> RuleStatus {
    RuleStatus {
        rule: RuleName::new("error_rate").expect("a name"),
        kind: "error_rate".to_owned(),
        outcome: outcome.to_owned(),
        streak,
        of: 3,
        value: None,
        threshold: 0.05,
        below: false,
        unit: None,
        bad: None,
        total: None,
        why: why.to_owned(),
        sample_at: Some(at(seconds)),
        history: Vec::new(),
    }
}

fn status(seconds: f64, rule: RuleStatus, events: &[(f64, &str)]) -> Status {
    Status {
        at: at(seconds),
        guards: vec![GuardStatus {
            shard: None,
            guard: GuardId::new("", "shop", "web").expect("a name"),
            mode: Mode::Enforce,
            object: "Service/web".to_owned(),
            phase: Phase::Watching,
            why: String::new(),
            active: Color::new("green").ok(),
            standby: Color::new("blue").ok(),
            colors: Vec::new(),
            rules: vec![rule],
            switched_at: None,
            watch_until: None,
            cooldown_until: None,
            paused_by: None,
            paused_until: None,
            maintenance: None,
            last_incident: None,
            history: None,
            // The daemon shows the newest first.
            events: events
                .iter()
                .rev()
                .map(|(seconds, what)| EventLine {
                    at: at(*seconds),
                    what: (*what).into(),
                })
                .collect(),
        }],
        ..Status::default()
    }
}

fn served(seconds: f64, color: Option<&str>, ok: bool) -> Served {
    Served {
        at: at(seconds),
        color: color.map(str::to_owned),
        ok,
        latency: Duration::from_millis(12),
    }
}

fn printed(lines: &[Line], output: Output) -> String {
    let mut out = Vec::new();
    let mut printer = Printer::new(anstream::StripStream::new(&mut out), output);
    for line in lines {
        printer.line(line).expect("prints");
    }
    String::from_utf8(out).expect("text")
}

fn rollback() -> Vec<Line> {
    let mut narrator = Narrator::new(at(0.0));
    let switched = (3.0, "Green is live from blue, switched by kubectl-patch; watching it");
    let flipped = (
        12.1,
        "Rolled back from green to blue in 4.2 ms: error rate 36.3 % (29 of 80) over 5 %, third breach in a row, 99 % sure above 5 %",
    );
    let mut lines = vec![narrator.scene(at(0.0), "Users arrive. The Service points to blue.")];
    lines.extend(narrator.served(&[served(0.1, Some("blue"), true), served(0.2, Some("blue"), true)]));
    lines.push(narrator.scene(at(3.0), "The team releases 1.1.0: it points the Service to green."));
    lines.extend(narrator.served(&[
        served(3.1, Some("green"), true),
        served(3.05, Some("blue"), true),
        served(3.2, Some("green"), true),
    ]));
    lines.extend(narrator.status(&status(
        5.0,
        rule("pass", 0, 4.6, "error rate 0 % (0 of 80), within 5 %"),
        &[switched],
    )));
    lines.extend(narrator.status(&status(
        7.0,
        rule("pass", 0, 6.6, "error rate 0 % (0 of 80), within 5 %"),
        &[switched],
    )));
    lines.push(narrator.scene(at(7.5), "Green goes bad."));
    narrator.trouble_begins(at(7.5));
    lines.extend(narrator.served(&[served(7.6, Some("green"), false), served(7.7, Some("green"), false)]));
    for (streak, seconds, order) in [
        (1, 8.0, "first breach"),
        (2, 10.0, "second breach in a row"),
        (3, 12.0, "third breach in a row"),
    ] {
        let why = format!("error rate 36.3 % (29 of 80) over 5 %, {order}");
        let events = if streak == 3 { vec![switched, flipped] } else { vec![switched] };
        let shown = status(seconds, rule("breach", streak, seconds - 0.4, &why), &events);
        lines.extend(narrator.status(&shown));
        // The same status again is no news.
        assert!(narrator.status(&shown).is_empty());
    }
    let message = Message {
        at: at(12.2),
        chat: "slack".to_owned(),
        body: json!({ "text": "all of it", "blocks": [{ "text": { "text": "Rolled back: shop/web is on blue again" } }] }),
    };
    lines.extend(narrator.message(&message));
    lines.extend(narrator.message(&Message {
        chat: "teams".to_owned(),
        ..message
    }));
    lines.push(narrator.evidence(at(14.0), "/tmp/one", &["events.json".to_owned(), "incident.json".to_owned()]));
    lines
}

#[test]
fn a_rollback_as_a_person_reads_it() {
    insta::assert_snapshot!(printed(&rollback(), Output::Text));
}

#[test]
fn a_rollback_as_a_program_reads_it() {
    insta::assert_snapshot!(printed(&rollback(), Output::Json));
}

#[test]
fn no_data_is_told_once_and_a_lost_streak_is_told() {
    let mut narrator = Narrator::new(at(0.0));
    let mut lines = narrator.status(&status(2.0, rule("breach", 1, 1.6, "first breach"), &[]));
    for seconds in [4.0, 6.0] {
        lines.extend(narrator.status(&status(seconds, rule("inconclusive", 1, 1.6, "no answer in time"), &[])));
    }
    lines.extend(narrator.status(&status(8.0, rule("pass", 0, 7.6, "within 5 %"), &[])));
    lines.extend(narrator.status(&status(10.0, rule("pass", 0, 9.6, "within 5 %"), &[])));
    insta::assert_snapshot!(printed(&lines, Output::Text));
}

fn patch(user: &str, path: &str, dry_run: bool) -> AuditEntry {
    AuditEntry {
        at: at(12.0),
        user: user.to_owned(),
        manager: "flipback".to_owned(),
        verb: "patch".to_owned(),
        resource: "services".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        dry_run,
        code: 200,
        body: json!([
            { "op": "test", "path": "/spec/selector/color", "value": "green" },
            { "op": "replace", "path": path, "value": "blue" },
            { "op": "add", "path": "/metadata/annotations/flipback.dev~1ledger", "value": "{}" },
        ]),
    }
}

fn told(topics: &[&str]) -> Vec<Message> {
    let message = |topic: &&str| Message {
        at: at(12.0),
        chat: "webhook".to_owned(),
        body: json!({ "data": { "topic": topic } }),
    };
    topics.iter().map(message).collect()
}

fn judge(scenario: Scenario, active: &str, audit: &[AuditEntry], topics: &[&str]) -> Summary {
    let served = [
        served(1.0, Some("blue"), true),
        served(5.6, Some("green"), false),
        served(6.0, Some("green"), false),
        served(12.5, Some("blue"), true),
    ];
    Summary::of(
        &scenario.ending(),
        &Witnesses {
            served: &served,
            audit,
            messages: &told(topics),
            daemon_user: DAEMON,
            active,
            hurt_at: Some(at(5.5)),
            took_ms: Some(4.2),
            evidence: Some("/tmp/flipback-demo/incidents/one"),
            missed: &[],
        },
    )
}

const RESCUED: [&str; 4] = ["switched", "rollback_initiated", "rollback_completed", "recovered"];

#[test]
fn a_rescue_as_it_must_be() {
    let ending = Scenario::Errors.ending();
    let summary = judge(Scenario::Errors, "blue", &[patch(DAEMON, "/spec/selector/color", false)], &RESCUED);
    assert!(summary.passed, "{:?}", summary.failures);
    let mut out = Vec::new();
    let mut printer = Printer::new(anstream::StripStream::new(&mut out), Output::Text);
    printer.summary(Scenario::Errors, &ending, &summary).expect("prints");
    insta::assert_snapshot!(String::from_utf8(out).expect("text"));
}

#[test]
fn a_flip_that_must_not_be_fails_the_scenario() {
    let flip = patch(DAEMON, "/spec/selector/color", false);
    for scenario in [Scenario::Blip, Scenario::PrometheusDown, Scenario::StandbyDown] {
        let told: Vec<&str> = scenario.ending().told.iter().map(|topic| topic.as_str()).collect();
        assert!(judge(scenario, "green", &[], &told).passed);
        // Even one that somebody undid, and even when the status says nothing of it.
        assert!(!judge(scenario, "green", std::slice::from_ref(&flip), &told).passed, "{scenario:?}");
        assert!(
            judge(scenario, "green", &[patch(DAEMON, "/spec/selector/color", true)], &told).passed,
            "a dry run moves nothing"
        );
    }
}

#[test]
fn a_rescue_that_is_not_one_fails_the_scenario() {
    let flip = patch(DAEMON, "/spec/selector/color", false);
    let once = std::slice::from_ref(&flip);
    assert!(!judge(Scenario::Errors, "green", once, &RESCUED).passed, "users are still on green");
    assert!(!judge(Scenario::Errors, "blue", &[], &RESCUED).passed, "somebody else did it");
    assert!(
        !judge(
            Scenario::Errors,
            "blue",
            &[patch("somebody", "/spec/selector/color", false)],
            &RESCUED
        )
        .passed
    );
    assert!(
        !judge(Scenario::Errors, "blue", &[flip.clone(), flip.clone()], &RESCUED).passed,
        "it flip-flopped"
    );
    let order = ["rollback_completed", "rollback_initiated", "recovered"];
    assert!(!judge(Scenario::Errors, "blue", once, &order).passed, "told in the wrong order");
    let mut more = flip;
    if let Value::Array(operations) = &mut more.body {
        operations.push(json!({ "op": "replace", "path": "/spec/type", "value": "NodePort" }));
    }
    assert!(
        !judge(Scenario::Errors, "blue", &[more], &RESCUED).passed,
        "it touched more than the color"
    );
}

/// The whole demo at four times its speed; what it prints, and whether it ended as it must.
async fn played(scenario: Scenario) -> (bool, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    let args = DemoArgs {
        data_dir: Some(folder.path().to_owned()),
        scenario,
        seed: 7,
        speed: 4.0,
        keep: false,
        output: Output::Text,
    };
    let mut out = Vec::new();
    let passed = super::run(&args, anstream::StripStream::new(&mut out)).await.expect("plays");
    (passed, String::from_utf8(out).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_daemon_rescues_users_in_the_sandbox() {
    let (passed, story) = played(Scenario::Errors).await;
    assert!(passed, "{story}");
    for told in [
        "1/3",
        "2/3",
        "3/3",
        "Rolled back from green to blue",
        "incident.json",
        "first bad request to flip",
    ] {
        assert!(story.contains(told), "{told} is missing in\n{story}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_daemon_moves_nothing_while_it_is_blind() {
    let (passed, story) = played(Scenario::PrometheusDown).await;
    assert!(passed, "{story}");
}

#[test]
fn a_demo_ends_with_commands_that_can_be_pasted() {
    let data = tempfile::tempdir().expect("a folder");
    let folder = data.path().join("incidents/shop.web_20261121T041234.567Z");
    std::fs::create_dir_all(&folder).expect("made");
    let of = || Farewell::of(&folder, data.path(), std::path::Path::new("./my tools/flipback"));
    assert_eq!(of(), None, "there is no report yet");
    std::fs::write(folder.join("report.html"), "").expect("written");
    let farewell = of().expect("a report");
    let tell = |output| {
        let mut out = Vec::new();
        let mut printer = Printer::new(anstream::StripStream::new(&mut out), output);
        printer.farewell(&farewell).expect("prints");
        let text = String::from_utf8(out).expect("text");
        text.replace(&data.path().display().to_string(), "/tmp/flipback-demo-x")
    };
    insta::assert_snapshot!(format!("{}{}", tell(Output::Text), tell(Output::Json)));
}
