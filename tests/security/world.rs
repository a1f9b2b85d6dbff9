//! Everything that flipback talks to besides Kubernetes, in one place: chats, a Prometheus, a store for evidence, a mail server. It writes
//! down every request whole, and where it is told to refuses each with all that was sent to it: URL, headers and body.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What was sent to one of the places.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The first part of the path; `mail` for a mail.
    pub place: String,
    /// Everything that was sent, as text.
    pub all: String,
}

#[derive(Debug, Default)]
struct Inner {
    heard: Mutex<Vec<Heard>>,
    hostile: AtomicBool,
}

impl Inner {
    fn hear(&self, place: &str, all: String) {
        let place = place.to_owned();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(Heard { place, all });
    }
}

/// A running world.
#[derive(Debug)]
pub struct World {
    inner: Arc<Inner>,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where it speaks SMTP.
    pub mail: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl World {
    /// Starts one that is friendly.
    pub async fn start() -> Self {
        let inner: Arc<Inner> = Arc::default();
        let web = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let post = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let (http, mail) = (web.local_addr().expect("bound"), post.local_addr().expect("bound"));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(web, app).await;
        });
        let shared = Arc::clone(&inner);
        let receiving = tokio::spawn(async move {
            while let Ok((stream, _)) = post.accept().await {
                let inner = Arc::clone(&shared);
                tokio::spawn(async move { receive(stream, &inner).await });
            }
        });
        Self {
            inner,
            http,
            mail,
            tasks: [serving, receiving],
        }
    }

    /// From now on everything is refused with what was sent, or no longer.
    pub fn set_hostile(&self, hostile: bool) {
        self.inner.hostile.store(hostile, Ordering::Relaxed);
    }

    /// Everything that was sent so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn answer(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let text = String::from_utf8_lossy(&body);
    let mut sent = format!("{method} {uri}\n");
    for (name, value) in &headers {
        sent.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let all = format!("{sent}\n{text}");
    let place = uri.path().split('/').nth(1).unwrap_or_default().to_owned();
    inner.hear(&place, all.clone());
    if inner.hostile.load(Ordering::Relaxed) {
        return refused(&place, all);
    }
    let json = |value: Value| ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response();
    match place.as_str() {
        "prometheus" => json(json!({"status": "success", "data": {"resultType": "vector", "result": []}})),
        "slackbot" => json(json!({
            "ok": true, "channel": "C0123456789", "ts": "1795234354.000001", "messages": [], "has_more": false, "file_id": "F1",
            "files": [], "upload_url": format!("http://{}/slackbot/upload", headers[header::HOST].to_str().expect("text")),
        })),
        "pagerduty" => (
            StatusCode::ACCEPTED,
            json(json!({"status": "success", "message": "Event processed", "dedup_key": "k"})),
        )
            .into_response(),
        "s3" => ([(header::ETAG, "\"etag\"")], "").into_response(),
        _ => json(json!({"id": "1", "channel_id": "2", "ok": true})),
    }
}

/// What the rudest of servers would say.
fn refused(place: &str, all: String) -> Response {
    match place {
        "prometheus" => {
            let body = json!({"status": "error", "errorType": "bad_data", "error": all});
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                [(header::CONTENT_TYPE, "application/json")],
                body.to_string(),
            )
                .into_response()
        }
        "slackbot" => (
            [(header::CONTENT_TYPE, "application/json")],
            json!({"ok": false, "error": all}).to_string(),
        )
            .into_response(),
        "s3" => {
            let body = format!("<Error><Code>SignatureDoesNotMatch</Code><Message>{all}</Message></Error>");
            (StatusCode::FORBIDDEN, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
        }
        "kubernetes" => {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Unauthorized", "code": 401, "message": "Unauthorized"});
            (
                StatusCode::UNAUTHORIZED,
                [(header::CONTENT_TYPE, "application/json")],
                body.to_string(),
            )
                .into_response()
        }
        _ => (StatusCode::BAD_REQUEST, all).into_response(),
    }
}

/// One conversation of SMTP with a login.
async fn receive(stream: TcpStream, inner: &Inner) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut all = String::new();
    let mut in_data = false;
    let mut asked = None;
    if write.write_all(b"220 mail.invalid ESMTP\r\n").await.is_err() {
        return;
    }
    while let Ok(Some(line)) = lines.next_line().await {
        all.push_str(&line);
        all.push('\n');
        if in_data && line != "." {
            continue;
        }
        let hostile = inner.hostile.load(Ordering::Relaxed);
        let upper = line.to_ascii_uppercase();
        let login = upper.starts_with("AUTH") || asked.is_some();
        let reply = match () {
            () if in_data => {
                in_data = false;
                "250 taken".to_owned()
            }
            () if upper.starts_with("EHLO") => "250-mail.invalid\r\n250 AUTH PLAIN LOGIN".to_owned(),
            () if upper == "AUTH LOGIN" => {
                asked = Some(2);
                format!("334 {}", BASE64_STANDARD.encode("Username:"))
            }
            () if asked == Some(2) => {
                asked = Some(1);
                format!("334 {}", BASE64_STANDARD.encode("Password:"))
            }
            // It says whom it does not believe, in full.
            () if login && hostile => format!("535 5.7.8 {line} {}", plain(&line)),
            () if login => {
                asked = None;
                "235 welcome".to_owned()
            }
            () if upper == "DATA" => {
                in_data = true;
                "354 go on".to_owned()
            }
            () if upper == "QUIT" => "221 bye".to_owned(),
            () => "250 fine".to_owned(),
        };
        if write.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() || upper == "QUIT" {
            break;
        }
    }
    inner.hear("mail", all);
}

/// What is in the base64 at a line's end.
fn plain(line: &str) -> String {
    let last = line.rsplit(' ').next().unwrap_or_default();
    let bytes = BASE64_STANDARD.decode(last).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
