//! The page in a real headless Chromium: what a person sees while a guard goes bad, and when flipback itself does.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use flipback::{
    metrics::Metrics,
    model::{
        Color, ColorStatus, ConfigStatus, FleetStatus, GuardId, GuardStatus, IncidentSummary, Mode, Phase, RefusedConfig, Release,
        ReplicaStatus, RuleName, RuleStatus, ShardStatus, Status,
        settings::ServeSettings,
        status::{ChatStatus, EventLine},
    },
    serve,
};
use hyper_util::client::legacy::connect::HttpConnector;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, MutexGuard, mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Several browsers at once on a small machine only make each other late.
static ONE_BROWSER: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(20);

// === the browser ===

/// A browser with chromedriver; both end with it.
struct Browser {
    client: Client,
    driver: Driver,
    _profile: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// chromedriver, leader of a process group that its browser is in.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// What the browser wrote to its console.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

impl Browser {
    /// `None`: a part is missing, which has been told.
    async fn start(test: &str) -> Option<Self> {
        let turn = ONE_BROWSER.lock().await;
        for part in ["chromium", "chromedriver"] {
            if let Err(error) = Command::new(part)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
            {
                assert!(
                    std::env::var_os("FLIPBACK_REQUIRE_REAL_PARTS").is_none_or(|value| value != "1"),
                    "{part} is needed and does not run: {error}"
                );
                writeln!(std::io::stderr(), "SKIPPED {test}: {part} ({error}); run make test").expect("stderr");
                return None;
            }
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port")
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let driver = Driver(driver);
        let profile = tempfile::tempdir().expect("a folder");
        let mut arguments: Vec<String> =
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
                                          --disable-component-update --disable-sync --window-size=1280,1000"
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.as_object().expect("an object").clone());
        let connect = async {
            loop {
                match builder.connect(&format!("http://127.0.0.1:{port}")).await {
                    Ok(client) => break client,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let client = timeout(PATIENCE, connect).await.expect("chromedriver opens a session");
        Some(Self {
            client,
            driver,
            _profile: profile,
            _turn: turn,
        })
    }

    async fn open(&self, daemon: &Daemon) {
        self.client.goto(&format!("http://{}/", daemon.address)).await.expect("loads");
    }

    async fn value(&self, expression: &str) -> Value {
        self.client
            .execute(&format!("return {expression}"), Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until a JavaScript expression holds.
    async fn until(&self, expression: &str) {
        let holds = async {
            while self.value(expression).await != Value::Bool(true) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(PATIENCE, holds).await.is_err() {
            panic!(
                "never held: {expression}\nthe page says:\n{}",
                self.value("document.body.innerText").await
            );
        }
    }

    /// Lines of the console that are warnings or errors.
    async fn complaints(&self) -> Vec<String> {
        let lines = self.client.issue_cmd(Console).await.expect("a console");
        let lines = lines.as_array().expect("lines").iter();
        lines
            .filter(|line| line["level"] != "INFO" && line["level"] != "DEBUG")
            .map(|line| line["message"].to_string())
            .collect()
    }

    async fn close(self) {
        self.client.close().await.expect("closes");
        drop(self.driver);
    }
}

// === the daemon, its status made up ===

struct Daemon {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Daemon {
    async fn start(listen: SocketAddr, guards: Vec<GuardStatus>) -> Self {
        let (status, receiver) = watch::channel(Arc::new(of(guards)));
        let settings = ServeSettings {
            listen,
            token: None,
            evidence: None,
        };
        let server = serve::bind(settings, receiver, mpsc::channel(1).0, Metrics::new().expect("registers"))
            .await
            .expect("binds");
        let address = server.local_addr();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self {
            address,
            status,
            stop,
            task,
        }
    }

    fn says(&self, guards: Vec<GuardStatus>) {
        self.status.send_replace(Arc::new(of(guards)));
    }

    fn tells(&self, guards: Vec<GuardStatus>, chats: Vec<ChatStatus>) {
        let notifications_pending = chats.iter().map(|chat| chat.waiting).sum();
        self.status.send_replace(Arc::new(Status {
            chats,
            notifications_pending,
            ..of(guards)
        }));
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("stops");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the page counts in the daemon's time, which in a made-up status is the test's"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn of(guards: Vec<GuardStatus>) -> Status {
    let at = now();
    Status {
        version: "0.0.0-test".into(),
        started_at: at - SignedDuration::from_secs(60),
        at,
        poll_seconds: 1.0,
        guards,
        notifications_pending: 0,
        chats: Vec::new(),
        fleet: Default::default(),
        config: Default::default(),
        replica: None,
    }
}

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

fn side(name: &str, image: &str) -> ColorStatus {
    ColorStatus {
        color: color(name),
        ready: 3,
        desired: Some(3),
        release: Some(Release {
            id: format!("{name}-1"),
            images: vec![image.to_owned()],
        }),
        known_bad: false,
    }
}

/// Green is live; `streak` polls in a row were over the limit.
fn guard(name: &str, phase: Phase, streak: u32) -> GuardStatus {
    let value = if streak > 0 { 0.124 } else { 0.004 };
    GuardStatus {
        shard: None,
        guard: GuardId::new("", "shop", name).expect("valid"),
        mode: Mode::Enforce,
        object: format!("Service/{name}"),
        phase,
        why: format!("errors are at {value}, streak {streak}"),
        active: Some(color("green")),
        standby: Some(color("blue")),
        colors: vec![side("blue", "registry/web:1"), side("green", "registry/web:2")],
        rules: vec![RuleStatus {
            rule: RuleName::new("error_rate").expect("valid"),
            kind: "error_rate".into(),
            outcome: if streak > 0 { "breach" } else { "pass" }.into(),
            streak,
            of: 3,
            value: Some(value),
            threshold: 0.05,
            below: false,
            unit: None,
            bad: Some(value * 1000.0),
            total: Some(1000.0),
            why: format!("{} % of 1000 requests were bad, limit 5 %", value * 100.0),
            sample_at: Some(now()),
            history: vec![0.004, 0.003, value],
        }],
        switched_at: Some(now()),
        watch_until: Some(now() + SignedDuration::from_secs(600)),
        cooldown_until: None,
        paused_by: None,
        paused_until: None,
        maintenance: None,
        last_incident: None,
        history: None,
        events: vec![EventLine {
            at: now(),
            what: format!("an event of {name}").into(),
        }],
    }
}

fn rolled_back(name: &str) -> GuardStatus {
    let mut after = guard(name, Phase::RolledBack, 0);
    after.active = Some(color("blue"));
    after.standby = Some(color("green"));
    after.last_incident = Some(IncidentSummary {
        id: "shop.web_20261121T031244Z".into(),
        at: now(),
        from: color("green"),
        to: color("blue"),
        result: "rolled_back".into(),
        trigger: "error_rate".into(),
        why: "12.4 % of 1000 requests were bad three times in a row".into(),
        took_ms: Some(6.24),
        evidence: Some("/var/lib/flipback/incidents/shop.web_20261121T031244Z".into()),
        report: None,
    });
    after
}

// === the stories ===

const DOTS: &str = "document.querySelectorAll('.rule .streak i[data-on=true]').length";
const LIVE: &str = "document.querySelector('.lane[data-position=active] .color')?.textContent";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_goes_bad_and_is_rolled_back_before_the_readers_eyes() {
    let Some(browser) = Browser::start("a_guard_goes_bad_and_is_rolled_back_before_the_readers_eyes").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![guard("web", Phase::Watching, 0)]).await;
    browser.open(&daemon).await;
    browser
        .until("document.getElementById('headline').textContent === 'shop/web is fine'")
        .await;
    browser.until(&format!("{DOTS} === 0 && {LIVE} === 'green'")).await;
    // Lost by a reload.
    browser.client.execute("window.unloaded = false", Vec::new()).await.expect("runs");

    for streak in 1..=3 {
        daemon.says(vec![guard("web", Phase::Breaching, streak)]);
        browser.until(&format!("{DOTS} === {streak}")).await;
        browser
            .until(&format!(
                "document.getElementById('headline').textContent === 'shop/web is going bad {streak}/3'"
            ))
            .await;
    }
    browser.until("document.querySelector('.now').textContent === '12.4 %'").await;
    browser.until("document.title.includes('going bad 3/3')").await;

    daemon.says(vec![rolled_back("web")]);
    browser.until(&format!("{LIVE} === 'blue'")).await;
    browser
        .until("document.querySelector('.phase-name').textContent === 'Rolled back'")
        .await;
    browser
        .until("document.querySelector('.incident').innerText.includes('6.2 ms')")
        .await;
    browser
        .until("document.querySelector('.incident').innerText.includes('/var/lib/flipback/incidents/shop.web_20261121T031244Z')")
        .await;
    browser
        .until("window.unloaded === false && document.getElementById('link').dataset.link === 'live'")
        .await;
    browser.until("document.getElementById('stale').hidden").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    daemon.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_from_outside_stays_text() {
    let Some(browser) = Browser::start("text_from_outside_stays_text").await else {
        return;
    };
    let attack = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script><b class=injected>\"'&";
    let mut evil = rolled_back("web");
    evil.why = attack.into();
    evil.object = attack.into();
    evil.paused_by = Some(attack.into());
    for rule in &mut evil.rules {
        rule.why = attack.into();
        rule.kind = attack.into();
        rule.outcome = attack.into();
    }
    for side in &mut evil.colors {
        side.release = Some(Release {
            id: attack.into(),
            images: vec![attack.into()],
        });
    }
    for event in &mut evil.events {
        event.what = attack.into();
    }
    let mut chat = chat(attack, attack);
    chat.waiting = 1;
    chat.trouble = Some(attack.into());
    if let Some(incident) = &mut evil.last_incident {
        incident.why = attack.into();
        incident.result = attack.into();
        incident.trigger = attack.into();
        incident.evidence = Some(attack.into());
    }
    let daemon = Daemon::start(anywhere(), vec![evil.clone()]).await;
    browser.open(&daemon).await;
    browser.until("document.querySelectorAll('.rule').length === 1").await;
    daemon.tells(vec![evil], vec![chat]);
    let shown = serde_json::to_string(attack).expect("encodes");
    for place in [
        ".why",
        ".rule-why",
        ".incident-why",
        ".incident-evidence code",
        ".events li span",
        "#subline",
        ".chat-name",
    ] {
        browser
            .until(&format!("document.querySelector('{place}').textContent === {shown}"))
            .await;
    }
    sleep(Duration::from_millis(300)).await;
    browser
        .until("window.pwned === undefined && document.querySelectorAll('main img, main script, .injected').length === 0")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    daemon.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_answering_is_said_until_it_is_back() {
    let Some(browser) = Browser::start("a_daemon_that_stops_answering_is_said_until_it_is_back").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![guard("web", Phase::Watching, 0)]).await;
    let address = daemon.address;
    browser.open(&daemon).await;
    browser.until("document.getElementById('link').dataset.link === 'live'").await;
    assert_eq!(browser.value("document.getElementById('stale').hidden").await, Value::Bool(true));

    daemon.end().await;
    browser.until("document.getElementById('stale').hidden === false").await;
    browser
        .until("/flipback stopped answering \\d+ s ago/.test(document.getElementById('stale').innerText)")
        .await;
    browser.until("document.title.startsWith('✕ STALE')").await;

    let daemon = Daemon::start(address, vec![guard("web", Phase::Breaching, 2)]).await;
    browser.until("document.getElementById('stale').hidden").await;
    browser.until(&format!("{DOTS} === 2")).await;
    browser.until("document.getElementById('link').dataset.link === 'live'").await;
    daemon.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_five_hundred_guards_the_one_in_trouble_is_first() {
    let Some(browser) = Browser::start("among_five_hundred_guards_the_one_in_trouble_is_first").await else {
        return;
    };
    let mut guards: Vec<_> = (0..500).map(|n| guard(&format!("calm-{n:03}"), Phase::Steady, 0)).collect();
    guards.insert(250, guard("sick", Phase::Breaching, 1));
    let daemon = Daemon::start(anywhere(), guards).await;
    browser.open(&daemon).await;
    browser.until("document.querySelectorAll('.guard').length === 501").await;
    browser
        .until("document.querySelector('.guard').open && document.querySelector('.guard .name').textContent === 'shop/sick'")
        .await;
    browser.until("document.querySelectorAll('.guard[open]').length === 1").await;

    let filter = browser.client.find(fantoccini::Locator::Css("#filter")).await.expect("a filter");
    filter.send_keys("CALM-123").await.expect("types");
    browser
        .until("document.querySelectorAll('.guard:not([hidden])').length === 1")
        .await;
    // Its rules did not come with the digest: opening it, here by keyboard, asks for them.
    let open = "document.querySelector('.guard:not([hidden]) summary').focus()";
    browser.client.execute(open, Vec::new()).await.expect("runs");
    let focused = browser.client.active_element().await.expect("focused");
    focused.send_keys("\u{e007}").await.expect("presses Enter");
    browser
        .until("document.querySelector('.guard:not([hidden]) .rule-why')?.textContent.includes('limit 5 %') === true")
        .await;
    browser
        .until("document.querySelector('.guard:not([hidden]) .events').innerText.includes('an event of calm-123')")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    daemon.end().await;
    browser.close().await;
}

fn chat(name: &str, kind: &str) -> ChatStatus {
    ChatStatus {
        name: name.into(),
        kind: kind.into(),
        waiting: 0,
        waiting_since: None,
        delivered_at: Some(now() - SignedDuration::from_secs(180)),
        given_up: 0,
        trouble: None,
    }
}

/// One that is well, one that does not answer, one that has lost messages for ever, one that was never told anything.
fn chats() -> Vec<ChatStatus> {
    vec![
        chat("slack", "slack"),
        ChatStatus {
            waiting: 3,
            waiting_since: Some(now() - SignedDuration::from_secs(250)),
            trouble: Some("it did not answer within 10 s; see whether this host reaches hooks.example.com, or a proxy is needed".into()),
            ..chat("ops-teams", "teams")
        },
        ChatStatus {
            given_up: 2,
            delivered_at: None,
            trouble: Some("HTTP 404: Unknown Webhook; make a new webhook and put its URL into /etc/flipback/discord-url".into()),
            ..chat("discord", "discord")
        },
        ChatStatus {
            delivered_at: None,
            ..chat("email", "email")
        },
    ]
}

async fn screenshots(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("FLIPBACK_SCREENSHOTS") else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    for (device, width, height) in [("desktop", 1280, 900), ("phone", 500, 1100)] {
        browser.client.set_window_size(width, height).await.expect("resizes");
        sleep(Duration::from_millis(400)).await;
        let picture = browser.client.screenshot().await.expect("a picture");
        std::fs::write(folder.join(format!("{name}-{device}.png")), picture).expect("writable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_is_not_told_is_plain_to_see_and_one_that_is_stays_quiet() {
    let Some(browser) = Browser::start("a_chat_that_is_not_told_is_plain_to_see_and_one_that_is_stays_quiet").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![guard("web", Phase::Steady, 0)]).await;
    browser.open(&daemon).await;
    browser.until("document.getElementById('link').dataset.link === 'live'").await;
    // A daemon that tells nobody, or is older, says nothing of chats.
    browser
        .until("document.getElementById('chats').hidden && document.getElementById('told').hidden")
        .await;

    let well = || vec![chat("slack", "slack"), chat("email", "email")];
    daemon.tells(vec![guard("web", Phase::Steady, 0)], well());
    browser
        .until("document.getElementById('told').innerText === 'Chats that work: slack (3 min ago) · email (3 min ago)'")
        .await;
    browser.until("document.getElementById('chats').hidden").await;
    screenshots(&browser, "chats-well").await;

    // A message that was just handed over is on its way, not late.
    let mut busy = well();
    busy[0].waiting = 1;
    busy[0].waiting_since = Some(now());
    daemon.tells(vec![guard("web", Phase::Steady, 0)], busy);
    browser
        .until("document.getElementById('pending').innerText === '1 unsent message' && document.getElementById('chats').hidden")
        .await;

    daemon.tells(vec![guard("web", Phase::Steady, 0)], chats());
    browser
        .until(
            "document.getElementById('chats-headline').innerText === 'ops-teams and discord are not being told; 2 messages given up for good'",
        )
        .await;
    let rows = "[...document.querySelectorAll('#chats-list li')].map((row) => row.innerText).join('|')";
    let rows = browser.value(rows).await.as_str().expect("a text").to_owned();
    // What was lost for ever is first.
    assert!(rows.find("discord") < rows.find("ops-teams"), "{rows}");
    for part in [
        "2 messages given up",
        "What was given up is kept in the data folder, in outbox/dead.",
        "HTTP 404: Unknown Webhook; make a new webhook and put its URL into /etc/flipback/discord-url.",
        "Told nothing yet since flipback started.",
        "3 messages waiting for 4 min 1",
        "It did not answer within 10 s",
        "Last told 3 min ago.",
    ] {
        assert!(rows.contains(part), "{part:?} is not in {rows}");
    }
    browser
        .until("document.getElementById('told').innerText === 'Chats that work: slack (3 min ago) · email'")
        .await;
    browser.until("document.getElementById('chats').dataset.tone === 'bad'").await;
    screenshots(&browser, "chats-trouble").await;
    // Nothing hangs over the edge of a phone.
    browser
        .until("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        .await;

    // It is well again, and what was given up stays said.
    let mut after = well();
    after[0].given_up = 1;
    daemon.tells(vec![guard("web", Phase::Breaching, 2)], after);
    browser
        .until("document.getElementById('chats-headline').innerText === '1 message given up for good'")
        .await;
    browser
        .until("document.querySelector('#chats-list li').innerText.includes('It takes messages again.')")
        .await;
    screenshots(&browser, "chats-given-up").await;
    daemon.tells(vec![guard("web", Phase::Steady, 0)], well());
    browser.until("document.getElementById('chats').hidden").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    daemon.end().await;
    browser.close().await;
}

/// One rule of each kind, some within and some past their limit.
fn every_kind() -> GuardStatus {
    let rule = |name: &str, kind: &str, outcome: &str, value: f64, threshold: f64, history: &[f64]| RuleStatus {
        rule: RuleName::new(name).expect("valid"),
        kind: kind.into(),
        outcome: outcome.into(),
        streak: u32::from(outcome == "breach"),
        of: 3,
        value: Some(value),
        threshold,
        below: false,
        unit: Some("ratio".into()),
        bad: None,
        total: None,
        why: format!("{name}: a sentence with numbers"),
        sample_at: Some(now()),
        history: history.to_vec(),
    };
    let below = |rule: RuleStatus| RuleStatus { below: true, ..rule };
    let counting = |unit: Option<&str>, rule: RuleStatus| RuleStatus {
        unit: unit.map(str::to_owned),
        ..rule
    };
    let rules = vec![
        rule("error_rate", "error_rate", "pass", 0.004, 0.05, &[0.004, 0.003, 0.004]),
        below(rule(
            "availability",
            "availability",
            "pass",
            0.9995,
            0.999,
            &[0.9999, 0.9992, 0.9995],
        )),
        below(rule(
            "availability_bad",
            "availability",
            "breach",
            0.9984,
            0.999,
            &[0.9999, 0.9996, 0.9991, 0.9984],
        )),
        rule("latency_p95", "latency", "pass", 0.012, 0.05, &[0.01, 0.012]),
        counting(
            Some("seconds"),
            rule("classic_p99", "latency", "breach", 2.4, 2.0, &[0.8, 1.2, 2.4]),
        ),
        below(counting(
            Some("req/s"),
            rule("throughput", "throughput", "pass", 118.04, 100.0, &[140.0, 121.0, 118.04]),
        )),
        below(counting(
            None,
            rule("sign_ups", "promql", "breach", 0.4, 1.0, &[3.0, 2.0, 1.0, 0.4]),
        )),
        rule("memory", "saturation", "pass", 0.62, 0.8, &[0.6, 0.61, 0.62]),
        counting(None, rule("tokens", "promql", "pass", 12_480.4, 20_000.0, &[12_000.0, 12_480.4])),
        counting(
            Some("ms"),
            rule("ratio", "promql", "inconclusive", 420.0, f64::INFINITY, &[400.0, 420.0]),
        ),
        below(counting(
            Some("endpoints"),
            rule("endpoints", "endpoints", "pass", 3.0, 1.0, &[3.0, 3.0]),
        )),
    ];
    GuardStatus {
        rules,
        why: "availability_bad: good share 99.84 % (12 bad of 7,500) under 99.9 %, first breach".into(),
        ..guard("web", Phase::Breaching, 1)
    }
}

fn shared(name: &str, leaders: &[Option<&str>], trouble: Option<&str>) -> ReplicaStatus {
    let shards = (0..).zip(leaders).map(|(shard, leader)| ShardStatus {
        shard,
        leader: leader.map(str::to_owned),
        ours: *leader == Some(name),
    });
    ReplicaStatus {
        name: name.to_owned(),
        alive: vec!["flipback-0".to_owned(), "flipback-1".to_owned()],
        shards: shards.collect(),
        trouble: trouble.map(str::to_owned),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_says_that_it_follows_and_whom() {
    let Some(browser) = Browser::start("a_follower_says_that_it_follows_and_whom").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![guard("web", Phase::Steady, 0)]).await;
    let says = |replica: Option<ReplicaStatus>| {
        daemon.status.send_replace(Arc::new(Status {
            replica,
            ..of(vec![guard("web", Phase::Steady, 0)])
        }));
    };
    browser.open(&daemon).await;
    let hidden = "document.getElementById('lead').hidden";
    let what = "document.getElementById('lead-what').textContent";
    let so = "document.getElementById('lead-so').textContent";
    let badge = "document.getElementById('replica').textContent";
    browser.until("document.getElementById('replica').hidden").await;
    assert_eq!(browser.value(hidden).await, true, "a single daemon speaks of no replicas");

    says(Some(shared("flipback-0", &[Some("flipback-0")], None)));
    browser
        .until(&format!("{badge} === 'flipback-0 leads; alive: flipback-0, flipback-1'"))
        .await;
    assert_eq!(browser.value(hidden).await, true, "a leader needs no banner");

    says(Some(shared("flipback-0", &[Some("flipback-1")], None)));
    browser.until(&format!("!{hidden} && {what} === 'flipback-0 only follows'")).await;
    assert_eq!(browser.value(so).await, "flipback-1 leads and acts. Commands go there.");
    screenshots(&browser, "follower").await;

    let odd = "failed to read the Lease \"ops/<b>x</b>\": not allowed";
    says(Some(shared(
        "flipback-0",
        &[Some("flipback-0"), Some("flipback-1"), None],
        Some(odd),
    )));
    browser
        .until(&format!("{what} === 'Nobody leads shard 2: their guards are not flipped'"))
        .await;
    browser
        .until(&format!("{badge}.startsWith('flipback-0 leads shard 0 of 3;')"))
        .await;
    let so = browser.value(so).await;
    assert_eq!(
        so,
        "flipback-1 acts for shard 1. Commands go there. Failed to read the Lease \"ops/<b>x</b>\": not allowed."
    );
    screenshots(&browser, "orphans").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_configuration_and_guards_that_are_held_stand_above_everything() {
    let Some(browser) = Browser::start("a_refused_configuration_and_guards_that_are_held_stand_above_everything").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![guard("web", Phase::Steady, 0)]).await;
    browser.open(&daemon).await;
    assert_eq!(
        browser.value("document.getElementById('notices').hidden").await,
        true,
        "nothing to say"
    );

    let why = "guards[0].policy.consecutive: found \"<b>three</b>\", allowed is a whole number";
    daemon.status.send_replace(Arc::new(Status {
        config: ConfigStatus {
            refused: Some(RefusedConfig {
                at: now() - SignedDuration::from_secs(120),
                why: why.into(),
            }),
            ..ConfigStatus::default()
        },
        fleet: FleetStatus {
            flipped: vec![GuardId::new("", "shop", "cart").expect("valid")],
            limit: Some(1),
            window_seconds: 600,
            held: vec![GuardId::new("", "shop", "web").expect("valid")],
            ..FleetStatus::default()
        },
        ..of(vec![guard("web", Phase::Steady, 0)])
    }));
    let told = |index: u32, tag: &str| format!("(document.querySelectorAll('#notices {tag}')[{index}]?.textContent ?? '')");
    let shown = format!("{}.includes('the one before it is')", told(1, "h2"));
    browser.until(&shown).await;
    assert_eq!(browser.value(&told(1, "p")).await, why, "text stays text");
    let many = browser.value(&told(0, "h2")).await;
    assert_eq!(many, "Many guards are failing at once: suspect a shared cause");
    let held = browser.value(&told(0, "p")).await;
    let held = held.as_str().unwrap_or_default();
    assert!(
        held.starts_with("1 guard was rolled back within 10 min") && held.contains("Held: shop/web."),
        "{held}"
    );
    screenshots(&browser, "notices").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // Mended, it goes.
    daemon.says(vec![guard("web", Phase::Steady, 0)]);
    browser.until("document.getElementById('notices').hidden").await;
    browser.close().await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_rule_is_told_in_its_own_unit() {
    let Some(browser) = Browser::start("every_kind_of_rule_is_told_in_its_own_unit").await else {
        return;
    };
    let daemon = Daemon::start(anywhere(), vec![every_kind()]).await;
    browser.open(&daemon).await;
    browser.until("document.querySelectorAll('.rule').length === 11").await;
    let shown = |name: &str, part: &str| {
        format!(
            "[...document.querySelectorAll('.rule')].find((r) => r.querySelector('.rule-name').textContent === '{name}').querySelector('{part}')"
        )
    };
    for (rule, now, limit) in [
        ("error_rate", "0.4 %", "bad · breach over 5 %"),
        ("availability", "99.95 %", "good · breach under 99.9 %"),
        ("availability_bad", "99.84 %", "good · breach under 99.9 %"),
        ("latency_p95", "1.2 %", "too slow · breach over 5 %"),
        ("classic_p99", "2.4 s", "breach over 2 s"),
        ("throughput", "118 req/s", "breach under 100 req/s"),
        ("sign_ups", "0.4", "breach under 1"),
        ("memory", "62 %", "used · breach over 80 %"),
        ("tokens", "12,480", "breach over 20,000"),
        ("ratio", "420 ms", "limit not known yet"),
        ("endpoints", "3", "ready"),
    ] {
        let said = browser.value(&format!("{}.textContent", shown(rule, ".now"))).await;
        assert_eq!(said, json!(now), "{rule}");
        let said = browser.value(&format!("{}.textContent", shown(rule, ".limit"))).await;
        assert_eq!(said, json!(limit), "{rule}");
    }
    let said = browser
        .value(&format!("{}.textContent", shown("availability_bad", ".outcome")))
        .await;
    assert_eq!(said, json!("under the limit"));

    // The bar is past its middle mark, and the line past the dashed one, exactly where there is a breach; on the screen, down is more.
    for (rule, breach, below) in [
        ("error_rate", false, false),
        ("availability", false, true),
        ("availability_bad", true, true),
        ("classic_p99", true, false),
        ("throughput", false, true),
        ("sign_ups", true, true),
        ("memory", false, false),
    ] {
        let width = browser.value(&format!("parseFloat({}.style.width)", shown(rule, ".fill"))).await;
        let width = width.as_f64().expect("a width");
        assert_eq!(width > 50.0, breach, "{rule}: the bar is {width} %");
        let limit = browser
            .value(&format!("Number({}.getAttribute('y1'))", shown(rule, ".spark-limit")))
            .await;
        let last = format!("Number({}.getAttribute('d').split(' ').pop())", shown(rule, ".spark-line"));
        let (limit, last) = (limit.as_f64().expect("y"), browser.value(&last).await.as_f64().expect("y"));
        let past = if below { last > limit } else { last < limit };
        assert_eq!(past, breach, "{rule}: the line is at {last}, its limit at {limit}");
        assert!((0.0..=32.0).contains(&limit), "{rule}: the limit is drawn at {limit}");
    }
    let hidden = browser.value(&format!("{}.style.visibility", shown("ratio", ".spark-limit"))).await;
    assert_eq!(hidden, json!("hidden"));
    if let Some(folder) = std::env::var_os("FLIPBACK_SCREENSHOTS") {
        let folder = std::path::PathBuf::from(folder);
        for (name, width, height) in [("desktop", 1280, 1600), ("phone", 500, 2600)] {
            browser.client.set_window_size(width, height).await.expect("resizes");
            sleep(Duration::from_millis(400)).await;
            let picture = browser.client.screenshot().await.expect("a picture");
            std::fs::write(folder.join(format!("{name}.png")), picture).expect("writable");
        }
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    daemon.end().await;
    browser.close().await;
}
