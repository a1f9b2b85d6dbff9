//! The whole way in over HTTP, for fuzzers: the real router without a socket, and the real server on one. Behind both stands a monitor that
//! does whatever it is told, and a folder of evidence with something beside it that nobody may read.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, StatusCode, Uri, header};
use secrecy::SecretString;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{Request, bind, bounds::Rates, feed::Feed, health::Health, routes};
use crate::{
    metrics::Metrics,
    model::{
        Color, ColorStatus, CommandReply, GuardId, GuardStatus, Mode, Phase, Status,
        settings::{Secret, ServeSettings},
    },
};

/// What commands need here.
pub(crate) const TOKEN: &str = "let-me-in";
/// The content of a file that lies beside the evidence, and of one in it that is hidden.
pub(crate) const BEHIND: &str = "behind the door";
/// No answer is larger: a status of one guard, the page, a report.
pub(crate) const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A client that has said all it has to say is answered at once; one that goes on listening for longer says that it has no more to say.
const PATIENCE: Duration = Duration::from_millis(25);
/// After that the server has no reason to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// An answer, and whether the monitor was told to act.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Empty for a stream, which has no end.
    pub(crate) body: Vec<u8>,
    pub(crate) acted: bool,
}

/// Both ways in.
#[derive(Debug)]
pub struct Fuzzed {
    runtime: Runtime,
    address: SocketAddr,
    acted: Arc<AtomicU64>,
    commands: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<Status>>,
    metrics: Metrics,
    settings: ServeSettings,
    stop: CancellationToken,
    _status: watch::Sender<Arc<Status>>,
    _folder: tempfile::TempDir,
}

impl Fuzzed {
    /// Starts a server on a loopback port.
    pub(crate) fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let settings = ServeSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token: Some(Secret::Value(SecretString::from(TOKEN))),
            evidence: Some(evidence(folder.path())),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads can be started");
        let (sender, status) = watch::channel(Arc::new(shown()));
        let (commands, mut told) = mpsc::channel::<Request>(4);
        let acted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&acted);
        runtime.spawn(async move {
            while let Some(request) = told.recv().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = request.reply.send(Ok(CommandReply::Done { what: "done".into() }));
            }
        });
        let metrics = Metrics::new().expect("no two metrics share a name");
        let server = runtime.block_on(bind(settings.clone(), status.clone(), commands.clone(), metrics.clone()));
        let server = server.expect("loopback has a free port");
        let address = server.local_addr();
        let stop = CancellationToken::new();
        runtime.spawn(server.run(stop.clone()));
        Self {
            runtime,
            address,
            acted,
            commands,
            status,
            metrics,
            settings,
            stop,
            _status: sender,
            _folder: folder,
        }
    }

    /// How many commands have reached the monitor.
    pub(crate) fn acted(&self) -> u64 {
        self.acted.load(Ordering::SeqCst)
    }

    /// What the router answers to a request, nobody having asked before.
    pub(crate) fn ask(&self, request: HttpRequest<Body>) -> Answer {
        let before = self.acted();
        let (status, headers, body) = self.runtime.block_on(async {
            let answer = self.router().oneshot(request).await.unwrap_or_else(|never| match never {});
            let (head, body) = answer.into_parts();
            let endless = head
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind == "text/event-stream");
            let body = match endless {
                true => Vec::new(),
                false => to_bytes(body, ANSWER_BYTES_MAX)
                    .await
                    .expect("an answer is whole and has a bound")
                    .to_vec(),
            };
            (head.status, head.headers, body)
        });
        Answer {
            status,
            headers,
            body,
            acted: self.acted() > before,
        }
    }

    fn router(&self) -> Router {
        routes::router(routes::Shared {
            feed: Feed::new(self.status.clone(), self.stop.clone()),
            health: Health::default(),
            status: self.status.clone(),
            commands: self.commands.clone(),
            rates: Rates::new(self.metrics.clone()),
            metrics: self.metrics.clone(),
            token: self.settings.token.clone(),
            evidence: self.settings.evidence.clone(),
        })
    }

    /// What comes back over a socket for these bytes, until the server ends it, or begins a stream.
    pub(crate) fn send(&self, bytes: &[u8]) -> Vec<u8> {
        self.send_patiently(bytes, PATIENCE)
    }

    /// Whether a sound request is served.
    pub(crate) fn serves(&self) -> bool {
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        self.send_patiently(request, ANSWER_TIMEOUT).starts_with(b"HTTP/1.1 200")
    }

    fn send_patiently(&self, bytes: &[u8], patience: Duration) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("the server takes connections");
        stream.set_read_timeout(Some(patience)).expect("it is not zero");
        // It may have heard enough before it has heard all.
        let _ = stream.write_all(bytes);
        let (mut answer, mut over) = (Vec::new(), false);
        let mut piece = [0; 16 * 1024];
        loop {
            use std::io::ErrorKind;
            match stream.read(&mut piece) {
                Ok(0) => return answer,
                Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !over => {
                    over = true;
                    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("it is not zero");
                    let _ = stream.shutdown(Shutdown::Write);
                }
                // Reset: it had not read all that was sent.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
                Err(error) => panic!("no end of the answer: {error}"),
            }
            let streams = answer.windows(17).any(|window| window == b"text/event-stream");
            assert!(answer.len() <= 8 * ANSWER_BYTES_MAX, "an answer without a bound");
            if streams {
                return answer;
            }
        }
    }
}

impl Drop for Fuzzed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request out of bytes: a line of method and target, lines of headers, an empty line, the body. What no HTTP library could take apart
/// is left out, for that is what [`Fuzzed::send`] is for.
pub(crate) fn request(input: &[u8]) -> Option<HttpRequest<Body>> {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text
        .split_once("\n\n")
        .or_else(|| text.split_once("\r\n\r\n"))
        .unwrap_or((&text, ""));
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    let uri: Uri = words.next()?.parse().ok()?;
    let mut request = HttpRequest::new(Body::from(body.to_owned()));
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.trim().as_bytes()), HeaderValue::from_str(value.trim())) else {
            continue;
        };
        // More than a map can hold; the server's own bound on heads is far below.
        let _ = request.headers_mut().try_append(name, value);
    }
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    Some(request)
}

/// A folder of one incident, and what nobody may read: hidden in it, and beside it.
fn evidence(folder: &std::path::Path) -> std::path::PathBuf {
    let incidents = folder.join("incidents");
    let bundle = incidents.join("shop.web_1");
    std::fs::create_dir_all(&bundle).expect("the folder is ours");
    for (file, text) in [
        (bundle.join("report.html"), "<h1>why</h1>"),
        (bundle.join("app.log"), "a line"),
        (bundle.join(".pinned"), BEHIND),
        (folder.join("token"), BEHIND),
    ] {
        std::fs::write(file, text).expect("the folder is ours");
    }
    incidents
}

/// What there is to show: one guard that has seen nothing.
fn shown() -> Status {
    let color = |name: &str| Color::new(name).expect("a color");
    let guard = GuardStatus {
        shard: None,
        guard: GuardId::new("", "shop", "web").expect("a name"),
        mode: Mode::Enforce,
        object: "Service/web".into(),
        phase: Phase::Steady,
        why: "all well".into(),
        active: Some(color("green")),
        standby: Some(color("blue")),
        colors: vec![ColorStatus {
            color: color("green"),
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
        events: Vec::new(),
    };
    Status {
        version: "fuzzed".into(),
        poll_seconds: 5.0,
        guards: vec![guard],
        ..Status::default()
    }
}
