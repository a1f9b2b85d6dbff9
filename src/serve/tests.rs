use std::{net::SocketAddr, path::PathBuf, time::Duration};

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::model::{Color, ColorStatus, GuardId, GuardStatus, Mode, Phase, settings::Secret, status::EventLine};

const TOKEN: &str = "correct horse battery staple";

fn guard(name: &str, phase: Phase) -> GuardStatus {
    GuardStatus {
        shard: None,
        guard: GuardId::new("", "shop", name).expect("valid"),
        mode: Mode::Enforce,
        object: format!("Service/{name}"),
        phase,
        why: "all well".into(),
        active: Color::new("green").ok(),
        standby: Color::new("blue").ok(),
        colors: vec![ColorStatus {
            color: Color::new("green").expect("valid"),
            ready: 3,
            desired: Some(3),
            release: None,
            known_bad: false,
        }],
        rules: Vec::new(),
        switched_at: None,
        watch_until: None,
        cooldown_until: None,
        paused_by: None,
        paused_until: None,
        maintenance: None,
        last_incident: None,
        history: None,
        events: vec![EventLine {
            at: Timestamp::UNIX_EPOCH,
            what: "born".into(),
        }],
    }
}

fn status(second: i64, guards: Vec<GuardStatus>) -> Arc<Status> {
    Arc::new(Status {
        version: "test".into(),
        at: Timestamp::from_second(second).expect("in range"),
        poll_seconds: 5.0,
        guards,
        ..Status::default()
    })
}

struct Daemon {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
    commands: mpsc::Receiver<Request>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn daemon(token: Option<&str>) -> Daemon {
    daemon_with(token, None).await
}

async fn daemon_with(token: Option<&str>, evidence: Option<PathBuf>) -> Daemon {
    let (status, receiver) = watch::channel(Arc::new(Status::default()));
    let (sender, commands) = mpsc::channel(1);
    let settings = ServeSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: token.map(|token| Secret::Value(SecretString::from(token.to_owned()))),
        evidence,
    };
    let server = bind(settings, receiver, sender, Metrics::new().expect("registers"))
        .await
        .expect("binds");
    let address = server.local_addr();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(stop.clone()));
    Daemon {
        address,
        status,
        commands,
        stop,
        task,
    }
}

impl Daemon {
    async fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream
    }

    /// Status code and whole text of one answer.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = self.open(request).await;
        let mut text = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut text))
            .await
            .expect("answers in time")
            .expect("reads");
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        (code, text)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn post(&self, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!(
            "POST /api/v1/commands HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{body}"
        ))
        .await
    }

    async fn command(&self, body: &str) -> (u16, String) {
        let headers = format!("Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}");
        self.post(&headers, body).await
    }

    async fn stopped(self) {
        self.stop.cancel();
        self.task.await.expect("stops");
    }
}

const PAUSE: &str = r#"{"command":"pause","guard":"shop/web","by":"ann","reason":"migration"}"#;

#[tokio::test]
async fn the_daemon_is_ready_after_the_first_look() {
    let daemon = daemon(None).await;
    // As the monitor starts: a status that bears the time of the start and no look yet.
    let start = Timestamp::from_second(1).expect("in range");
    daemon.status.send_replace(Arc::new(Status {
        started_at: start,
        at: start,
        ..Status::default()
    }));
    assert_eq!(daemon.get("/readyz").await.0, 503);
    assert_eq!(daemon.get("/healthz").await.0, 200);
    daemon.status.send_replace(status(2, Vec::new()));
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.stopped().await;
}

#[tokio::test]
async fn every_answer_forbids_foreign_content() {
    let daemon = daemon(None).await;
    for path in ["/", "/page.js", "/metrics", "/nowhere", "/api/v1/status", "/healthz"] {
        let (_, text) = daemon.get(path).await;
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "frame-ancestors 'none'",
        ] {
            assert!(text.contains(header), "{path}: {header}");
        }
    }
    let (_, page) = daemon.get("/").await;
    assert!(!page.contains("unsafe-inline") && !page.contains("https://"));
    assert!(daemon.get("/metrics").await.1.contains("flipback_build_info{"));
    daemon.stopped().await;
}

#[tokio::test]
async fn a_guard_is_found_by_its_whole_name_and_an_unknown_one_is_a_json_error() {
    let daemon = daemon(None).await;
    daemon.status.send_replace(status(1, vec![guard("web", Phase::Steady)]));
    let (code, text) = daemon.get("/api/v1/guards/shop/web").await;
    assert!(code == 200 && text.contains("\"object\":\"Service/web\""), "{text}");
    let (code, text) = daemon.get("/api/v1/guards/shop/nope").await;
    assert!(code == 404 && text.contains("\"error\":\"unknown_guard\""), "{text}");
    assert_eq!(daemon.get("/favicon.ico").await.0, 404);
    assert_eq!(daemon.get("/api/v1/commands").await.0, 405);
    daemon.stopped().await;
}

#[tokio::test]
async fn with_many_guards_the_page_gets_the_calm_ones_abridged() {
    let daemon = daemon(None).await;
    let mut guards: Vec<_> = (0..40).map(|n| guard(&format!("calm-{n}"), Phase::Steady)).collect();
    guards.push(guard("sick", Phase::Breaching));
    daemon.status.send_replace(status(1, guards));
    let (_, feed) = daemon.get("/api/v1/feed").await;
    assert_eq!(feed.matches("born").count(), 1, "only the guard in trouble comes whole");
    assert!(feed.contains("\"brief\":true"));
    let (_, whole) = daemon.get("/api/v1/status").await;
    assert_eq!(whole.matches("born").count(), 41);
    daemon.stopped().await;
}

#[tokio::test]
async fn a_change_is_pushed_and_a_stop_ends_the_stream_within_a_second() {
    let daemon = daemon(None).await;
    let mut stream = daemon.open("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    for (second, word) in [(1, "first"), (2, "second")] {
        daemon.status.send_replace(status(second, vec![guard(word, Phase::Steady)]));
        while !seen.contains(&format!("shop/{word}")) {
            let read = timeout(Duration::from_secs(5), stream.read(&mut buffer))
                .await
                .expect("pushed")
                .expect("reads");
            assert!(read > 0, "the stream stays open");
            seen.push_str(&String::from_utf8_lossy(buffer.get(..read).expect("in bounds")));
        }
    }
    assert!(seen.contains("content-type: text/event-stream"));
    timeout(Duration::from_secs(2), daemon.stopped())
        .await
        .expect("stops within its grace");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_dawdles() {
    let mut daemon = daemon(Some(TOKEN)).await;
    let dawdler = daemon.open("GET / HTTP/1.1\r\nHost: loc").await;
    let headers = format!("Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}");
    let length = PAUSE.len();
    let waiting = daemon
        .open(&format!(
            "POST /api/v1/commands HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{PAUSE}"
        ))
        .await;
    let unanswered = daemon.commands.recv().await.expect("arrives");
    timeout(Duration::from_secs(2), daemon.stopped())
        .await
        .expect("stops within its grace");
    drop((dawdler, waiting, unanswered));
}

#[tokio::test]
async fn nobody_acts_without_a_configured_token_and_the_right_one() {
    let json = "Host: localhost\r\nContent-Type: application/json";
    let open = daemon(None).await;
    let (code, text) = open.post(json, PAUSE).await;
    assert!(code == 403 && text.contains("token_file"), "{text}");
    open.stopped().await;

    let mut closed = daemon(Some(TOKEN)).await;
    for header in [
        "",
        "\r\nAuthorization: Bearer wrong",
        "\r\nAuthorization: Bearer",
        "\r\nAuthorization: Basic correct horse battery staple",
    ] {
        let (code, text) = closed.post(&format!("{json}{header}"), PAUSE).await;
        assert_eq!(code, 401, "{header}");
        assert!(!text.contains(TOKEN));
    }
    assert!(closed.commands.try_recv().is_err(), "nothing reached the monitor");
    closed.stopped().await;
}

#[tokio::test]
async fn a_command_from_a_foreign_name_or_page_is_turned_away() {
    let mut daemon = daemon(Some(TOKEN)).await;
    let rest = format!("Content-Type: application/json\r\nAuthorization: Bearer {TOKEN}");
    for host in [
        "Host: evil.example",
        "Host: localhost\r\nOrigin: http://evil.example",
        "Host: localhost\r\nOrigin: null",
    ] {
        let (code, text) = daemon.post(&format!("{host}\r\n{rest}"), PAUSE).await;
        assert!(code == 403 && text.contains("foreign_host"), "{host}: {text}");
    }
    assert!(daemon.commands.try_recv().is_err(), "nothing reached the monitor");
    daemon.stopped().await;
}

#[tokio::test]
async fn what_is_no_command_is_refused_with_its_reason() {
    let daemon = daemon(Some(TOKEN)).await;
    let authorized = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}");
    for (headers, body, expected) in [
        ("Content-Type: application/json", "{", 400),
        ("Content-Type: application/json", r#"{"command":"explode"}"#, 400),
        ("Content-Type: text/plain", PAUSE, 415),
        ("Content-Type: application/json", &"x".repeat(commands::BODY_BYTES_MAX + 1), 413),
    ] {
        let (code, text) = daemon.post(&format!("{authorized}\r\n{headers}"), body).await;
        assert!(code == expected && text.contains("\"message\""), "{expected}: {text}");
    }
    let (code, _) = daemon
        .ask(&format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: {}\r\n\r\n",
            "x".repeat(64 * 1024)
        ))
        .await;
    assert_eq!(code, 431);
    daemon.stopped().await;
}

#[tokio::test]
async fn the_monitors_answer_becomes_an_http_status() {
    let cases = [
        (Ok(CommandReply::Done { what: "paused".into() }), 200, "paused"),
        (Err(CommandError::UnknownGuard("shop/web".into())), 404, "unknown_guard"),
        (Err(CommandError::UnknownColor("no red".into())), 422, "no red"),
        (Err(CommandError::Refused("in cooldown".into())), 409, "refused: in cooldown"),
        (Err(CommandError::Failed("forbidden".into())), 502, "forbidden"),
        (Err(CommandError::Busy), 503, "busy"),
    ];
    let mut daemon = daemon(Some(TOKEN)).await;
    for (answer, expected, words) in cases {
        let mut commands = std::mem::replace(&mut daemon.commands, mpsc::channel(1).1);
        let error = answer.as_ref().err().cloned();
        let monitor = tokio::spawn(async move {
            let request = commands.recv().await.expect("arrives");
            assert_eq!(request.command.guard().map(GuardId::as_str), Some("shop/web"));
            request.reply.send(answer).expect("still asked");
            commands
        });
        let (code, text) = daemon.command(PAUSE).await;
        daemon.commands = monitor.await.expect("answers");
        assert!(code == expected && text.contains(words), "{expected}: {text}");
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        if let Some(error) = error {
            assert_eq!(
                serde_json::from_str::<CommandError>(body).expect("readable by the command line"),
                error
            );
        }
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn a_full_queue_or_a_monitor_that_is_gone_is_busy() {
    let mut daemon = daemon(Some(TOKEN)).await;
    let headers = format!("Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}");
    let length = PAUSE.len();
    let first = daemon
        .open(&format!(
            "POST /api/v1/commands HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{PAUSE}"
        ))
        .await;
    while daemon.commands.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(daemon.command(PAUSE).await.0, 503, "the queue of one is full");
    let queued = daemon.commands.recv().await.expect("queued");
    daemon.commands.close();
    assert_eq!(daemon.command(PAUSE).await.0, 503, "the monitor is gone");
    drop((first, queued));
    daemon.stopped().await;
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let daemon = daemon(None).await;
    let (_sender, receiver) = watch::channel(Arc::new(Status::default()));
    let settings = ServeSettings {
        listen: daemon.address,
        token: None,
        evidence: None,
    };
    let error = bind(settings, receiver, mpsc::channel(1).0, Metrics::new().expect("registers"))
        .await
        .expect_err("taken");
    assert!(
        error.to_string().contains("another process") && error.to_string().contains("listen"),
        "{error}"
    );
    daemon.stopped().await;
}

#[tokio::test]
async fn evidence_is_read_only_where_it_was_allowed_and_nothing_beside_it() {
    let data = tempfile::tempdir().expect("a folder");
    let incidents = data.path().join("incidents");
    let write = |name: &str, text: &str| {
        let path = incidents.join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("makes");
        std::fs::write(path, text).expect("writes");
    };
    write("shop.web_1/report.html", "<h1>why</h1>");
    write("shop.web_1/plot.png", "PNG");
    write("shop.web_1/logs/green/web/app.log", "<script>alert(1)</script>");
    write("shop.web_1/.pinned", "pin");
    write(".partial-shop.web_2/report.html", "half");
    std::fs::write(data.path().join("secret"), "outside").expect("writes");

    let shut = daemon(None).await;
    assert_eq!(
        shut.get("/incidents/shop.web_1/report.html").await.0,
        404,
        "off unless told otherwise"
    );
    shut.stopped().await;

    let open = daemon_with(None, Some(incidents.clone())).await;
    let (code, text) = open.get("/incidents/shop.web_1/report.html").await;
    assert!(code == 200 && text.ends_with("<h1>why</h1>"), "{text}");
    assert!(text.contains("content-type: text/html") && text.contains("nosniff"), "{text}");
    let policy = text
        .lines()
        .find(|line| line.starts_with("content-security-policy"))
        .expect("has one");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("sandbox") && !policy.contains("script"),
        "{policy}"
    );
    let (code, text) = open.get("/incidents/shop.web_1/logs/green/web/app.log").await;
    assert!(code == 200 && text.contains("content-type: text/plain"), "{text}");
    assert!(
        open.get("/incidents/shop.web_1/plot.png")
            .await
            .1
            .contains("content-type: image/png")
    );
    let (code, text) = open.get("/incidents/shop.web_1/").await;
    assert!(
        code == 307 && text.contains("location: /incidents/shop.web_1/report.html"),
        "{text}"
    );
    for closed in [
        "/incidents/",
        "/incidents/shop.web_1/.pinned",
        "/incidents/shop.web_1/%2epinned",
        "/incidents/.partial-shop.web_2/report.html",
        "/incidents/%2Epartial-shop.web_2/report.html",
        "/incidents/../secret",
        "/incidents/shop.web_1/../../secret",
        "/incidents/shop.web_1/%2e%2e/%2e%2e/secret",
        "/incidents/shop.web_1/..%2f..%2fsecret",
        "/incidents/shop.web_1/none.html",
        "/incidents/shop.web_1/logs",
    ] {
        let (code, text) = open.get(closed).await;
        assert!(
            code == 404 && !text.contains("outside") && !text.contains("half"),
            "{closed}: {text}"
        );
    }
    open.stopped().await;
}

#[tokio::test]
async fn who_guesses_the_token_is_told_to_wait_and_what_tells_that_we_live_is_not() {
    let mut daemon = daemon(Some(TOKEN)).await;
    daemon.status.send_replace(status(2, vec![guard("web", Phase::Steady)]));
    let guess = "Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer guess";
    let mut codes = Vec::new();
    for _ in 0..15 {
        codes.push(daemon.post(guess, PAUSE).await.0);
    }
    assert!(codes.starts_with(&[401; 10]) && codes.ends_with(&[429; 3]), "{codes:?}");
    let (code, text) = daemon.command(PAUSE).await;
    assert_eq!(code, 429, "the right one is not looked at either, or guessing would be worth it");
    let wait = text
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "))
        .expect("it says how long");
    assert!((1..=7).contains(&wait.trim().parse::<u64>().expect("seconds")), "{wait}");
    assert!(
        text.contains("\"error\":\"too_many_requests\"") && text.contains("wrong tokens"),
        "{text}"
    );
    assert!(daemon.commands.try_recv().is_err(), "nothing reached the monitor");
    for path in ["/healthz", "/readyz", "/metrics", "/", "/api/v1/status"] {
        assert_eq!(daemon.get(path).await.0, 200, "{path}");
    }
    let metrics = daemon.get("/metrics").await.1;
    assert!(metrics.contains("flipback_http_refused_total{why=\"guesses\"}"), "{metrics}");
    daemon.stopped().await;
}

#[tokio::test]
async fn commands_have_a_rate_and_beyond_it_nothing_reaches_the_monitor() {
    let mut daemon = daemon(Some(TOKEN)).await;
    let mut commands = std::mem::replace(&mut daemon.commands, mpsc::channel(1).1);
    let monitor = tokio::spawn(async move {
        let mut done = 0;
        while let Some(request) = commands.recv().await {
            done += 1;
            let _ = request.reply.send(Ok(CommandReply::Done { what: "paused".into() }));
        }
        done
    });
    // The monitor's queue of one is busy now and then, which costs a place as well.
    let (mut heard, mut taken, mut refused) = (0, 0, 0);
    // More than the burst and what is given back meanwhile, on however slow a machine.
    while refused == 0 && heard < 5_000 {
        let answers = futures::future::join_all((0..20).map(|_| daemon.command(PAUSE))).await;
        taken += answers.iter().filter(|(code, _)| *code == 200).count();
        refused += answers.iter().filter(|(code, _)| *code == 429).count();
        heard += answers.iter().filter(|(code, _)| matches!(code, 200 | 503)).count();
        let sound = |(code, text): &(u16, String)| *code != 429 || text.contains("retry-after: 1");
        assert!(answers.iter().all(sound), "{answers:?}");
    }
    assert!(refused > 0 && heard >= 100, "{heard} heard, {taken} taken, {refused} refused");
    assert_eq!(daemon.get("/metrics").await.0, 200);
    daemon.stopped().await;
    assert_eq!(monitor.await.expect("ends with the server"), taken);
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let daemon = daemon(None).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX / 2 {
        held.push(daemon.open("GET / HTTP/1.1\r\nHost: loc").await);
    }
    // Once they are all taken in, one more is closed unheard.
    let closed = async {
        loop {
            let mut stream = TcpStream::connect(daemon.address).await.expect("connects");
            let _ = stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await;
            let mut text = String::new();
            if stream.read_to_string(&mut text).await.is_err() || text.is_empty() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), closed).await.expect("closed");
    let elsewhere = tokio::net::TcpSocket::new_v4().expect("a socket");
    elsewhere
        .bind("127.0.0.9:0".parse().expect("an address"))
        .expect("all of 127/8 is ours");
    let mut stream = elsewhere.connect(daemon.address).await.expect("connects");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut text = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut text))
        .await
        .expect("answers")
        .expect("reads");
    assert!(text.starts_with("HTTP/1.1 200"), "others are served: {text}");
    held.clear();
    daemon.stopped().await;
}
