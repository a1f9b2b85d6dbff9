//! The daemon leaves no core, however it ends, and measures itself all the same.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::support::{
    eventually, install_tls,
    process::{Folder, Process, free_port},
};

const SOON: Duration = Duration::from_secs(60);
/// Whoever has no rights.
const NOBODY: u32 = 65_534;
/// Asks for cores without limit, and says so where the machine does not give any. Whoever was started in the background of a shell
/// inherits that SIGQUIT is ignored.
const WITH_CORES: &str = "ulimit -c unlimited 2>/dev/null || ulimit -c hard; exec env --default-signal=ABRT,QUIT,TRAP \"$@\"";

/// A daemon over no cluster at all, in `folder`, as a user without rights where the test may choose one.
fn daemon(folder: &Folder, port: u16) -> Process {
    let config = folder.write(
        "flipback.toml",
        format!(
            "data_dir = \"data\"\n[serve]\nlisten = \"127.0.0.1:{port}\"\n[clusters.none]\nkubeconfig = \"none\"\n[[guards]]\nname = \"shop\"\n\
             namespace = \"shop\"\n[guards.route]\nservice = \"shop\"\nselector_key = \"color\"\n[guards.colors]\n\
             blue = {{ value = \"blue\", deployment = \"blue\" }}\ngreen = {{ value = \"green\", deployment = \"green\" }}\n"
        ),
    );
    let program = [env!("CARGO_BIN_EXE_flipback"), "run", "--config", &config.display().to_string()].map(str::to_owned);
    Process::start("flipback", limited(folder, &program), folder.path().join("flipback.log"))
}

/// A program that may leave cores in the folder.
fn limited(folder: &Folder, program: &[String]) -> Command {
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    let mut command = Command::new("sh");
    command
        .env_clear()
        .current_dir(folder.path())
        .args(["-c", WITH_CORES, "sh"])
        .args(program);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("there is /proc").uid() == 0
}

async fn ended_by(process: &mut Process, signal: &str) -> ExitStatus {
    process.signal(signal);
    process.wait(SOON).await.expect("it ends by the signal")
}

fn cores(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("ours").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("core")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signal_makes_the_daemon_leave_a_core_and_its_metrics_of_itself_stay() {
    install_tls();
    // That something else does leave one here, where the machine has dumps at all.
    let elsewhere = Folder::new();
    let sleep = ["sleep".to_owned(), "600".to_owned()];
    let mut sleeper = Process::start("sleep", limited(&elsewhere, &sleep), elsewhere.path().join("log"));
    eventually("sh to become sleep", SOON, async || {
        let name = fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).ok()?;
        (name.trim() == "sleep").then_some(())
    })
    .await;
    let before = fs::read_to_string(format!("/proc/{}/limits", sleeper.id())).expect("it runs");
    let others_dump = ended_by(&mut sleeper, "ABRT").await.core_dumped();
    if !others_dump {
        eprintln!("this machine gives nobody a core; what the daemon asks for is still looked at:\n{before}");
    }

    for signal in ["ABRT", "QUIT", "TRAP"] {
        let (folder, port) = (Folder::new(), free_port());
        let mut daemon = daemon(&folder, port);
        let metrics = eventually("the daemon to answer", SOON, async || {
            let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.ok()?;
            answer.text().await.ok()
        })
        .await;
        let (limits, owner) = {
            let of_daemon = format!("/proc/{}", daemon.id());
            let limits = fs::read_to_string(format!("{of_daemon}/limits")).expect("it runs");
            (limits, fs::metadata(format!("{of_daemon}/environ")).expect("it runs").uid())
        };
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words, ["Max", "core", "file", "size", "0", "0", "bytes"], "soft and hard");
        // The kernel gives what is below its folder in /proc to root while a process is not dumpable.
        assert_eq!(owner, 0, "it is dumpable");
        // And yet it sees itself.
        for metric in ["process_open_fds", "process_resident_memory_bytes", "process_threads"] {
            let found = metrics
                .lines()
                .find_map(|line| line.strip_prefix(metric)?.trim().parse::<f64>().ok());
            assert!(found.is_some_and(|value| value > 0.0), "{metric} is {found:?} in\n{metrics}");
        }
        let status = ended_by(&mut daemon, signal).await;
        assert!(status.signal().is_some() && !status.core_dumped(), "{signal}: {status}");
        let left = cores(folder.path());
        assert!(left.is_empty(), "{left:?}");
    }
}
