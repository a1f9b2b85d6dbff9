//! A real S3 server on a loopback port: versitygw before a folder, which shows what it has really taken.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::net::TcpStream;

use super::{
    certs::Pair,
    eventually,
    process::{Folder, Process, free_port, skip},
};

/// The bucket there is.
pub const BUCKET: &str = "evidence";
/// Who may use it.
pub const ACCESS_KEY: &str = "flipback-test-user";
/// With which secret.
pub const SECRET_KEY: &str = "Zm9yIHRlc3RzIG9ubHkgaHVudGVyMg";
/// What it calls its region.
pub const REGION: &str = "eu-test-1";

/// A server with one bucket.
#[derive(Debug)]
pub struct S3 {
    program: PathBuf,
    folder: Folder,
    port: u16,
    tls: Option<Pair>,
    process: Option<Process>,
}

impl S3 {
    /// A server that is not started yet; `None` when its program is not built, which is said as [`skip`] does.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        let script = super::project().join("tests/s3/build.sh");
        let answer = Command::new("bash").arg(script).env("FLIPBACK_S3_FIND_ONLY", "1").output();
        let program = match answer {
            Ok(answer) if answer.status.success() => PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()),
            Ok(answer) => {
                skip(test, String::from_utf8_lossy(&answer.stderr).trim());
                return None;
            }
            Err(error) => {
                skip(test, &format!("bash does not start: {error}"));
                return None;
            }
        };
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path().join("root").join(BUCKET)).expect("ours");
        // Not every file system has extended attributes.
        std::fs::create_dir(folder.path().join("meta")).expect("ours");
        Some(Self {
            program,
            folder,
            port: free_port(),
            tls: None,
            process: None,
        })
    }

    /// The same behind TLS.
    #[must_use]
    pub fn with_tls(self, pair: Pair) -> Self {
        Self { tls: Some(pair), ..self }
    }

    /// Starts it, or starts it again on the same port; returns when it takes connections.
    pub async fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--access",
                ACCESS_KEY,
                "--secret",
                SECRET_KEY,
                "--region",
                REGION,
                "--quiet",
                "--keep-alive",
            ])
            .args(["--port", &format!("127.0.0.1:{}", self.port)]);
        if let Some(pair) = &self.tls {
            command.arg("--cert").arg(&pair.certificate).arg("--key").arg(&pair.key);
        }
        command.arg("posix").arg("--sidecar").arg(self.folder.path().join("meta"));
        command.arg(self.folder.path().join("root"));
        let mut process = Process::start("versitygw", command, self.folder.path().join("s3.log"));
        eventually("the S3 server", Duration::from_secs(60), || {
            process.must_live();
            let port = self.port;
            async move { TcpStream::connect(("127.0.0.1", port)).await.ok() }
        })
        .await;
        self.process = Some(process);
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Sends its process a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Where the bucket's objects lie as files.
    #[must_use]
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("root").join(BUCKET)
    }

    /// A place for the test's own files.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The options that lead here, by the names of the `object_store` crate.
    #[must_use]
    pub fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("aws_endpoint", self.url()),
            ("aws_region", REGION.to_owned()),
            ("aws_access_key_id", ACCESS_KEY.to_owned()),
            ("aws_secret_access_key", SECRET_KEY.to_owned()),
            ("allow_http", self.tls.is_none().to_string()),
        ]
    }

    /// The objects below a prefix.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> Vec<String> {
        let top = self.bucket();
        let mut found = Vec::new();
        let mut folders = vec![top.join(prefix)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(name(&path, &top));
                }
            }
        }
        found.sort();
        found
    }
}

fn name(path: &Path, top: &Path) -> String {
    path.strip_prefix(top).unwrap_or(path).display().to_string()
}
