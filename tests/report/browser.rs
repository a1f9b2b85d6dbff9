//! A real Chromium with a width, a height and a color scheme, for files that are opened from disk.

use std::{
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

/// Several browsers at once on a small machine only make each other late.
static ONE_BROWSER: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(60);

/// What a page is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct Glass {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

/// A browser with chromedriver; both end with it.
pub struct Browser {
    pub client: Client,
    driver: Driver,
    _profile: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// chromedriver, leader of a process group that its browser is in.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// What the browser wrote to its console.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

/// Whether the browser is there; where it is not that is told, or is a failure when it must be.
pub fn is_there(test: &str) -> bool {
    for part in ["chromium", "chromedriver"] {
        let run = Command::new(part)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if let Err(error) = run {
            assert!(
                std::env::var_os("FLIPBACK_REQUIRE_REAL_PARTS").is_none_or(|value| value != "1"),
                "{part} is needed and does not run: {error}"
            );
            writeln!(std::io::stderr(), "SKIPPED {test}: {part} ({error}); run make test").expect("stderr");
            return false;
        }
    }
    true
}

impl Browser {
    pub async fn start(glass: Glass) -> Self {
        let turn = ONE_BROWSER.lock().await;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.expect("a free port").port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let driver = Driver(driver);
        let profile = tempfile::tempdir().expect("a folder");
        let fixed = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
                     --disable-component-update --disable-sync";
        let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        arguments.push(format!("--blink-settings=preferredColorScheme={}", u8::from(!glass.dark)));
        let metrics = json!({ "width": glass.width, "height": glass.height, "pixelRatio": 1, "mobile": glass.width < 600, "touch": false });
        let options = json!({ "args": arguments, "mobileEmulation": { "deviceMetrics": metrics } });
        let capabilities = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.as_object().expect("an object").clone());
        let connect = async {
            loop {
                match builder.connect(&format!("http://127.0.0.1:{port}")).await {
                    Ok(client) => break client,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let client = timeout(PATIENCE, connect).await.expect("chromedriver opens a session");
        Self {
            client,
            driver,
            _profile: profile,
            _turn: turn,
        }
    }

    pub async fn open(&self, file: &Path) {
        let address = url::Url::from_file_path(file).expect("an absolute path");
        self.client.goto(address.as_str()).await.expect("loads");
    }

    pub async fn value(&self, expression: &str) -> Value {
        self.client
            .execute(&format!("return {expression}"), Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Lines of the console that are warnings or errors.
    pub async fn complaints(&self) -> Vec<String> {
        let lines = self.client.issue_cmd(Console).await.expect("a console");
        let lines = lines.as_array().expect("lines").iter();
        lines
            .filter(|line| line["level"] != "INFO" && line["level"] != "DEBUG")
            .map(|line| line["message"].to_string())
            .collect()
    }

    pub async fn close(self) {
        self.client.close().await.expect("closes");
        drop(self.driver);
    }
}
