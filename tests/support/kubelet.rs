//! The one thing of a kubelet that the API server asks for on behalf of others: container logs, over HTTPS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{certs::Pair, node::Logs};

/// Answers the question for one container's log.
pub type Source = Arc<dyn Fn(&str, &str, &str) -> Option<Logs> + Send + Sync>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    #[serde(default)]
    previous: bool,
}

/// Serves on a free loopback port of the current runtime, for as long as that runs; returns the port.
pub async fn serve(pair: &Pair, source: Source) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(&pair.certificate).expect("our own certificate")];
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("our own key");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a sound pair");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = tcp.local_addr().expect("bound");
    let listener = Tls {
        tcp,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let app = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .with_state(source);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn logs(
    State(source): State<Source>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let Some(logs) = source(&namespace, &pod, &container) else {
        return (StatusCode::NOT_FOUND, format!("pod {pod:?} not found\n")).into_response();
    };
    let text = if wanted.previous { logs.previous } else { Some(logs.current) };
    let Some(text) = text else {
        let said = format!("previous terminated container {container:?} in pod {pod:?} not found\n");
        return (StatusCode::BAD_REQUEST, said).into_response();
    };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let from = wanted.tail_lines.map_or(0, |tail| lines.len().saturating_sub(tail));
    let mut bytes = lines.get(from..).unwrap_or_default().concat().into_bytes();
    if let Some(limit) = wanted.limit_bytes {
        bytes.truncate(limit);
    }
    bytes.into_response()
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(2), self.acceptor.accept(stream)).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
