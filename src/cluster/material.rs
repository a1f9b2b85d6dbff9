//! What a connection is made of on disk, so that a rotated kubeconfig, certificate or key is noticed before the server refuses the old one.
//!
//! Compared by content, looked at every few seconds: a mounted Secret changes by a swapped link, a network file system tells nobody.
//! Token files are left to kube, which reads them again each minute without a new connection.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::config::Kubeconfig;
use sha2::{Digest as _, Sha256};

use crate::model::settings::ClusterSettings;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Bytes of one file; a kubeconfig with hundreds of clusters is a tenth of it.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The authority of the API server, as pods are given it.
const IN_CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A hash of everything that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Material([u8; 32]);

/// Reads everything there is; what cannot be read is a state too.
pub(super) async fn look(settings: &ClusterSettings) -> Option<Material> {
    let given = settings.kubeconfig.clone();
    // Files on a stuck mount must not stop the other tasks of this thread.
    tokio::task::spawn_blocking(move || read(given)).await.ok()
}

/// Resolves when the files no longer hold what they held.
pub(super) async fn changed(settings: &ClusterSettings, held: Option<Material>) {
    let mut last = held;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look(settings).await;
        // Twice alike: a file that is just being written is not read in the middle.
        if now != held && now == last {
            return;
        }
        last = now;
    }
}

fn read(given: Option<PathBuf>) -> Material {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| {
        use std::io::Read as _;
        let mut content = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content));
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update([u8::from(read.is_ok())]);
        hash.update(content.len().to_le_bytes());
        hash.update(&content);
    };
    for file in kubeconfigs(given) {
        add(&file);
        // Paths within are made absolute by kube.
        let named = Kubeconfig::read_from(&file)
            .map(|kubeconfig| named(&kubeconfig))
            .unwrap_or_default();
        named.iter().for_each(|path| add(Path::new(path)));
    }
    add(Path::new(IN_CLUSTER_CA));
    Material(hash.finalize().into())
}

/// The kubeconfig files, where kube looks for them.
fn kubeconfigs(given: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path];
    }
    match std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        Some(paths) => std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// The certificates and keys that a kubeconfig names.
fn named(kubeconfig: &Kubeconfig) -> Vec<String> {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.clone());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let pairs = users.flat_map(|user| [user.client_certificate.clone(), user.client_key.clone()]);
    authorities.chain(pairs.flatten()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    fn write(folder: &Path, name: &str, content: &str) {
        std::fs::write(folder.join(name), content).expect("writable");
    }

    #[test]
    fn certificates_that_a_kubeconfig_names_belong_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        write(
            folder.path(),
            "kubeconfig",
            "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ca.pem}}],
             users: [{name: u, user: {client-certificate: cert.pem, client-key: key.pem}}]}",
        );
        let mut seen = vec![read(Some(path.clone()))];
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            write(folder.path(), file, "one");
            seen.push(read(Some(path.clone())));
            write(folder.path(), file, "two");
            seen.push(read(Some(path.clone())));
        }
        for pair in seen.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        assert_eq!(Some(&read(Some(path))), seen.last(), "the same content is the same");
    }

    /// Also where the old one is still accepted: nobody refuses anything here.
    #[tokio::test]
    async fn a_rotated_kubeconfig_is_used_without_a_refusal() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let heard = Arc::new(Mutex::new(String::new()));
        let ear = heard.clone();
        let answer = move |headers: http::HeaderMap| {
            let token = headers
                .get("authorization")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            token.clone_into(&mut ear.lock().unwrap_or_else(PoisonError::into_inner));
            async { (http::StatusCode::INTERNAL_SERVER_ERROR, "{}") }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let server = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = |token: &str| {
            format!(
                "{{apiVersion: v1, kind: Config, current-context: x, clusters: [{{name: c, cluster: {{server: '{server}'}}}}],
                 users: [{{name: u, user: {{token: {token}}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}]}}"
            )
        };
        write(folder.path(), "kubeconfig", &kubeconfig("first"));
        let settings = ClusterSettings {
            kubeconfig: Some(folder.path().join("kubeconfig")),
            ..ClusterSettings::default()
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let metrics = crate::metrics::Metrics::new().expect("registers");
        let _cluster = super::super::Cluster::open(settings, ["shop".to_owned()].into(), metrics, stop.clone());
        let asked_with = async |wanted: &str| {
            let waited = async {
                while *heard.lock().unwrap_or_else(PoisonError::into_inner) != wanted {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), waited).await.is_ok()
        };
        assert!(asked_with("Bearer first").await);
        // A moment later than the clients were made: what they are made of is known by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        write(folder.path(), "kubeconfig", &kubeconfig("second"));
        assert!(asked_with("Bearer second").await);
        stop.cancel();
    }
}
