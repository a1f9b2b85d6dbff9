//! The testbed: a real etcd, kube-apiserver, kube-controller-manager and Prometheus on loopback ports, a node that is
//! none, small real applications, users who send requests, and chats that write down what they receive.
//!
//! It only offers parts and measures; what is right or wrong is said in the tests. Nothing here uses the rooms of
//! `src/`, so that a mistake in them cannot hide here. Integration tests take it in by `pub mod support;` (public, so
//! that what one test binary does not use is no dead code).

pub mod app;
pub mod audit;
pub mod bundle;
pub mod certs;
pub mod chat;
pub mod cluster;
pub mod kubelet;
pub mod node;
pub mod past;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod relay;
pub mod s3;
pub mod shop;
pub mod stage;
pub mod toll;
pub mod traffic;

pub use app::App;
pub use audit::AuditEvent;
pub use bundle::Bundles;
pub use chat::Chat;
pub use cluster::Cluster;
pub use process::{Assets, real_parts};
pub use prometheus::{Prometheus, Target};
pub use proxy::{Manner, Proxy};
pub use relay::Relay;
pub use s3::S3;
pub use shop::Shop;
pub use stage::{Daemon, Ground, Said, Stage};
pub use toll::{Held, Late, Toll};
pub use traffic::Traffic;

use std::{future::Future, path::PathBuf, time::Duration};

use jiff::Timestamp;

/// The time on the wall: what audit log, chats and traffic are compared by.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the testbed is the world, and the world has a clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Installs the TLS provider that reqwest and kube need; safe to repeat.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Asks again every 20 ms until there is an answer.
///
/// # Panics
/// When there is none within `limit`; says what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The project's folder.
#[must_use]
pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
