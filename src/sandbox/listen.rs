//! One small HTTP/1 server: everything of the sandbox that listens, listens through this.
//!
//! It exists because a part of the sandbox must be able to *die*: `axum::serve` waits for its connections, while a
//! crashed process drops them. Here a stopped server closes its port and its connections after a grace of its own.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Connections one server holds at a time; the sandbox has a handful of clients.
const CONNECTIONS_MAX: usize = 1024;

/// A server that listens until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

/// What becomes of open connections when the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// They are dropped, as by a crash.
    Abrupt,
    /// Answers in progress are finished for a moment.
    Graceful,
}

/// How long [`Ending::Graceful`] waits.
const GRACE: Duration = Duration::from_millis(200);

impl Listening {
    /// Binds `at` and serves `app` on it.
    pub(super) async fn start(at: SocketAddr, app: axum::Router, ending: Ending) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, app, ending, stop.clone()));
        Ok(Self {
            address,
            stop,
            task: Some(task),
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and every connection, and returns when that is done.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panicked accept loop has closed its port as well.
            let _ = task.await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, app: axum::Router, ending: Ending, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                // An error of accept is the peer's or a momentary lack of descriptors: the next one is taken.
                if let Ok((stream, _)) = accepted {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, app.clone(), ending, stop.clone()));
                }
            }
        }
    }
    drop(listener);
    if ending == Ending::Graceful {
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    }
    connections.shutdown().await;
}

async fn serve(stream: tokio::net::TcpStream, app: axum::Router, ending: Ending, stop: CancellationToken) {
    let service = TowerToHyperService::new(app);
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // How a connection ended is the client's affair.
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            if ending == Ending::Graceful {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}
