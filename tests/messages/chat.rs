//! Chats: HTTP servers on loopback that write down what they are sent and do as they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::process::Told;

/// What a chat does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Status(u16),
    /// 429, and in how many seconds again.
    Limit(u64),
    /// Takes the request and never answers.
    Hang,
    /// Takes the request and resets the connection.
    Reset,
    /// Begins to answer 200 and sends one byte at a time, for ever.
    Drip,
    /// Sends its answer's first line one byte at a time, for ever.
    DripHead,
    /// Answers 200, all but the last byte.
    AllButLast,
}

/// One request as a chat saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    /// What the message is about, which only its maker decides: `thread number`.
    pub thread: String,
    pub number: usize,
    pub key: String,
    pub receipt: Option<String>,
    pub answer: Answer,
    /// Its message was on disk when the request came.
    pub stored: bool,
}

type Manner = Box<dyn FnMut(&str, usize) -> Answer + Send>;

/// An HTTP server that does as it is told.
pub struct Chat {
    name: &'static str,
    seen: Arc<Mutex<Vec<Seen>>>,
    manner: Arc<Mutex<Manner>>,
    /// Whether requests are answered.
    pub gate: watch::Sender<bool>,
    url: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Chat {
    /// Starts one that the outbox in `folder` knows by `name`.
    pub async fn start(folder: &Path, name: &'static str, manner: impl FnMut(&str, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let manner: Arc<Mutex<Manner>> = Arc::new(Mutex::new(Box::new(manner)));
        let gate = watch::Sender::new(true);
        let pending = folder.join("pending").join(name);
        let (seen_, manner_, gate_) = (Arc::clone(&seen), Arc::clone(&manner), gate.clone());
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(serve(
                    stream,
                    pending.clone(),
                    Arc::clone(&seen_),
                    Arc::clone(&manner_),
                    gate_.subscribe(),
                ));
            }
        });
        Self {
            name,
            seen,
            manner,
            gate,
            url,
            server,
        }
    }

    pub fn set(&self, manner: impl FnMut(&str, usize) -> Answer + Send + 'static) {
        *self.manner.lock().expect("sound") = Box::new(manner);
    }

    pub fn told(&self, timeout: u64) -> Told {
        (self.name.to_owned(), self.url.clone(), timeout)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("sound").clone()
    }

    pub fn accepted(&self) -> BTreeSet<(String, usize)> {
        let seen = self.seen();
        let accepted = seen.iter().filter(|seen| matches!(seen.answer, Answer::Status(200..=299)));
        accepted.map(|seen| (seen.thread.clone(), seen.number)).collect()
    }

    /// Every thread in order, repeated requests included; a message always with the same key, and no two with one; each
    /// on disk before it was sent, unless the disk hung.
    pub fn check(&self) {
        let mut hung = 0;
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        let mut keys: BTreeMap<(String, usize), String> = BTreeMap::new();
        for seen in self.seen() {
            let before = newest.insert(seen.thread.clone(), seen.number);
            assert!(before.is_none_or(|before| before <= seen.number), "{seen:?} came after {before:?}");
            hung += usize::from(!seen.stored && !keys.contains_key(&(seen.thread.clone(), seen.number)));
            let key = keys.entry((seen.thread.clone(), seen.number)).or_insert_with(|| seen.key.clone());
            assert_eq!(*key, seen.key, "{seen:?}");
        }
        assert!(
            hung * 10 <= keys.len(),
            "{hung} of {} were sent before they were stored",
            keys.len()
        );
        let different: BTreeSet<&String> = keys.values().collect();
        assert_eq!(different.len(), keys.len(), "two messages with one key: {keys:?}");
    }
}

/// Reads one request and answers it.
async fn serve(
    mut stream: TcpStream,
    pending: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    manner: Arc<Mutex<Manner>>,
    mut gate: watch::Receiver<bool>,
) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let value: Value = serde_json::from_slice(&body).expect("JSON");
    let text = value.to_string();
    let (_, about) = text.split_once("<<").expect("made by this test");
    let (about, _) = about.split_once(">>").expect("made by this test");
    let (thread, number) = about.split_once(' ').expect("made by this test");
    let number: usize = number.parse().expect("made by this test");
    let key = value["id"].as_str().expect("an id").to_owned();
    if let Some(header) = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("idempotency-key: ").map(str::to_owned))
    {
        assert_eq!(header, key.to_ascii_lowercase());
    }
    let answer = manner.lock().expect("sound")(thread, number);
    seen.lock().expect("sound").push(Seen {
        at: Instant::now(),
        thread: thread.to_owned(),
        number,
        stored: pending.join(format!("{key}.json")).exists(),
        key,
        receipt: value["receipt"].as_str().map(str::to_owned),
        answer,
    });
    if gate.wait_for(|open| *open).await.is_err() {
        return;
    }
    respond(&mut stream, answer, &receipt(thread, number)).await;
}

/// What a message is answered.
pub fn receipt(thread: &str, number: usize) -> String {
    format!("receipt of {thread} {number}")
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())?;
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes.get(end + 4..)?.to_vec()));
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(buffer.get(..count)?),
            _ => return None,
        }
    }
}

/// The other side may be gone by now: that is what these tests are about.
async fn respond(stream: &mut TcpStream, answer: Answer, text: &str) {
    let head = |status: u16, more: &str, length: usize| {
        format!("HTTP/1.1 {status} So\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n")
    };
    match answer {
        Answer::Status(204) => drop(stream.write_all(b"HTTP/1.1 204 So\r\nconnection: close\r\n\r\n").await),
        Answer::Status(status) => drop(stream.write_all(format!("{}{text}", head(status, "", text.len())).as_bytes()).await),
        Answer::Limit(seconds) => {
            let head = head(429, &format!("retry-after: {seconds}\r\n"), 0);
            drop(stream.write_all(head.as_bytes()).await);
        }
        Answer::Hang => std::future::pending().await,
        // Closed with unread, or rather undelivered, data and no linger: the peer gets a reset.
        Answer::Reset => drop(stream.set_zero_linger()),
        Answer::Drip => {
            drop(stream.write_all(head(200, "", 1_000_000).as_bytes()).await);
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Answer::DripHead => {
            for byte in b"HTTP/1.1 200 So".iter().chain(std::iter::repeat(&b'o')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Answer::AllButLast => {
            let whole = format!("{}{text}", head(200, "", text.len()));
            drop(stream.write_all(whole.as_bytes().split_last().expect("not empty").1).await);
            std::future::pending().await
        }
    }
}
