//! The disk is full: a real filesystem of a few megabytes, mounted in a namespace that the daemon alone is in.

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

/// The volume as the daemon sees it.
fn seen_by(daemon: &Daemon, volume: &Path) -> PathBuf {
    let below = volume.strip_prefix("/").expect("an absolute path");
    Path::new("/proc").join(daemon.process.id().to_string()).join("root").join(below)
}

/// Takes the last page.
fn fill(volume: &Path) -> PathBuf {
    let path = volume.join("ballast");
    let mut ballast = fs::File::create(&path).expect("made");
    while ballast.write_all(&[0; 4096]).is_ok() {}
    path
}

fn start(ground: &Ground, way: &[&str], volume: &Path) -> Daemon {
    let flipback = ground.binary(&["run"]);
    let mut command = inside(way, volume);
    // Those of the daemon alone, but for where the programs are that bring it there.
    command
        .env_clear()
        .envs(flipback.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg(flipback.get_program()).args(flipback.get_args());
    ground.daemon(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_there_is_room() {
    let name = "on_a_full_disk_traffic_is_moved_the_loss_is_told_and_evidence_is_kept_when_there_is_room";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let volume = ground.folder.path().join("volume");
    fs::create_dir(&volume).expect("ours");
    let Some(way) = namespaces(&volume) else {
        // No package gives this right, so that it is no missing part.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {name}: this user may mount no tmpfs, not even in a namespace of their own"
        );
        return;
    };
    let data = volume.join("data");
    ground.edit("data_dir = \"data\"", &format!("data_dir = {data:?}"));
    // What is read from outside is what lies in the daemon's own world.
    let mut daemon = start(&ground, way, &volume);
    daemon
        .wait_for("a first verdict", |guard| {
            guard["phase"] == "steady" || guard["phase"] == "watching"
        })
        .await;
    let inside = seen_by(&daemon, &volume);
    eventually("the data folder", LIMIT, async || inside.join("data").is_dir().then_some(())).await;
    ground.release_green(&mut daemon).await;
    let witness = Witness::of(&ground).await;

    let ballast = fill(&inside);
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_selected("blue", LIMIT).await;
    wait_told(&ground, "rollback_completed", &[]).await;
    wait_told(&ground, "evidence_lost", &[]).await;
    wait_log(&ground, &["ERROR", "Failed to keep the evidence", "the disk is full"]).await;
    assert_eq!(told(&ground, "evidence_ready").len(), 0);

    fs::remove_file(ballast).expect("the volume is ours");
    std::os::unix::fs::symlink(inside.join("data"), ground.folder.path().join("data")).expect("ours");
    wait_told(&ground, "evidence_ready", &[]).await;
    let incident = check_one_flip(&ground, &mut daemon, &witness, Recorded::Once).await;
    assert_eq!(incident["case"]["trigger"]["kind"], "rule", "{incident:#}");
    daemon.terminate().await;
}
