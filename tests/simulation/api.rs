//! The API server as one daemon meets it: the sandbox's control plane behind a road on which anything may happen.
//!
//! What the road does to a request is drawn by seed from the troubles that are on. Whether a write was carried out is
//! seen here, where it happens, and told to the world before any answer travels back.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::{Body, BodyDataStream, Bytes, to_bytes};
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio::{sync::Notify, time::Instant};
use tower::{BoxError, ServiceExt as _};

use crate::world::{LEASE, SERVICE, World};

/// How long a watch may be silent before the transport gives it up: a watch request lasts 30 s, and 5 s are the margin.
const SILENCE: Duration = Duration::from_secs(35);
/// What hyper says when no connection comes about.
const UNREACHABLE: &str = "client error (Connect)";

/// What may happen to a request on its way.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// Refused with this status, and not carried out.
    Refuse(u16),
    /// Swallowed: no answer, not carried out.
    Swallow,
    /// The connection breaks before anything was sent.
    Break,
    /// Carried out after so long, and answered.
    Slow(Duration),
    /// Carried out at once; the answer never comes.
    LoseAnswer,
    /// Carried out at once; the connection breaks in place of the answer.
    BreakAnswer,
    /// Carried out at once, and answered with this status as if it had not been.
    Deny(u16),
    /// Carried out after so long, whether or not anybody still waits; never answered.
    Late(Duration),
}

/// Which requests meet it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Requests {
    All,
    Reads,
    Writes,
}

/// The state of a daemon's road, as its open watches feel it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Road {
    /// Nothing arrives, and nobody notices.
    pub stalled: bool,
    /// Every connection is closed when this grows.
    pub cuts: u64,
    /// So much later than it happened does everything arrive.
    pub lag: Duration,
}

/// A daemon's road, and those who wait for it to change: woken in the order in which they wait, unlike those of a `watch` channel.
#[derive(Debug, Default)]
pub struct Signpost {
    road: Mutex<Road>,
    changed: Notify,
}

impl Signpost {
    pub fn road(&self) -> Road {
        *self.road.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, road: Road) {
        *self.road.lock().unwrap_or_else(PoisonError::into_inner) = road;
        self.changed.notify_waiters();
    }
}

/// One daemon's way to the API server.
#[derive(Clone)]
pub struct Way {
    pub world: World,
    pub daemon: usize,
}

impl Way {
    /// A client over this way.
    pub fn client(self) -> kube::Client {
        let service = tower::service_fn(move |request| self.clone().answer(request));
        kube::Client::new(service, "shop")
    }

    async fn answer(self, request: Request<kube::client::Body>) -> Result<Response<Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let bytes = to_bytes(Body::new(body), usize::MAX).await?;
        let token = flipback::sandbox::ControlPlane::token(flipback::sandbox::Who::Flipback);
        parts.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        let (read, path) = (parts.method == Method::GET, parts.uri.path().to_owned());
        let what = format!("{} {}", parts.method, parts.uri);
        let _ended = Ended {
            way: self.clone(),
            what: what.clone(),
        };
        let flip = !read && path == SERVICE;
        if flip {
            self.world.patch_sent(self.daemon);
        }
        if let Some(silent) = self.world.cut_off(self.daemon) {
            if silent {
                std::future::pending::<()>().await;
            }
            return Err(io::Error::other(UNREACHABLE).into());
        }
        let request = Request::from_parts(parts, bytes);
        let sent = Sent {
            at: Instant::now(),
            way: self.clone(),
        };
        match self.world.fate(self.daemon, read, &what) {
            None => sent.perform(request).await,
            Some(trouble) => {
                if flip {
                    self.world
                        .story
                        .tell(self.world.name(self.daemon), format!("its patch meets trouble: {trouble:?}"));
                }
                sent.meet(trouble, request).await
            }
        }
    }
}

/// A request, or an open watch, that is over, be it answered or given up: whoever waits before the next try draws from here on.
struct Ended {
    way: Way,
    what: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.way.world.shuffle(self.way.daemon, &self.what);
    }
}

/// A request on its way, and when it set out.
struct Sent {
    at: Instant,
    way: Way,
}

impl Sent {
    async fn meet(self, trouble: Trouble, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        match trouble {
            Trouble::Refuse(code) => Ok(refusal(code)),
            Trouble::Swallow => std::future::pending().await,
            Trouble::Break => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            Trouble::Slow(by) => {
                tokio::time::sleep(by).await;
                self.perform(request).await
            }
            Trouble::LoseAnswer => {
                drop(self.perform(request).await);
                std::future::pending().await
            }
            Trouble::BreakAnswer => {
                drop(self.perform(request).await);
                Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
            }
            Trouble::Deny(code) => {
                drop(self.perform(request).await);
                Ok(refusal(code))
            }
            Trouble::Late(by) => {
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    drop(self.perform(request).await);
                });
                std::future::pending().await
            }
        }
    }

    /// Has it carried out, and lets the world see what it changed.
    async fn perform(self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let Self { at, way } = self;
        let what = request.uri().to_string();
        let (write, path) = (request.method() != Method::GET, request.uri().path().to_owned());
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let before = write.then(|| way.world.plane.get(SERVICE)).flatten();
        let answered = way.world.server.clone().oneshot(request.map(Body::from)).await;
        let response = answered.unwrap_or_else(|never| match never {});
        if write {
            let after = way.world.plane.get(SERVICE);
            way.world.written(way.daemon, at, before.as_deref(), after.as_deref());
            if LEASE.starts_with(path.as_str()) && response.status().is_success() {
                way.world.leased();
            }
            if before != after && !way.world.patch_applied(way.daemon) {
                // Killed before it hears of it.
                std::future::pending::<()>().await;
            }
        }
        Ok(if watch { watched(&way, what, response) } else { response })
    }
}

fn refusal(code: u16) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "message": format!("simulated {code}"), "reason": "Simulated",
    });
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// An open watch on the road.
struct Watched {
    lines: BodyDataStream,
    signpost: Arc<Signpost>,
    cuts: u64,
    ended: bool,
    _ended: Ended,
}

/// Lets an open watch feel the road.
fn watched(way: &Way, what: String, response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let signpost = way.world.signpost(way.daemon);
    let cuts = signpost.road().cuts;
    let watched = Watched {
        lines: body.into_data_stream(),
        signpost,
        cuts,
        ended: false,
        _ended: Ended { way: way.clone(), what },
    };
    let lines = futures::stream::unfold(watched, |mut watched| async move {
        if watched.ended {
            return None;
        }
        let next = watched.next().await;
        watched.ended = !matches!(next, Some(Ok(_)));
        next.map(|next| (next, watched))
    });
    Response::from_parts(parts, Body::from_stream(lines))
}

impl Watched {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let silence = Instant::now() + SILENCE;
        loop {
            let changed = self.signpost.changed.notified();
            let road = self.signpost.road();
            if road.cuts != self.cuts {
                // Half of the time as a clean end, which is what a killed server gives.
                return (road.cuts.is_multiple_of(2)).then(|| Err(io::ErrorKind::ConnectionReset.into()));
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(silence) => return Some(Err(io::ErrorKind::TimedOut.into())),
                line = self.lines.next(), if !road.stalled => {
                    let line = line?;
                    if !road.lag.is_zero() {
                        tokio::time::sleep(road.lag).await;
                    }
                    return Some(line.map_err(io::Error::other));
                }
            }
        }
    }
}
