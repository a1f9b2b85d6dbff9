//! The smallest real control plane: etcd and kube-apiserver on loopback, with RBAC and three accounts. No controllers,
//! no node: pods are made Ready and EndpointSlices written by hand.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::time::Instant;

/// Token of an account that may do everything.
pub const ADMIN: &str = "admin-token";
/// Token of an account without any right.
pub const NOBODY: &str = "nobody-token";
/// Token of an account, `reader`, to which a test may give rights.
pub const READER: &str = "reader-token";

/// How long etcd and the API server may take to be ready; 4 s is usual on an idle machine.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// A running control plane; ends with its last owner.
pub struct ControlPlane {
    dir: tempfile::TempDir,
    assets: PathBuf,
    etcd: Mutex<Child>,
    api: Mutex<Option<Child>>,
    etcd_url: String,
    port: u16,
    ca: String,
}

/// The control plane that tests share, started by the first that asks; `None`, said on stderr, where parts are missing.
pub async fn shared(test: &str) -> Option<Arc<ControlPlane>> {
    static SHARED: tokio::sync::Mutex<Weak<ControlPlane>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(ControlPlane::start(test).await?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// Where the binaries are; `None`, said on stderr, where they are missing.
fn assets(test: &str) -> Option<PathBuf> {
    let required = std::env::var("FLIPBACK_REQUIRE_REAL_PARTS").is_ok_and(|value| value == "1");
    let missing = |what: &str| {
        assert!(!required, "{test}: {what} is missing");
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what} is missing; run make test");
        None
    };
    let mut etcd = Command::new("etcd");
    if quiet(etcd.arg("--version")).status().is_err() {
        return missing("etcd");
    }
    let mut build = Command::new("bash");
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envtest/build.sh"));
    // Building takes minutes. Where nobody asked for that, a `go` that fails leaves only what is already built.
    let shim = tempfile::tempdir().expect("creates");
    if !required {
        let go = shim.path().join("go");
        fs::write(&go, "#!/bin/sh\nexit 1\n").expect("writes");
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755)).expect("sets");
        let path = std::env::var("PATH").unwrap_or_default();
        build.env("PATH", format!("{}:{path}", shim.path().display()));
    }
    match build.stderr(Stdio::null()).output() {
        Ok(output) if output.status.success() => Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        _ => missing("kube-apiserver"),
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("bound").port()
}

impl ControlPlane {
    /// Starts one of its own, for a test that stops it; `None`, said on stderr, where parts are missing.
    pub async fn start(test: &str) -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let assets = assets(test)?;
        let dir = tempfile::tempdir().expect("creates");
        let ca = write_credentials(dir.path());
        let (client, peer) = (free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(dir.path().join("etcd")).args([
            "--listen-client-urls",
            &etcd_url,
            "--advertise-client-urls",
            &etcd_url,
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
            "--initial-cluster",
            &format!("default={peer_url}"),
        ]);
        let etcd = quiet(&mut etcd).spawn().expect("etcd starts");
        let plane = Self {
            dir,
            assets,
            etcd: Mutex::new(etcd),
            api: Mutex::new(None),
            etcd_url,
            port: free_port(),
            ca,
        };
        plane.start_api();
        plane.ready().await;
        Some(plane)
    }

    /// Starts the API server, on the same port as before.
    pub fn start_api(&self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let log = fs::File::create(self.dir.path().join("apiserver.log")).expect("creates");
        let child = Command::new(self.assets.join("kube-apiserver"))
            .args([
                format!("--etcd-servers={}", self.etcd_url),
                format!("--secure-port={}", self.port),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                "--endpoint-reconciler-type=none".into(),
                format!("--cert-dir={}", file("certs")),
                format!("--tls-cert-file={}", file("server.crt")),
                format!("--tls-private-key-file={}", file("server.key")),
                format!("--token-auth-file={}", file("tokens.csv")),
                "--authorization-mode=RBAC".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", file("sa.pub")),
                format!("--service-account-signing-key-file={}", file("sa.key")),
                "--service-cluster-ip-range=10.0.0.0/24".into(),
                "--disable-admission-plugins=ServiceAccount".into(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("kube-apiserver starts");
        *self.api.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }

    /// Kills the API server, as a crash would.
    pub fn kill_api(&self) {
        if let Some(mut child) = self.api.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the API server is ready.
    pub async fn ready(&self) {
        let begun = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("valid");
            if self.client(ADMIN).await.request_text(request).await.is_ok() {
                return;
            }
            let log = || fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap_or_default();
            assert!(begun.elapsed() < READY_TIMEOUT, "kube-apiserver is not ready:\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A kubeconfig for a token.
    pub fn kubeconfig(&self, token: &str) -> String {
        self.kubeconfig_with(token, &self.ca)
    }

    /// A kubeconfig for a token that trusts `ca`.
    pub fn kubeconfig_with(&self, token: &str, ca: &str) -> String {
        let ca_file = self.dir.path().join(format!("ca-{}.pem", rand::random::<u32>()));
        fs::write(&ca_file, ca).expect("writes");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: c, user: u}}}}]\n",
            self.port,
            ca_file.display()
        )
    }

    /// A plain client for a token.
    pub async fn client(&self, token: &str) -> Client {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(token)).expect("valid");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("valid");
        config.read_timeout = Some(Duration::from_secs(10));
        Client::try_from(config).expect("builds")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill_api();
        let etcd = self.etcd.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = etcd.kill();
        let _ = etcd.wait();
    }
}

/// A self-signed authority, as PEM, and its issuer.
pub fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generates");
    let mut params = CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("signs");
    (certificate.pem(), Issuer::new(params, key))
}

/// Writes what the API server starts from; returns the authority of its certificate.
fn write_credentials(dir: &Path) -> String {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("writes");
    let (ca, issuer) = authority();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generates");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("valid");
    write("server.crt", params.signed_by(&key, &issuer).expect("signs").pem());
    write("server.key", key.serialize_pem());
    let accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generates");
    write("sa.pub", accounts.public_key_pem());
    write("sa.key", accounts.serialize_pem());
    write(
        "tokens.csv",
        format!("{ADMIN},admin,1,system:masters\n{NOBODY},nobody,2\n{READER},reader,3\n"),
    );
    ca
}
