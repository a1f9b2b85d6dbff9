//! The outbox against local HTTP servers that answer, refuse, stall and vanish.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::*;
use crate::{
    model::{
        GuardId, Topic,
        settings::{Channel, Secret},
    },
    words::tests::example,
};

/// The part of every test URL that must never be seen again.
const SECRET: &str = "T000-B000-abcdefghijklmnop";
const TOKEN: &str = "bearer-abcdefghijklmnop";
/// No wait in these tests comes near it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a stub does with its next requests; the last answer repeats.
#[derive(Clone)]
enum Answer {
    Status(u16),
    RetryAfter(u64),
    /// Takes the request and never answers.
    Silence,
    /// Refuses, repeating what it was asked for.
    Echo(u16),
}

#[derive(Clone)]
struct Stub {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<(Instant, HeaderMap, Value)>>>,
}

struct Served {
    stub: Stub,
    url: String,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    async fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let stub = Stub {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            seen: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/services/{SECRET}", listener.local_addr().expect("bound"));
        let app = Router::new().fallback(receive).with_state(stub.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { stub, url, server }
    }

    fn ids(&self) -> Vec<String> {
        let seen = self.stub.seen.lock().expect("sound");
        seen.iter()
            .map(|(_, _, body)| body["id"].as_str().unwrap_or("?").to_owned())
            .collect()
    }

    fn times(&self) -> Vec<Instant> {
        self.stub.seen.lock().expect("sound").iter().map(|(at, ..)| *at).collect()
    }
}

async fn receive(State(stub): State<Stub>, headers: HeaderMap, uri: axum::http::Uri, body: Bytes) -> Response {
    let answer = {
        let mut answers = stub.answers.lock().expect("sound");
        if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        }
    };
    let body = serde_json::from_slice(&body).expect("JSON");
    stub.seen.lock().expect("sound").push((Instant::now(), headers, body));
    let code = |code| StatusCode::from_u16(code).expect("valid");
    match answer.unwrap_or(Answer::Status(200)) {
        Answer::Status(status) => code(status).into_response(),
        Answer::RetryAfter(seconds) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response(),
        Answer::Silence => std::future::pending().await,
        Answer::Echo(status) => (code(status), format!("cannot POST {uri} with {TOKEN}")).into_response(),
    }
}

fn chat(name: &str, url: &str) -> ChatSettings {
    let channel = Channel::Webhook {
        url: Secret::Value(SecretString::from(url.to_owned())),
        token: Some(Secret::Value(SecretString::from(TOKEN))),
        signing_key: None,
    };
    ChatSettings {
        timeout: Duration::from_millis(500),
        ..ChatSettings::new(name, channel)
    }
}

fn numbered(n: u32) -> Announcement {
    Announcement {
        id: format!("id-{n:04}"),
        guard: GuardId::new("", "shop", &format!("web{}", n % 2)).expect("valid"),
        at: jiff::Timestamp::from_second(1_800_000_000 + i64::from(n)).expect("in range"),
        ..example(Topic::RollbackCompleted)
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is an edge")]
fn wall() -> Timestamp {
    Timestamp::now()
}

/// A running outbox with short pauses.
struct Running {
    outbox: Outbox,
    metrics: Metrics,
    stop: CancellationToken,
    hurry: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(dir: &Path, chats: Vec<ChatSettings>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let metrics = Metrics::new().expect("registers");
        let (outbox, mut task) = Outbox::open(dir.to_owned(), chats, metrics.clone());
        task.pace = Pace {
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(40),
            ..Pace::default()
        };
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(task.run(stop.clone(), hurry.clone(), Clock::new(wall)));
        Self {
            outbox,
            metrics,
            stop,
            hurry,
            task,
        }
    }

    async fn drained(&self) {
        self.until(|pending| pending == 0).await;
    }

    async fn until(&self, reached: impl Fn(u64) -> bool) {
        let mut pending = self.outbox.switch.current().pending.subscribe();
        timeout(PATIENCE, pending.wait_for(|pending| reached(*pending)))
            .await
            .expect("in time")
            .expect("open");
    }

    fn count(&self, chat: &str, result: &str) -> u64 {
        self.metrics.notifications.with_label_values(&[chat, result]).get()
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("ends in time").expect("no panic");
    }
}

/// The messages on disk, without what is remembered of threads.
fn files(dir: &Path) -> Vec<String> {
    let mut files = all_files(dir);
    files.retain(|file| !file.starts_with("threads/"));
    files
}

fn all_files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below").display().to_string());
            }
        }
    }
    found.sort();
    found
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn messages_arrive_in_order_with_id_and_token_and_leave_no_file() {
    let (dir, served) = (tempfile::tempdir().expect("folder"), Served::new([]).await);
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    for n in 0..20 {
        running.outbox.push(numbered(n));
    }
    running.drained().await;
    assert_eq!(served.ids(), (0..20).map(|n| format!("id-{n:04}")).collect::<Vec<_>>());
    {
        let seen = served.stub.seen.lock().expect("sound");
        let (_, headers, body) = &seen[7];
        assert_eq!(headers["idempotency-key"], "id-0007");
        assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(body["data"]["title"], "Rolled back: shop/web1 is on blue again");
    }
    assert_eq!(running.count("a", "delivered"), 20);
    assert_eq!(files(dir.path()), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn only_the_chats_named_are_told() {
    let dir = tempfile::tempdir().expect("folder");
    let (a, b) = (Served::new([]).await, Served::new([]).await);
    let running = Running::start(dir.path(), vec![chat("a", &a.url), chat("b", &b.url)]);
    running.outbox.push(Announcement {
        chats: vec!["b".into()],
        ..numbered(1)
    });
    running.outbox.push(numbered(2));
    running.drained().await;
    assert_eq!(
        (a.ids(), b.ids()),
        (vec!["id-0002".to_owned()], vec!["id-0001".into(), "id-0002".into()])
    );
    running.stop().await;
}

#[tokio::test]
async fn a_server_error_is_retried_before_the_next_message() {
    let dir = tempfile::tempdir().expect("folder");
    let served = Served::new([Answer::Status(500), Answer::Status(503), Answer::Status(200)]).await;
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    running.outbox.push(numbered(1));
    running.outbox.push(numbered(2));
    running.drained().await;
    assert_eq!(served.ids(), ["id-0001", "id-0001", "id-0001", "id-0002"]);
    assert_eq!((running.count("a", "retried"), running.count("a", "delivered")), (2, 2));
    running.stop().await;
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let dir = tempfile::tempdir().expect("folder");
    let served = Served::new([Answer::RetryAfter(1), Answer::Status(202)]).await;
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    running.outbox.push(numbered(1));
    running.drained().await;
    let times = served.times();
    assert_eq!(times.len(), 2);
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
    running.stop().await;
}

#[tokio::test]
async fn a_dead_webhook_gives_up_its_message_with_the_reason_and_goes_on() {
    let dir = tempfile::tempdir().expect("folder");
    let gone = Answer::Status(404);
    let served = Served::new([gone.clone(), gone.clone(), gone, Answer::Status(200)]).await;
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    running.outbox.push(numbered(1));
    running.outbox.push(numbered(2));
    running.drained().await;
    assert_eq!(served.ids(), ["id-0001", "id-0001", "id-0001", "id-0002"]);
    assert_eq!((running.count("a", "dropped"), running.count("a", "delivered")), (1, 1));
    assert_eq!(files(dir.path()), ["dead/a/id-0001.json"]);
    let dead = std::fs::read_to_string(dir.path().join("dead/a/id-0001.json")).expect("reads");
    assert!(dead.contains("the receiver knows no such address"), "{dead}");
    running.stop().await;
}

#[tokio::test]
async fn a_black_hole_delays_neither_the_other_chat_nor_push() {
    let dir = tempfile::tempdir().expect("folder");
    let (hole, well) = (Served::new([Answer::Silence]).await, Served::new([]).await);
    let patient = ChatSettings {
        timeout: Duration::from_secs(60),
        ..chat("hole", &hole.url)
    };
    let running = Running::start(dir.path(), vec![patient, chat("well", &well.url)]);
    // All of this runs on one thread: a push that waited for a chat, or for the disk, would wait for ever.
    for n in 0..50 {
        running.outbox.push(numbered(n));
    }
    running.until(|pending| pending == 50).await;
    assert_eq!((well.ids().len(), hole.ids().len()), (50, 1));
    let oldest = running.metrics.notification_oldest_pending.get();
    assert_eq!((oldest, running.metrics.notifications_pending.get()), (1_800_000_000, 50));
    // Within the patience of these tests, which is a sixth of the hole's.
    running.stop().await;
    assert_eq!(files(dir.path()).len(), 50, "what was not delivered waits on disk");
}

#[tokio::test]
async fn a_message_is_kept_once_every_chat_has_it_on_disk() {
    let dir = tempfile::tempdir().expect("folder");
    let hole = Served::new([Answer::Silence]).await;
    let running = Running::start(dir.path(), vec![chat("a", &hole.url), chat("b", &hole.url)]);
    assert!(running.outbox.push(numbered(1)).kept().await);
    assert_eq!(files(dir.path()), ["pending/a/id-0001.json", "pending/b/id-0001.json"]);
    assert!(running.outbox.push(numbered(1)).kept().await, "pushed before");
    running.stop().await;
}

#[tokio::test]
async fn what_the_disk_refuses_is_not_called_kept_and_is_sent_all_the_same() {
    let dir = tempfile::tempdir().expect("folder");
    let (hole, no_folder) = (Served::new([Answer::Silence]).await, dir.path().join("file"));
    std::fs::write(&no_folder, "").expect("writes");
    let running = Running::start(&no_folder, vec![chat("a", &hole.url)]);
    assert!(!running.outbox.push(numbered(1)).kept().await);
    eventually("it is sent from memory", || !hole.ids().is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_run_knows_what_an_earlier_one_left_open() {
    let dir = tempfile::tempdir().expect("folder");
    let (well, hole) = (Served::new([]).await, Served::new([Answer::Silence]).await);
    let chats = || vec![chat("a", &well.url), chat("b", &hole.url)];
    let about = |topic, thread: &str, n: u32| Announcement {
        id: format!("{thread}.{n}"),
        thread: thread.to_owned(),
        guard: numbered(n).guard,
        at: numbered(n).at,
        ..example(topic)
    };
    async fn left_open(running: &Running) -> Vec<OpenThread> {
        let mut left = None;
        eventually("the files have been read", || {
            left = running.outbox.take_left_open();
            left.is_some()
        })
        .await;
        assert_eq!(running.outbox.take_left_open(), None, "it is told once");
        left.unwrap_or_default()
    }

    let running = Running::start(dir.path(), chats());
    assert_eq!(left_open(&running).await, []);
    for (topic, thread, n) in [
        (Topic::Blind, "blind", 1),
        (Topic::Blind, "over", 1),
        (Topic::Sighted, "over", 2),
        (Topic::Switched, "once", 1),
    ] {
        assert!(running.outbox.push(about(topic, thread, n)).kept().await);
    }
    // One chat has heard it all and the other nothing.
    running.until(|pending| pending == 4).await;
    let open: Vec<String> = running
        .outbox
        .open_of(&numbered(1).guard)
        .into_iter()
        .map(|open| open.thread)
        .collect();
    assert_eq!(open, ["blind"], "as of now, whether told or about to be");
    assert_eq!(running.outbox.open_of(&GuardId::new("", "shop", "other").expect("valid")), []);
    running.stop().await;

    let running = Running::start(dir.path(), chats());
    let expected = OpenThread {
        thread: "blind".to_owned(),
        guard: numbered(1).guard,
        topic: Topic::Blind,
        since: numbered(1).at,
        incident: None,
    };
    assert_eq!(left_open(&running).await, [expected]);
    running.stop().await;
}

#[tokio::test]
async fn what_a_crash_left_is_sent_first_and_in_order() {
    let dir = tempfile::tempdir().expect("folder");
    let hole = Served::new([Answer::Silence]).await;
    let running = Running::start(dir.path(), vec![chat("a", &hole.url)]);
    for n in [3, 1, 2] {
        running.outbox.push(numbered(n));
    }
    // Written and under way, then gone as with kill -9: no stop, no drain.
    eventually("the first is under way", || !hole.ids().is_empty()).await;
    eventually("all are written", || files(dir.path()).len() == 3).await;
    running.task.abort();
    let _ = running.task.await;

    let well = Served::new([]).await;
    let (outbox, task) = Outbox::open(
        dir.path().to_owned(),
        vec![chat("a", &well.url)],
        Metrics::new().expect("registers"),
    );
    outbox.push(numbered(4));
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone(), CancellationToken::new(), Clock::new(wall)));
    eventually("all are delivered", || well.ids().len() == 4 && files(dir.path()).is_empty()).await;
    assert_eq!(well.ids(), ["id-0003", "id-0001", "id-0002", "id-0004"], "in the order of pushing");
    stop.cancel();
    timeout(PATIENCE, task).await.expect("ends").expect("no panic");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_does_not_stop_delivery() {
    let dir = tempfile::tempdir().expect("folder");
    let blocked = dir.path().join("outbox");
    std::fs::write(&blocked, "a file where the folder should be").expect("writes");
    let served = Served::new([Answer::Status(404), Answer::Status(404), Answer::Status(404), Answer::Status(200)]).await;
    let running = Running::start(&blocked, vec![chat("a", &served.url)]);
    running.outbox.push(numbered(1));
    running.outbox.push(numbered(2));
    running.drained().await;
    assert_eq!((running.count("a", "dropped"), running.count("a", "delivered")), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_stop_delivers_what_was_just_pushed() {
    let (dir, served) = (tempfile::tempdir().expect("folder"), Served::new([]).await);
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    running.outbox.push(numbered(1));
    running.stop().await;
    assert_eq!(served.ids(), ["id-0001"]);
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

/// Nobody waits here for the outbox but a process that has to end.
#[tokio::test]
async fn a_stop_in_a_hurry_waits_for_no_chat_and_loses_nothing() {
    let (dir, served) = (tempfile::tempdir().expect("folder"), Served::new([Answer::Silence]).await);
    let slow = ChatSettings {
        timeout: PATIENCE * 2,
        ..chat("a", &served.url)
    };
    let running = Running::start(dir.path(), vec![slow]);
    running.outbox.push(numbered(1));
    eventually("it is under way", || served.ids().len() == 1).await;
    running.outbox.push(numbered(2));
    // As pushed by a conductor that has used up all of the time.
    running.hurry.cancel();
    let stopped = Instant::now();
    running.stop().await;
    let took = stopped.elapsed();
    assert!(took < DRAIN, "it took {took:?}");
    assert_eq!(files(dir.path()), ["pending/a/id-0001.json", "pending/a/id-0002.json"]);
}

#[tokio::test]
async fn the_page_can_tell_how_each_chat_fares() {
    let dir = tempfile::tempdir().expect("folder");
    let gone = Answer::Status(404);
    let refuses = Served::new([gone.clone(), gone.clone(), gone, Answer::Status(200), Answer::Status(500)]).await;
    let (well, hole) = (Served::new([]).await, Served::new([Answer::Silence]).await);
    let running = Running::start(
        dir.path(),
        vec![chat("refuses", &refuses.url), chat("well", &well.url), chat("hole", &hole.url)],
    );
    let of = |name: &str| {
        let health = running.outbox.health();
        health.into_iter().find(|chat| chat.name == name).expect("configured")
    };
    let fresh = of("well");
    assert_eq!((fresh.kind.as_str(), fresh.delivered_at, fresh.trouble), ("webhook", None, None));

    running.outbox.push(numbered(1));
    eventually("the first is given up", || of("refuses").given_up == 1).await;
    let trouble = of("refuses").trouble.expect("in trouble");
    assert!(
        trouble.contains("404") && trouble.contains("the one it listens at") && !trouble.contains('\n'),
        "{trouble}"
    );
    assert_eq!(of("refuses").delivered_at, None);

    running.outbox.push(numbered(2));
    eventually("the second is accepted", || of("refuses").delivered_at.is_some()).await;
    assert_eq!((of("refuses").trouble, of("refuses").given_up), (None, 1));
    running.outbox.push(numbered(3));
    eventually("the third is in trouble", || {
        of("refuses").trouble.is_some_and(|why| why.contains("500"))
    })
    .await;

    eventually("the black hole is noticed", || of("hole").trouble.is_some()).await;
    let hole = of("hole");
    assert_eq!((hole.waiting, hole.waiting_since), (3, Some(numbered(1).at)));
    assert!(of("well").delivered_at.is_some() && of("well").waiting == 0);

    let given_up = running.outbox.take_given_up();
    let [given_up] = given_up.as_slice() else { panic!("{given_up:?}") };
    assert_eq!((given_up.chat.as_str(), &given_up.announcement), ("refuses", &numbered(1)));
    assert_eq!(given_up.why, trouble);
    assert_eq!(running.outbox.take_given_up(), [], "each is told once");
    running.stop().await;
}

#[tokio::test]
async fn what_has_no_room_is_given_up_and_told_within_bounds() {
    let dir = tempfile::tempdir().expect("folder");
    let (outbox, _task) = Outbox::open(
        dir.path().to_owned(),
        vec![chat("a", "http://127.0.0.1:1")],
        Metrics::new().expect("registers"),
    );
    for n in 0..1300 {
        outbox.push(numbered(n));
    }
    assert_eq!((outbox.pending(), outbox.health()[0].given_up), (1000, 300));
    assert_eq!(outbox.health()[0].trouble.as_deref(), Some(NO_ROOM));
    let told = outbox.take_given_up();
    assert_eq!(
        (told.len(), told.last().map(|last| last.announcement.id.as_str())),
        (256, Some("id-0299"))
    );
}

#[tokio::test]
async fn one_threads_refusals_do_not_hold_up_another_thread() {
    let dir = tempfile::tempdir().expect("folder");
    let served = Served::new([Answer::Status(500), Answer::Status(200)]).await;
    let running = Running::start(dir.path(), vec![chat("a", &served.url)]);
    let of = |n, thread: &str| Announcement {
        thread: thread.into(),
        ..numbered(n)
    };
    for message in [of(1, "x"), of(2, "x"), of(3, "y")] {
        running.outbox.push(message);
    }
    running.drained().await;
    assert_eq!(served.ids(), ["id-0001", "id-0003", "id-0001", "id-0002"]);
    running.stop().await;
}

/// A clock that each test of quiet repeats sets itself.
static QUIET_CLOCK: AtomicI64 = AtomicI64::new(1_800_000_000);

fn quiet_clock() -> Timestamp {
    Timestamp::from_second(QUIET_CLOCK.load(Ordering::Relaxed)).expect("in range")
}

#[tokio::test]
async fn repeats_are_held_across_a_crash_and_told_as_one() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (dir, served) = (tempfile::tempdir().expect("folder"), Served::new([]).await);
    let quiet = ChatSettings {
        quiet: Duration::from_secs(3600),
        ..chat("a", &served.url)
    };
    let start = || {
        let metrics = Metrics::new().expect("registers");
        let (outbox, task) = Outbox::open(dir.path().to_owned(), vec![quiet.clone()], metrics.clone());
        let stop = CancellationToken::new();
        (
            outbox,
            tokio::spawn(task.run(stop.clone(), CancellationToken::new(), Clock::new(quiet_clock))),
            stop,
            metrics,
        )
    };
    let blind = |n: u32| Announcement {
        id: format!("blind-{n}"),
        at: quiet_clock(),
        ..example(Topic::Blind)
    };
    let (outbox, task, _, metrics) = start();
    outbox.push(blind(0));
    eventually("the first is told at once", || {
        served.ids() == ["blind-0"] && files(dir.path()).is_empty()
    })
    .await;
    for n in 1..=3 {
        outbox.push(blind(n));
    }
    eventually("the others are held, as one file", || {
        outbox.pending() == 0 && files(dir.path()) == ["pending/a/blind-3.json"]
    })
    .await;
    assert_eq!(metrics.notifications.with_label_values(&["a", "grouped"]).get(), 2);
    assert_eq!(metrics.notification_oldest_pending.get(), 0, "a held message is not stuck");
    let held_since = quiet_clock();
    // As with kill -9.
    task.abort();
    let _ = task.await;

    QUIET_CLOCK.fetch_add(1800, Ordering::Relaxed);
    let (outbox, task, _, _) = start();
    outbox.push(blind(4));
    eventually("the window still holds", || {
        files(dir.path()) == ["pending/a/blind-4.json"] && outbox.pending() == 0
    })
    .await;
    assert_eq!(served.ids(), ["blind-0"]);
    task.abort();
    let _ = task.await;

    QUIET_CLOCK.fetch_add(1800, Ordering::Relaxed);
    let (_, task, stop, _) = start();
    eventually("the window is over", || served.ids().len() == 2 && files(dir.path()).is_empty()).await;
    {
        let seen = served.stub.seen.lock().expect("sound");
        let body = &seen[1].2;
        let text = body.to_string();
        assert!(
            text.contains("blind-4") && text.contains(&format!("\"repeats\":{{\"count\":4,\"since\":\"{held_since}\"}}")),
            "{text}"
        );
    }
    stop.cancel();
    timeout(PATIENCE, task).await.expect("ends").expect("no panic");
}

#[tokio::test]
async fn who_was_told_of_an_incident_is_told_of_its_end_after_a_restart_too() {
    let (dir, served) = (tempfile::tempdir().expect("folder"), Served::new([]).await);
    let mut critical = chat("a", &served.url);
    critical.filter.min_severity = crate::model::Severity::Critical;
    let of = |id: &str, thread: &str, topic| Announcement {
        id: id.into(),
        thread: thread.into(),
        ..example(topic)
    };
    let running = Running::start(dir.path(), vec![critical.clone()]);
    running.outbox.push(of("begins", "heard", Topic::RollbackInitiated));
    running.outbox.push(of("info", "heard", Topic::RollbackCompleted));
    running.outbox.push(of("warning", "unheard", Topic::RollbackSuppressed));
    running.drained().await;
    running.stop().await;
    assert_eq!(served.ids(), ["begins"]);

    let running = Running::start(dir.path(), vec![critical]);
    running.outbox.push(of("ends", "heard", Topic::Recovered));
    running.outbox.push(of("silence", "unheard", Topic::Recovered));
    running.outbox.push(of("last", "other", Topic::RollbackFailed));
    eventually("the last is told", || served.ids().contains(&"last".to_owned())).await;
    running.drained().await;
    assert_eq!(served.ids(), ["begins", "ends", "last"]);
    running.stop().await;
}

/// Everything that is logged, by every crate, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("sound").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_failure_ever_prints_the_url_or_the_token() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let dir = tempfile::tempdir().expect("folder");
    let echo = Served::new([Answer::Echo(404)]).await;
    let redirect = Served::new([Answer::Echo(307)]).await;
    let hole = Served::new([Answer::Silence]).await;
    let running = Running::start(
        dir.path(),
        vec![
            chat("echo", &echo.url),
            chat("redirect", &redirect.url),
            chat("hole", &hole.url),
            chat("closed", &format!("http://127.0.0.1:1/{SECRET}")),
            chat("garbage", &format!("not a URL {SECRET}")),
            chat("scheme", &format!("ftp://127.0.0.1/{SECRET}")),
        ],
    );
    running.outbox.push(numbered(1));
    eventually("each has failed", || {
        ["echo", "redirect", "garbage", "scheme"]
            .iter()
            .all(|chat| running.count(chat, "dropped") == 1)
            && ["hole", "closed"].iter().all(|chat| running.count(chat, "retried") >= 1)
    })
    .await;
    let shown = format!("{:?}", chat("x", &echo.url));
    let exposed = running.metrics.expose().expect("encodes");
    running.stop().await;

    let text = String::from_utf8_lossy(&log.0.lock().expect("sound")).into_owned();
    assert!(
        text.contains("Dropped message") && text.contains("the one it listens at"),
        "the log was captured: {text}"
    );
    let mut places = vec![("log", text), ("debug", shown), ("metrics", exposed)];
    for file in all_files(dir.path()) {
        places.push(("file", std::fs::read_to_string(dir.path().join(file)).expect("reads")));
    }
    for (place, text) in places {
        for secret in [SECRET, TOKEN] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{place} shows the secret: {line:?}");
        }
    }
}

#[tokio::test]
async fn other_chats_take_up_what_the_former_ones_were_not_told() {
    let dir = tempfile::tempdir().expect("folder");
    let (mute, spoken, new) = (
        Served::new([Answer::Status(503)]).await,
        Served::new([]).await,
        Served::new([]).await,
    );
    let running = Running::start(dir.path(), vec![chat("a", &mute.url), chat("gone", &mute.url)]);
    let before = running.outbox.clone();
    running.outbox.push(numbered(1));
    eventually("a first attempt", || !mute.ids().is_empty()).await;
    running.outbox.change_chats(vec![chat("a", &spoken.url), chat("new", &new.url)]);
    // Whoever got the outbox before the change pushes to the chats in force.
    before.push(numbered(2));
    eventually("both to arrive", || spoken.ids().len() == 2 && new.ids().len() == 1).await;
    assert_eq!(spoken.ids(), ["id-0001", "id-0002"], "in order, and none lost");
    assert_eq!(new.ids(), ["id-0002"]);
    assert!(!mute.ids().contains(&"id-0002".to_owned()));
    running.drained().await;
    let left: Vec<String> = files(dir.path());
    assert!(
        left.iter().all(|file| file.contains("gone")),
        "kept for a chat that may come back: {left:?}"
    );
    let names: Vec<String> = running.outbox.health().into_iter().map(|chat| chat.name).collect();
    assert_eq!(names, ["a", "new"]);
    let shown = running.metrics.expose().expect("encodes");
    let has = |chat: &str| shown.contains(&format!("chat=\"{chat}\""));
    assert_eq!((has("a"), has("new"), has("gone")), (true, true, false), "{shown}");
    running.stop().await;
}
