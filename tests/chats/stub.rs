//! An HTTP server that answers as it is told to, hangs, drips or resets; and remembers every request whole.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Lower-case names.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The fields of a form.
    pub fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The content of one part of a multipart body.
    pub fn part(&self, name: &str) -> Option<Vec<u8>> {
        let kind = self.headers.get("content-type")?;
        let boundary = format!("--{}", kind.split("boundary=").nth(1)?.trim_matches('"'));
        let wanted = format!("name=\"{name}\"");
        let mut rest = self.body.as_slice();
        while let Some(at) = find(rest, boundary.as_bytes()) {
            let part = &rest[at + boundary.len()..];
            let end = find(part, boundary.as_bytes())?;
            let split = find(part, b"\r\n\r\n")?;
            if String::from_utf8_lossy(&part[..split]).contains(&wanted) {
                return Some(part[split + 4..end - 2].to_vec());
            }
            rest = &part[end..];
        }
        None
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Json(u16, Value),
    Text(u16, &'static str),
    /// With `Retry-After`.
    Later(u16, &'static str, Value),
    /// The connection is reset, the answer unsaid.
    Reset,
    /// Nothing, for longer than anybody waits.
    Hang,
    /// One byte of the answer now and then, for ever.
    Drip,
}

type Handler = Box<dyn FnMut(&Request) -> Answer + Send>;

struct Shared {
    requests: Vec<Request>,
    handler: Handler,
}

/// The server; it ends with its owner.
pub struct Stub {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stub {
    pub async fn start(handler: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(Shared {
            requests: Vec::new(),
            handler: Box::new(handler),
        }));
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        });
        Self { address, shared, task }
    }

    /// A webhook's URL, with a secret in it.
    pub fn url(&self) -> String {
        format!("http://{}/hooks/very-secret-path", self.address)
    }

    /// The requests since this was asked last.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.shared).requests)
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let answer = {
            let mut shared = lock(&shared);
            shared.requests.push(request.clone());
            (shared.handler)(&request)
        };
        let (status, after, body) = match answer {
            Answer::Json(status, body) => (status, None, body.to_string()),
            Answer::Text(status, body) => (status, None, body.to_owned()),
            Answer::Later(status, after, body) => (status, Some(after), body.to_string()),
            Answer::Reset => {
                let _ = stream.get_ref().set_zero_linger();
                return;
            }
            Answer::Hang => return tokio::time::sleep(Duration::from_secs(3600)).await,
            Answer::Drip => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
                while stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                return;
            }
        };
        let after = after.map(|after| format!("retry-after: {after}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n{after}\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One request with a `Content-Length`; `None` at the end of the connection.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().expect("a number"))];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { target, headers, body })
}
