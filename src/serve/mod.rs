//! The daemon's window: `/metrics`, `/healthz`, `/readyz`, the API and the web page.
//!
//! It reads one `watch` channel of [`Status`] and writes one queue of [`Request`]s, and touches nothing else: it can
//! neither delay a judgement nor make one. Where it is told to, it hands out the files of the evidence ([`bundles`]). It refuses to act without a token, to answer a command sent through a
//! foreign host name ([`commands`]), and to grow: connections, headers, bodies, waiting times and live pages are
//! bounded, since it may be reachable by a whole cluster. It speaks plain HTTP/1 and listens on loopback unless told
//! otherwise; TLS is left to what stands in front of it.
//!
//! The accept loop is our own (30 lines over hyper) because axum's has neither a header limit, nor a limit of
//! connections, nor an end to a graceful stop.

mod bounds;
mod bundles;
mod commands;
mod feed;
mod fuzzed;
mod health;
mod routes;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use crate::{
    metrics::Metrics,
    model::{Command, CommandError, CommandReply, Status, settings::ServeSettings},
};
use bounds::{Peer, Places, Rates};
use feed::Feed;
pub use fuzzed::Fuzzed;
pub(crate) use fuzzed::{ANSWER_BYTES_MAX, Answer, BEHIND, TOKEN, request};
use health::Health;
use routes::Shared;

/// A few browsers, Prometheus and the probes need about ten; more is a mistake or an attack.
const CONNECTIONS_MAX: usize = 256;
/// hyper's buffer per connection, and with it the largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A client that has not sent its request's head by then, or idles between two requests, is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// No connection lives longer: a client that stopped reading cannot hold its place for ever. A page reconnects by itself.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(15 * 60);
/// What open requests get when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Accepting fails for lack of file descriptors, which a moment may cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A person's command on its way to the monitor, and the way back.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes; dropping it tells the person that the daemon is stopping.
    pub reply: oneshot::Sender<Result<CommandReply, CommandError>>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("failed to listen on {listen}: {remedy}")]
    Bind {
        /// The configured address.
        listen: SocketAddr,
        /// What to do.
        remedy: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// A bound server that answers once it is [run](Server::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    settings: ServeSettings,
    status: watch::Receiver<Arc<Status>>,
    commands: mpsc::Sender<Request>,
    metrics: Metrics,
}

/// Takes the configured address, so that a wrong one is known before anything is guarded.
///
/// # Errors
/// [`ServeError::Bind`] with what to do about it.
pub async fn bind(
    settings: ServeSettings,
    status: watch::Receiver<Arc<Status>>,
    commands: mpsc::Sender<Request>,
    metrics: Metrics,
) -> Result<Server, ServeError> {
    let listen = settings.listen;
    let failed = |source: io::Error| ServeError::Bind {
        listen,
        remedy: remedy(source.kind()),
        source,
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Server {
        listener,
        address,
        settings,
        status,
        commands,
        metrics,
    })
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            "another process, perhaps another flipback, listens there; stop it, or choose another port with `listen` in [serve] (port 0 takes any free one)"
        }
        io::ErrorKind::PermissionDenied => "this user may not take that port; choose one above 1023 with `listen` in [serve]",
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use 127.0.0.1, or 0.0.0.0 for every address, as `listen` in [serve]"
        }
        _ => "choose another address with `listen` in [serve]",
    }
}

impl Server {
    /// The address that was taken; the port is known even when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets open requests end for at most one second.
    pub async fn run(self, stop: CancellationToken) {
        info!(address = %self.address, "Listening");
        if !self.address.ip().is_loopback() && self.settings.token.is_none() {
            info!("Anybody who can reach this address can read the status; without a token nobody can act on it");
        }
        let health = Health::default();
        let shared = Shared {
            feed: Feed::new(self.status.clone(), stop.clone()),
            health: health.clone(),
            status: self.status.clone(),
            commands: self.commands,
            rates: Rates::new(self.metrics.clone()),
            metrics: self.metrics.clone(),
            token: self.settings.token,
            evidence: self.settings.evidence,
        };
        let app = routes::router(shared);
        let places = Places::new(CONNECTIONS_MAX, self.metrics);
        let connections = TaskTracker::new();
        let abort = CancellationToken::new();
        let heart = health.follow(self.status);
        let accept = async {
            loop {
                let Some(place) = places.any().await else {
                    break;
                };
                match self.listener.accept().await {
                    Ok((stream, address)) => {
                        let peer = Peer(address.ip());
                        let Some(place) = places.give(place, peer) else {
                            debug!(peer = %address, "Connection refused: too many from there");
                            continue;
                        };
                        let (app, stop, abort) = (app.clone(), stop.clone(), abort.clone());
                        connections.spawn(async move {
                            tokio::select! {
                                () = converse(stream, app, peer, stop) => {}
                                () = abort.cancelled() => {}
                            }
                            debug!(peer = %address, "Connection ended");
                            drop(place);
                        });
                    }
                    Err(error) => {
                        warn!(%error, "Failed to accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept => {}
            () = heart => {}
        }
        drop(self.listener);
        connections.close();
        if timeout(STOP_GRACE, connections.wait()).await.is_err() {
            abort.cancel();
            connections.wait().await;
        }
    }
}

/// One connection, to its end, to `stop`, or to the end of its life.
async fn converse(stream: TcpStream, app: axum::Router, peer: Peer, stop: CancellationToken) {
    // Small answers and one event per poll: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "Failed to set TCP_NODELAY");
    }
    let app = TowerToHyperService::new(app.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request
    }));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), app);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = sleep(CONNECTION_LIFE_MAX) => {
            connection.as_mut().graceful_shutdown();
            timeout(STOP_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "Connection broke");
    }
}

#[cfg(test)]
mod tests;
