//! Child processes that end when the test ends, however it ends, and where their binaries are.
//!
//! A `Drop` is not run for statics, nor on `kill -9`; a shared cluster would outlive its tests. So one small shell per
//! test binary, the reaper, holds the read end of a pipe: told of every process group and folder, it ends and removes
//! what is left when the pipe closes, which the kernel does in any case.

use std::{
    fs::File,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rand::Rng;

/// Reads `group N`, `gone N` and `folder PATH` until the pipe closes, then ends the groups and removes the folders. A group that is
/// said to be gone twice changes nothing: both halves around what is not there are the whole, and the list would double.
const REAPER: &str = r#"
groups=" "
folders=""
while read -r word what; do
  case $word in
    group) groups="$groups$what " ;;
    gone) case $groups in *" $what "*) groups="${groups%% $what *} ${groups#* $what }" ;; esac ;;
    folder) folders="$folders$what
" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
printf '%s' "$folders" | while read -r folder; do rm -rf -- "$folder"; done
"#;

struct Reaper(Mutex<Child>);

impl Reaper {
    fn get() -> &'static Self {
        static REAPER_PROCESS: OnceLock<Reaper> = OnceLock::new();
        REAPER_PROCESS.get_or_init(|| {
            let child = Command::new("sh")
                .args(["-c", REAPER])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .expect("sh starts");
            Self(Mutex::new(child))
        })
    }

    fn tell(line: &str) {
        let mut child = Self::get().0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = child.stdin.as_mut() {
            writeln!(pipe, "{line}").expect("the reaper lives as long as we do");
        }
    }
}

/// A temporary folder that is removed on `Drop`, and by the reaper where no `Drop` runs.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("flipback-test-")
            .tempdir()
            .expect("the temporary folder is writable");
        Reaper::tell(&format!("folder {}", folder.path().display()));
        Self(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into it and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("the folder is ours");
        }
        // Tests that share a cluster write the same file while others read it: whole or not at all.
        let beside = tempfile::NamedTempFile::new_in(path.parent().expect("a file lies in a folder")).expect("the folder is ours");
        std::fs::write(&beside, content).expect("the folder is ours");
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o644)).expect("the file is ours");
        beside.persist(&path).expect("the folder is ours");
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// A process in a group of its own, with its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both its outputs are appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let open = || File::options().create(true).append(true).open(&log).expect("the log file is ours");
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Reaper::tell(&format!("group {}", child.id()));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Its process id, which is its group's id too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Sends a signal by its name (`TERM`, `KILL`, `STOP`, `CONT`) to the whole group.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("sh")
            .args(["-c", &format!("kill -s {name} -- -{} 2>/dev/null", self.id())])
            .status();
    }

    /// Waits for its end; `None` when it still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if tokio::time::Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal("KILL");
            let _ = self.child.wait();
        }
        Reaper::tell(&format!("gone {}", self.id()));
    }

    /// Fails with the end of its output when it has ended.
    ///
    /// # Panics
    /// When it has ended.
    pub fn must_live(&mut self) {
        if let Some(status) = self.ended() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(15).collect();
            panic!(
                "{} ended with {status}:\n{}",
                self.name,
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback port that nobody listens on. Taken below the range that the kernel gives to outgoing connections, so that
/// none of those takes it before our child does.
#[must_use]
pub fn free_port() -> u16 {
    let mut random = rand::rng();
    for _ in 0..200 {
        let port = random.random_range(10_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port among 200 tries");
}

/// Where the binaries of the control plane are.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// The path of `kube-apiserver`, `kube-controller-manager` or `kubectl`.
    #[must_use]
    pub fn path(&self, tool: &str) -> PathBuf {
        self.folder.join(tool)
    }

    /// Looks for them without building: that takes ten minutes and is for `make test` to do.
    fn find() -> Result<Self, String> {
        let script = crate::support::project().join("tests/envtest/build.sh");
        let answer = Command::new("bash")
            .arg(script)
            .env("FLIPBACK_ENVTEST_FIND_ONLY", "1")
            .output()
            .map_err(|error| format!("bash does not start: {error}"))?;
        if answer.status.success() {
            Ok(Self {
                folder: PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()),
            })
        } else {
            Err(String::from_utf8_lossy(&answer.stderr).trim().to_owned())
        }
    }
}

/// Whether a program is on the `PATH`.
#[must_use]
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// The control plane's binaries, when everything that `test` needs is on this machine. Otherwise says which part is
/// missing, as [`skip`] does, and the test returns.
#[must_use]
pub fn real_parts(test: &str, programs: &[&str]) -> Option<Assets> {
    static FOUND: OnceLock<Result<Assets, String>> = OnceLock::new();
    let missing = match (FOUND.get_or_init(Assets::find), programs.iter().find(|program| !on_path(program))) {
        (_, Some(program)) => format!("{program} is not on the PATH"),
        (Err(why), _) => why.clone(),
        (Ok(assets), None) => return Some(assets.clone()),
    };
    skip(test, &missing);
    None
}

/// Says on the real stderr, which libtest does not swallow, that a test is skipped and why.
///
/// # Panics
/// When `FLIPBACK_REQUIRE_REAL_PARTS=1`, as `make test` sets it.
pub fn skip(test: &str, missing: &str) {
    let required = std::env::var("FLIPBACK_REQUIRE_REAL_PARTS").as_deref() == Ok("1");
    assert!(!required, "{test} needs real parts: {missing}");
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {missing}; run make test");
}
