//! A relay of bytes between the daemon and the API server, which resets connections: nothing in between understands what passes.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::Ground;

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    reset: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Opens one on the road from a daemon to the API server; it takes the road from its next start on.
    ///
    /// # Panics
    /// When the kubeconfig is none of ours.
    pub async fn before(ground: &Ground) -> Self {
        let upstream = ground.cluster.url().trim_start_matches("https://");
        let upstream: SocketAddr = upstream.parse().expect("our own API server's address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let direct = ground.kubeconfig();
        let text = std::fs::read_to_string(&direct).expect("our own kubeconfig");
        let over: PathBuf = ground
            .folder
            .write("over-the-relay.yaml", text.replace(&upstream.to_string(), &address.to_string()));
        ground.edit(&direct.display().to_string(), &over.display().to_string());
        let reset = watch::Sender::new(());
        let resets = reset.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, upstream, resets.subscribe()));
            }
        });
        Self { reset, task }
    }

    /// Resets every connection that there is.
    pub fn reset(&self) {
        self.reset.send_replace(());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, upstream: SocketAddr, mut reset: watch::Receiver<()>) {
    let Ok(mut far) = TcpStream::connect(upstream).await else { return };
    let is_reset = tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => false,
        changed = reset.changed() => changed.is_ok(),
    };
    if is_reset {
        // Closed with nothing to linger for, a connection is reset.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}
