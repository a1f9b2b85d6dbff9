//! The real outbox in a process of its own: this test binary once more, told by its environment what to do.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use flipback::{
    metrics::Metrics,
    model::{
        Announcement,
        settings::{Channel, ChatSettings, Secret},
    },
    notify::{self, DeliverError, Notifier, Outbox, Parcel},
};
use futures::{FutureExt, future::BoxFuture};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "FLIPBACK_TEST_OUTBOX";
const CHATS: &str = "FLIPBACK_TEST_CHATS";
/// How a line begins that says that a message cannot be lost any more.
const KEPT: &str = "kept ";

/// A chat of the other process: name, URL, and its timeout in milliseconds. One called `threads...` gives receipts.
pub type Told = (String, String, u64);

/// Posts what it has of a thread, and takes what it is answered for the receipt.
struct Receipts {
    chat: ChatSettings,
    client: reqwest::Client,
}

impl Notifier for Receipts {
    fn name(&self) -> &str {
        &self.chat.name
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Webhook { url, .. } = &self.chat.channel else {
                return Err(DeliverError::NotAUrl);
            };
            let url = url.read().map_err(DeliverError::Secret)?;
            let announcement = parcel.announcement;
            let body = json!({ "id": announcement.id, "why": announcement.why, "receipt": parcel.thread });
            let sent = self.client.post(url.expose_secret()).timeout(self.chat.timeout).json(&body).send();
            let answer = sent.await.map_err(DeliverError::Send)?;
            if !answer.status().is_success() {
                return Err(DeliverError::Status {
                    status: answer.status().as_u16(),
                    said: String::new(),
                    retry_after: None,
                });
            }
            answer.text().await.map(Some).map_err(DeliverError::Send)
        }
        .boxed()
    }
}

fn open(chat: &ChatSettings) -> Box<dyn Notifier> {
    if chat.name.starts_with("threads") {
        Box::new(Receipts {
            chat: chat.clone(),
            client: reqwest::Client::new(),
        })
    } else {
        notify::open(chat)
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge of a process")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests run it as a process of its own"]
async fn outbox_process() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Ok(chats) = std::env::var(CHATS) else {
        return; // Somebody runs ignored tests by hand.
    };
    let chats: Vec<Told> = serde_json::from_str(&chats).expect("JSON");
    let chats = chats.into_iter().map(|(name, url, timeout)| ChatSettings {
        timeout: Duration::from_millis(timeout),
        ..ChatSettings::new(
            name,
            Channel::Webhook {
                url: Secret::Value(SecretString::from(url)),
                token: None,
                signing_key: None,
            },
        )
    });
    let folder = PathBuf::from(std::env::var(FOLDER).expect("started by a test"));
    let (outbox, task) = Outbox::open_with(folder, chats.collect(), Metrics::new().expect("registers"), Arc::new(open));
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone(), CancellationToken::new(), flipback::model::Clock::new(now)));
    // Not through the harness, which would keep it.
    std::io::stdout().write_all(b"\nready\n").expect("a pipe");
    let runtime = tokio::runtime::Handle::current();
    let pushed = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines() {
            let announcement: Announcement = serde_json::from_str(&line.expect("a pipe")).expect("an announcement");
            let id = announcement.id.clone();
            let pushed = outbox.push(announcement);
            runtime.spawn(async move {
                if pushed.kept().await {
                    // Whole in one write, and gone with the pipe where the test has what it wants.
                    let _ = std::io::stdout().write_all(format!("{KEPT}{id}\n").as_bytes());
                }
            });
        }
    });
    pushed.await.expect("reads to the end");
    stop.cancel();
    task.await.expect("no panic");
}

/// The outbox in its own process.
pub struct Process {
    child: Child,
    pipe: Option<ChildStdin>,
    /// Reads to the end what it says: the ids of the messages that it says cannot be lost any more.
    said: JoinHandle<()>,
    kept: Arc<Mutex<BTreeSet<String>>>,
}

impl Process {
    /// Starts it, and waits until it takes messages.
    pub fn start(folder: &Path, chats: &[Told]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "process::outbox_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(CHATS, serde_json::to_string(chats).expect("serializes"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let pipe = child.stdin.take();
        let mut out = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let ready = out.any(|line| line == "ready");
        let kept = Arc::new(Mutex::new(BTreeSet::new()));
        let heard = Arc::clone(&kept);
        let said = std::thread::spawn(move || {
            for id in out.filter_map(|line| line.strip_prefix(KEPT).map(str::to_owned)) {
                heard.lock().expect("no panic").insert(id);
            }
        });
        let started = Self { child, pipe, said, kept };
        assert!(ready, "the outbox did not start");
        started
    }

    /// Hands a message over.
    pub fn push(&mut self, announcement: &Announcement) {
        let mut line = serde_json::to_vec(announcement).expect("serializes");
        line.push(b'\n');
        self.pipe.as_mut().expect("open").write_all(&line).expect("a pipe");
    }

    /// The ids of the messages that it has promised not to lose, so far.
    pub fn kept(&self) -> BTreeSet<String> {
        self.kept.lock().expect("no panic").clone()
    }

    /// SIGKILL; returns the ids of the messages that it had promised not to lose.
    pub fn kill(mut self) -> BTreeSet<String> {
        self.child.kill().expect("runs");
        self.child.wait().expect("ends");
        self.said.join().expect("reads to the end");
        std::mem::take(&mut *self.kept.lock().expect("no panic"))
    }

    /// An ordinary stop: it drains and leaves.
    pub async fn stop(mut self) {
        self.pipe = None;
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await.expect("no panic");
        assert!(status.expect("ends").success());
    }
}
