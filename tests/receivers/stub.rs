//! An HTTP server of raw sockets, since it must also do what no server should: be silent, hang up, repeat what it was sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How a request is met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    /// Answered with this status.
    Status(u16),
    /// The same, and asked to wait for so many seconds.
    Later(u16, u32),
    /// Answered with 400 and everything that was sent.
    Echo,
    /// Never answered.
    Hang,
    /// The connection is reset.
    Reset,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

pub struct Stub {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Stub {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(meet(stream, manner, Arc::clone(&all)));
            }
        });
        Self { address, seen, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn meet(mut stream: TcpStream, manner: Manner, seen: Arc<Mutex<Vec<Request>>>) {
    let Some(request) = read(&mut stream).await else { return };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let answer = |status: u16, further: &str, body: &str| {
        format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{further}\r\n{body}",
            body.len()
        )
    };
    let text = match manner {
        Manner::Status(204) => "HTTP/1.1 204 X\r\nconnection: close\r\n\r\n".to_owned(),
        Manner::Status(status) => answer(status, "", "said"),
        Manner::Later(status, seconds) => answer(status, &format!("retry-after: {seconds}\r\n"), "slower"),
        Manner::Echo => answer(400, "", &format!("{}\n{}", request.head, String::from_utf8_lossy(&request.body))),
        Manner::Hang => std::future::pending().await,
        Manner::Reset => {
            let _ = stream.set_zero_linger();
            return;
        }
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let body = bytes.split_off(head + 4);
    let mut request = Request {
        head: String::from_utf8_lossy(&bytes).into_owned(),
        body,
    };
    let length: usize = request.header("content-length")?.trim().parse().ok()?;
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}
