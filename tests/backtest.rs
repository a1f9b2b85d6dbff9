//! `flipback backtest` as a person runs it, over a real Prometheus whose past was written beforehand.

pub mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::State, http::Request, response::IntoResponse};
use serde_json::Value;
use support::{
    past::{Archive, Fault, Happening, Story, configuration},
    process::{Folder, on_path, skip},
};
use tokio::{sync::OnceCell, time::timeout};

/// A multiple of two hours, 2026-09-21T14:00:00Z.
const BEGIN: i64 = 1_789_999_200;
/// Green of web-01 takes over.
const SWITCHED: i64 = 3 * 3600;
/// And goes bad.
const BAD: i64 = SWITCHED + 300;
/// Until somebody switches back.
const BACK: i64 = BAD + 600;
/// Nothing of web-00 is scraped for half an hour.
const GAP: (i64, i64) = (3600, 3600 + 1800);

fn story() -> Story {
    let of = |guard, from, to, what| Happening { guard, from, to, what };
    Story {
        guards: 2,
        begin: BEGIN,
        span: 6 * 3600,
        spacing: 15,
        rate: 40.0,
        happenings: vec![
            of(0, GAP.0, GAP.1, Fault::Gap),
            of(1, SWITCHED, 0, Fault::Switch),
            of(1, BAD, BACK, Fault::Errors(0.2)),
            of(1, BACK, 0, Fault::Switch),
        ],
    }
}

/// One past for all tests of this file; the process is ended by the reaper of `support::process`.
async fn archive(test: &str) -> Option<&'static Archive> {
    static ARCHIVE: OnceCell<Archive> = OnceCell::const_new();
    if let Some(missing) = ["prometheus", "promtool"].into_iter().find(|program| !on_path(program)) {
        skip(test, &format!("{missing} is not on the PATH"));
        return None;
    }
    Some(ARCHIVE.get_or_init(|| async { Archive::open(&story(), &[]).await }).await)
}

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
    _folder: Folder,
    html: PathBuf,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {} {}", self.out, self.err))
    }

    fn guard(&self, name: &str) -> Value {
        let report = self.json();
        let guards = report["guards"].as_array().expect("guards");
        guards
            .iter()
            .find(|guard| guard["guard"] == name)
            .cloned()
            .expect("the guard was judged")
    }
}

/// Runs the command to its end.
async fn backtest(prometheus: &str, arguments: &[&str], files: &[(&str, &str)]) -> Answer {
    let folder = Folder::new();
    let config = folder.write("flipback.toml", configuration(&story(), prometheus));
    for (name, content) in files {
        folder.write(name, content);
    }
    let html = folder.path().join("report.html");
    let until = time(6 * 3600);
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
    command
        .current_dir(folder.path())
        .args(["backtest", "--since", "6h", "--until", &until, "--config"])
        .arg(config)
        .arg("--html")
        .arg(&html)
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = timeout(Duration::from_secs(120), running)
        .await
        .expect("it ends in time")
        .expect("it ends")
        .expect("it starts");
    Answer {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        html,
        _folder: folder,
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(BEGIN + seconds).expect("a time").to_string()
}

fn seconds(text: &Value) -> f64 {
    let at: jiff::Timestamp = text.as_str().expect("a time").parse().expect("a time");
    at.duration_since(jiff::Timestamp::from_second(BEGIN).expect("a time"))
        .as_secs_f64()
}

#[tokio::test]
async fn a_known_bad_release_is_found_when_it_happened_and_said_as_live() {
    let Some(archive) = archive("a_known_bad_release_is_found_when_it_happened_and_said_as_live").await else {
        return;
    };
    let bad = format!("shop/web-01={}", time(BAD));
    let answer = backtest(&archive.url(), &["--output", "json", "--bad-release", &bad], &[]).await;
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    assert_eq!(answer.err, "", "JSON for programs is quiet");
    let guard = answer.guard("shop/web-01");
    let course = &guard["course"];
    assert_eq!(
        (&course["origin"], &course["first"]),
        (&"traffic".into(), &"blue".into()),
        "{course}"
    );
    let switches: Vec<f64> = course["switches"]
        .as_array()
        .expect("switches")
        .iter()
        .map(|one| seconds(&one["time"]))
        .collect();
    assert_eq!(switches.len(), 2, "{switches:?}");
    assert!(
        (switches[0] - SWITCHED as f64).abs() <= 30.0 && (switches[1] - BACK as f64).abs() <= 30.0,
        "{switches:?}"
    );
    let events = guard["events"].as_array().expect("events");
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(
        (&event["what"], &event["rule"], &event["path"]),
        (&"rollback".into(), &"error_rate".into(), &"fast".into())
    );
    assert_eq!(
        (&event["from"], &event["to"], &event["expected"]),
        (&"green".into(), &"blue".into(), &true.into())
    );
    // Half a scrape, two more, half a poll: 40 s; two pods are scraped at different moments, which makes it sooner.
    let late = seconds(&event["at"]) - BAD as f64;
    assert!((10.0..=60.0).contains(&late), "found after {late} s");
    let why = event["why"].as_str().expect("a sentence");
    assert!(
        why.starts_with("error rate ") && why.contains(" over 5 %") && why.contains(" breach in a row, 99 % sure above 5 %"),
        "{why}"
    );
    assert_eq!(guard["missed"], Value::Array(Vec::new()));
    assert_eq!(guard["false_alarms"]["events"], 0);
    assert!(
        guard["rules"]
            .as_array()
            .expect("rules")
            .iter()
            .all(|rule| rule["spacing_seconds"] == 15.0),
        "{}",
        guard["rules"]
    );
}

#[tokio::test]
async fn a_clean_past_has_no_rollback_and_a_gap_in_it_is_blind_time() {
    let Some(archive) = archive("a_clean_past_has_no_rollback_and_a_gap_in_it_is_blind_time").await else {
        return;
    };
    let answer = backtest(&archive.url(), &["--output", "json", "--guard", "web-00"], &[]).await;
    let guard = answer.guard("shop/web-00");
    assert_eq!(guard["events"], Value::Array(Vec::new()));
    assert_eq!(guard["course"]["origin"], "none");
    let blind = guard["blind"].as_array().expect("spans");
    assert_eq!(blind.len(), 1, "{blind:?}");
    let (from, to) = (seconds(&blind[0]["from"]), seconds(&blind[0]["to"]));
    assert!(
        (from - GAP.0 as f64).abs() <= 20.0 && (to - GAP.1 as f64).abs() <= 20.0,
        "{from} {to}"
    );
    let intervals = guard["rules"][0]["intervals"].as_u64().expect("a count");
    // Every scrape of 40 requests per second closes an interval: 5.5 hours of four a minute, of two pods.
    assert!(intervals > 1200, "{intervals}");
    let high = guard["false_alarms"]["high"].as_f64().expect("judged");
    assert!((5000.0..7000.0).contains(&high), "none in 5.5 hours allows many a year: {high}");
}

#[tokio::test]
async fn switches_from_a_file_are_obeyed() {
    let Some(archive) = archive("switches_from_a_file_are_obeyed").await else {
        return;
    };
    let file = format!(
        "guard,time,from,to\nshop/web-01,{},blue,green\n{{\"guard\":\"shop/web-01\",\"time\":\"{}\",\"to\":\"blue\"}}\n",
        time(SWITCHED),
        time(BACK)
    );
    let answer = backtest(
        &archive.url(),
        &["--output", "json", "--switches", "switches.csv", "--guard", "web-01"],
        &[("switches.csv", &file)],
    )
    .await;
    let guard = answer.guard("shop/web-01");
    assert_eq!(guard["course"]["origin"], "file");
    assert_eq!(guard["events"].as_array().expect("events").len(), 1);
    assert_eq!(guard["false_alarms"]["events"], 1, "nobody said that it was bad: it counts");

    let answer = backtest(
        &archive.url(),
        &["--switches", "switches.csv"],
        &[("switches.csv", "shop/web-01,yesterday,blue,green\n")],
    )
    .await;
    assert_eq!(answer.code, Some(64));
    assert!(
        answer.err.contains("line 1") && answer.err.contains("\"yesterday\" is no time"),
        "{}",
        answer.err
    );
}

#[tokio::test]
async fn people_get_a_table_of_eighty_columns_and_a_page_of_one_file() {
    let Some(archive) = archive("people_get_a_table_of_eighty_columns_and_a_page_of_one_file").await else {
        return;
    };
    let answer = backtest(&archive.url(), &[], &[]).await;
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    let widest = answer.out.lines().max_by_key(|line| line.chars().count()).expect("lines");
    assert!(widest.chars().count() <= 80, "{} columns: {widest}", widest.chars().count());
    assert!(
        answer.out.contains("green -> blue: error rate ") && answer.out.contains("endpoints: nobody counted"),
        "{}",
        answer.out
    );
    let page = std::fs::read_to_string(&answer.html).expect("a page");
    for foreign in ["http://", "https://", "<script", "url(", "@import", "<link"] {
        assert!(!page.contains(foreign), "the page names {foreign}");
    }
    assert!(page.contains("would have rolled back") && page.matches("<svg").count() > 6);
    // A week of 50 guards is to stay below 2 MB; what all guards share is 15 kB of it.
    assert!(page.len() < 100_000, "{} bytes for two guards", page.len());
}

#[tokio::test]
async fn a_prometheus_that_finds_queries_too_large_is_asked_for_halves() {
    let Some(_) = archive("a_prometheus_that_finds_queries_too_large_is_asked_for_halves").await else {
        return;
    };
    // Six hours of two pods at 15 s are 2,882 samples of one expression, and with their times more.
    let small = Archive::open(&story(), &["--query.max-samples=1200"]).await;
    let answer = backtest(&small.url(), &["--output", "json", "--guard", "web-01"], &[]).await;
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    let events = answer.guard("shop/web-01")["events"].clone();
    assert_eq!(events.as_array().expect("events").len(), 1, "{events}");
    let whole = backtest(
        &archive("again").await.expect("just there").url(),
        &["--output", "json", "--guard", "web-01"],
        &[],
    )
    .await;
    assert_eq!(events, whole.guard("shop/web-01")["events"], "halves tell the same story");
}

#[tokio::test]
async fn numbers_and_classic_mode_are_judged_at_every_poll() {
    let Some(archive) = archive("numbers_and_classic_mode_are_judged_at_every_poll").await else {
        return;
    };
    let guards = configuration(&story(), &archive.url());
    let rules = "[defaults.rules.throughput]\nkind = \"throughput\"\nmin = 5\nunit = \"req/s\"\n";
    let classic = format!("[defaults.policy]\nmode = \"classic\"\n{rules}{guards}");
    let answer = backtest(
        &archive.url(),
        &["--output", "json", "--guard", "web-01"],
        &[("flipback.toml", &classic)],
    )
    .await;
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    let guard = answer.guard("shop/web-01");
    assert_eq!(guard["course"]["switches"].as_array().map(Vec::len), Some(2), "{}", guard["course"]);
    let events = guard["events"].as_array().expect("events");
    let rollbacks: Vec<&Value> = events.iter().filter(|event| event["what"] == "rollback").collect();
    assert_eq!(rollbacks.len(), 1, "{events:?}");
    assert_eq!(rollbacks[0]["path"], "classic");
    let late = seconds(&rollbacks[0]["at"]) - BAD as f64;
    assert!((10.0..=90.0).contains(&late), "found after {late} s");
    let rule = |name: &str| {
        let rules = guard["rules"].as_array().expect("rules");
        rules.iter().find(|rule| rule["rule"] == name).cloned().expect("judged")
    };
    let (throughput, latency) = (rule("throughput"), rule("latency_p95"));
    assert_eq!((&throughput["unit"], &throughput["threshold"]), (&"req/s".into(), &5.0.into()));
    assert_eq!((&latency["unit"], &latency["threshold"]), (&"s".into(), &1.0.into()));
    // A poll every 5 s for six hours.
    assert!(throughput["intervals"].as_u64() > Some(4000), "{throughput}");
    assert_eq!(guard["blind_seconds"], 0.0, "{}", guard["blind"]);
}

/// Answers 429 to every second request, and passes the others on.
async fn moody(target: String) -> String {
    type Mood = Arc<(String, AtomicUsize, reqwest::Client)>;
    async fn pass(State(mood): State<Mood>, request: Request<Body>) -> axum::response::Response {
        if mood.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return (axum::http::StatusCode::TOO_MANY_REQUESTS, "slow down").into_response();
        }
        let path = request.uri().path().to_owned();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a small body");
        let sent = mood
            .2
            .post(format!("{}{path}", mood.0))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send();
        let bytes = sent.await.expect("Prometheus answers").bytes().await.expect("whole");
        ([("content-type", "application/json")], bytes).into_response()
    }
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let app = Router::new()
        .fallback(pass)
        .with_state(Arc::new((target, AtomicUsize::new(0), http)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_limits_queries_is_waited_for() {
    let Some(archive) = archive("a_prometheus_that_limits_queries_is_waited_for").await else {
        return;
    };
    let url = moody(archive.url()).await;
    let answer = backtest(&url, &["--output", "json", "--guard", "web-01"], &[]).await;
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    assert_eq!(answer.guard("shop/web-01")["events"].as_array().expect("events").len(), 1);
}

#[tokio::test]
async fn without_a_prometheus_it_says_so_and_ends_with_69() {
    support::install_tls();
    let answer = backtest("http://127.0.0.1:9", &[], &[]).await;
    assert_eq!(answer.code, Some(69), "{}", answer.err);
    assert!(
        answer.err.contains("127.0.0.1:9") && answer.out.is_empty(),
        "{} {}",
        answer.err,
        answer.out
    );
}
