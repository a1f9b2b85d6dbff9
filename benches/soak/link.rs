//! The road to the API server, which can be cut: connections are handed on byte by byte, TLS untouched.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They are handed on, in this life of the road.
    Open(u64),
    /// None is taken, and those that were are cut.
    Closed,
}

/// A road.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens one to `upstream`, `127.0.0.1:port`.
    pub async fn open(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(watch::Sender::new(State::Open(0)));
        let seen = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut state = seen.subscribe();
                let born = *state.borrow_and_update();
                let upstream = upstream.clone();
                if born == State::Closed {
                    continue;
                }
                tokio::spawn(async move {
                    let carried = async {
                        let mut client = client;
                        let mut server = TcpStream::connect(upstream).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        _ = carried => {}
                        _ = state.wait_for(|now| *now != born) => {}
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// Where it begins.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Cuts every connection; new ones are taken at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = match state {
                State::Open(life) => State::Open(*life + 1),
                State::Closed => State::Closed,
            }
        });
    }

    /// Cuts every connection, and refuses new ones or takes them again.
    pub fn close(&self, closed: bool) {
        self.state.send_modify(|state| {
            *state = match (closed, *state) {
                (true, _) => State::Closed,
                (false, State::Open(life)) => State::Open(life),
                // Any life will do: no connection lived through the closing.
                (false, State::Closed) => State::Open(0),
            }
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
