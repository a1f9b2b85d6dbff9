//! A real mail server, aiosmtpd, as a process of its own, and what lies in its mailbox.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::support::{
    certs::Authority,
    process::{Folder, Process, free_port, skip},
    project,
};

/// Debian's Python, which has Debian's aiosmtpd; another one may come first on the `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// Python starts within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub const USER: &str = "flipback";
pub const PASSWORD: &str = "canary-5c1f77d0-mail";

/// A running mail server.
pub struct MailServer {
    process: Process,
    pub port: u16,
    folder: Folder,
    pub ca: PathBuf,
}

fn script() -> PathBuf {
    project().join("tests/receivers/smtpd.py")
}

/// Whether the server is installed; says so when it is not.
pub fn installed(test: &str) -> bool {
    let found = Command::new(PYTHON).args(["-c", "import aiosmtpd"]).output();
    let there = found.is_ok_and(|found| found.status.success());
    if !there {
        skip(test, "the package python3-aiosmtpd is not installed");
    }
    there
}

impl MailServer {
    /// Starts one: `starttls`, `tls` or `plain`, with or without a login.
    pub async fn start(mode: &str, login: bool) -> Self {
        let folder = Folder::new();
        let authority = Authority::new(&folder);
        let pair = authority.server(&folder, "mail");
        let port = free_port();
        let mut command = Command::new(PYTHON);
        let mailbox = folder.path().join("mailbox");
        command.arg(script()).args(["serve", &port.to_string(), mode]).arg(&mailbox);
        if mode != "plain" || login {
            command.args([&pair.certificate, &pair.key]);
        }
        if login {
            command.args([USER, PASSWORD]);
        }
        let mut process = Process::start("aiosmtpd", command, folder.path().join("log"));
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while !process.output().contains("ready") {
            process.must_live();
            assert!(tokio::time::Instant::now() < deadline, "the mail server does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            process,
            port,
            folder,
            ca: authority.ca,
        }
    }

    /// Makes it hang.
    pub fn stop(&self) {
        self.process.signal("STOP");
    }

    /// The mails it has taken, oldest first, as Python's own parser reads them.
    pub fn mails(&self) -> Vec<Value> {
        let new = self.folder.path().join("mailbox/new");
        let mut files: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(new)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        files.sort();
        files.into_iter().map(|(_, path)| parsed(&path)).collect()
    }
}

fn parsed(path: &std::path::Path) -> Value {
    let output = Command::new(PYTHON)
        .arg(script())
        .arg("parse")
        .arg(path)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
