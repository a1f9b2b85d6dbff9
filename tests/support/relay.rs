//! A relay of bytes between the daemon and the API server, or Prometheus, which resets connections, or lets nothing through any more: nothing in between
//! understands what passes.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Cluster, Ground};

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    reset: watch::Sender<()>,
    silent: watch::Sender<bool>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Opens one to a cluster's API server.
    ///
    /// # Panics
    /// When the cluster is none of ours.
    pub async fn to(cluster: &Cluster) -> Self {
        Self::towards(cluster.url()).await
    }

    /// Opens one to whatever listens at the host and port of this URL.
    ///
    /// # Panics
    /// When these are no address.
    pub async fn towards(url: &str) -> Self {
        let (_, upstream) = url.split_once("://").expect("a URL");
        let upstream: SocketAddr = upstream.trim_end_matches('/').parse().expect("an address of our own");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (reset, silent) = (watch::Sender::new(()), watch::Sender::new(false));
        let (resets, silences) = (reset.clone(), silent.clone());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, upstream, resets.subscribe(), silences.subscribe()));
            }
        });
        Self {
            reset,
            silent,
            address,
            task,
        }
    }

    /// Opens one on the road from a daemon to the API server; it takes the road from its next start on.
    ///
    /// # Panics
    /// When the kubeconfig is none of ours.
    pub async fn before(ground: &Ground) -> Self {
        let relay = Self::to(&ground.cluster).await;
        let direct = ground.kubeconfig();
        let text = std::fs::read_to_string(&direct).expect("our own kubeconfig");
        let over: PathBuf = ground
            .folder
            .write("over-the-relay.yaml", text.replace(ground.cluster.url(), &relay.url()));
        ground.edit(&direct.display().to_string(), &over.display().to_string());
        relay
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API server's URL over this road.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Lets nothing through any more, in neither direction, and closes nothing: a partition. Or ends that: connections from before are
    /// closed then.
    pub fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
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

async fn until(silent: &mut watch::Receiver<bool>, is: bool) {
    // A relay that is gone has nothing more to say.
    let _ = silent.wait_for(|silent| *silent == is).await;
}

async fn carry(mut near: TcpStream, upstream: SocketAddr, mut reset: watch::Receiver<()>, mut silent: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(upstream).await else { return };
    let mut ended = silent.clone();
    let is_reset = tokio::select! {
        biased;
        () = until(&mut silent, true) => {
            until(&mut ended, false).await;
            false
        }
        _ = copy_bidirectional(&mut near, &mut far) => false,
        changed = reset.changed() => changed.is_ok(),
    };
    if is_reset {
        // Closed with nothing to linger for, a connection is reset.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}
