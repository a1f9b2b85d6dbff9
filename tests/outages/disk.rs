//! The disk is full: a real filesystem of a few megabytes, mounted in a namespace that the daemon alone is in. And, since not every
//! machine lets a user mount one, a disk that refuses every byte: a library before the daemon's own answers its writes with ENOSPC.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::scene::{DOWN, LIMIT, Recorded, Witness, check_one_flip, told, wait_log, wait_told};
use crate::support::{Daemon, Ground, eventually};

/// Mounts a small filesystem on the first word and becomes the rest.
const MOUNTED: &str = "mount -t tmpfs -o size=8m tmpfs \"$1\" && shift && exec \"$@\"";

/// What becomes full.
enum Volume {
    /// A small filesystem, which these words bring the daemon before.
    Small(&'static [&'static str]),
    /// A folder on a disk that has room, whose writes this library refuses while a file stands.
    Refusing { library: PathBuf, standing: PathBuf },
}

/// The words that put a program into a mount namespace of its own, with the right to mount: a user's own namespace where the machine
/// grants one, else the mount namespace alone, which is root's to make.
fn namespaces(folder: &Path) -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["unshare", "--user", "--map-root-user", "--mount"], &["unshare", "--mount"]];
    WAYS.into_iter().find(|way| {
        let mut command = inside(way, folder);
        command.arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

fn inside(way: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(way[0]);
    command.args(&way[1..]).args(["sh", "-c", MOUNTED, "sh"]).arg(folder);
    command
}

/// The library that refuses; whoever links Rust programs has the compiler.
fn refusing(folder: &Path) -> Volume {
    let library = folder.join("full.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outages/full.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).args([source, "-ldl"]);
    assert!(compile.status().expect("cc runs").success(), "{source} does not compile");
    let standing = folder.join("is-full");
    Volume::Refusing { library, standing }
}

impl Volume {
    fn start(&self, ground: &Ground, folder: &Path) -> Daemon {
        let mut flipback = ground.binary(&["run"]);
        let way = match self {
            Self::Small(way) => way,
            Self::Refusing { library, standing } => {
                flipback
                    .env("LD_PRELOAD", library)
                    .env("FULL_BELOW", folder)
                    .env("FULL_WHILE", standing);
                return ground.daemon(flipback);
            }
        };
        let mut command = inside(way, folder);
        // Those of the daemon alone, but for where the programs are that bring it there.
        command
            .env_clear()
            .envs(flipback.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg(flipback.get_program()).args(flipback.get_args());
        ground.daemon(command)
    }

    /// The folder as the daemon sees it.
    fn seen_by(&self, daemon: &Daemon, folder: &Path) -> PathBuf {
        match self {
            Self::Small(_) => {
                let below = folder.strip_prefix("/").expect("an absolute path");
                Path::new("/proc").join(daemon.process.id().to_string()).join("root").join(below)
            }
            Self::Refusing { .. } => folder.to_owned(),
        }
    }

    /// Leaves no room; returns what has to go for there to be some.
    fn fill(&self, seen: &Path) -> PathBuf {
        match self {
            Self::Small(_) => {
                let path = seen.join("ballast");
                let mut ballast = fs::File::create(&path).expect("made");
                // Takes the last page.
                while ballast.write_all(&[0; 4096]).is_ok() {}
                path
            }
            Self::Refusing { standing, .. } => {
                fs::write(standing, "").expect("ours");
                standing.clone()
            }
        }
    }
}

/// What happens on such a volume: it becomes full right before a flip, and has room again some time after it.
async fn rolled_back_on(ground: &Ground, folder: &Path, volume: &Volume) {
    let data = folder.join("data");
    ground.edit("data_dir = \"data\"", &format!("data_dir = {data:?}"));
    // What is read from outside is what lies in the daemon's own world.
    let mut daemon = volume.start(ground, folder);
    daemon
        .wait_for("a first verdict", |guard| {
            guard["phase"] == "steady" || guard["phase"] == "watching"
        })
        .await;
    let inside = volume.seen_by(&daemon, folder);
    eventually("the data folder", LIMIT, async || inside.join("data").is_dir().then_some(())).await;
    ground.release_green(&mut daemon).await;
    let witness = Witness::of(ground).await;

    let ballast = volume.fill(&inside);
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_selected("blue", LIMIT).await;
    wait_told(ground, "rollback_completed", &[]).await;
    wait_told(ground, "evidence_lost", &[]).await;
    wait_log(ground, &["ERROR", "Failed to keep the evidence", "the disk is full"]).await;
    assert_eq!(told(ground, "evidence_ready").len(), 0);

    fs::remove_file(ballast).expect("the volume is ours");
    std::os::unix::fs::symlink(inside.join("data"), ground.folder.path().join("data")).expect("ours");
    wait_told(ground, "evidence_ready", &[]).await;
    let incident = check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    assert_eq!(incident["case"]["trigger"]["kind"], "rule", "{incident:#}");
    daemon.terminate().await;
}

fn folder(ground: &Ground) -> PathBuf {
    let folder = ground.folder.path().canonicalize().expect("there").join("volume");
    fs::create_dir(&folder).expect("ours");
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_there_is_room() {
    let name = "on_a_full_disk_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_there_is_room";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let folder = folder(&ground);
    let Some(way) = namespaces(&folder) else {
        // No package gives this right. The same is shown without it, below.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {name}: this user may mount no tmpfs, not even in a namespace of their own"
        );
        return;
    };
    rolled_back_on(&ground, &folder, &Volume::Small(way)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_that_refuses_every_byte_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_it_takes_them() {
    let name = "on_a_disk_that_refuses_every_byte_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_it_takes_them";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let (folder, volume) = (folder(&ground), refusing(ground.folder.path()));
    rolled_back_on(&ground, &folder, &volume).await;
}
