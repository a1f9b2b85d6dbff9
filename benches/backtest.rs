//! The cost of a backtest: a week of 50 guards at a scrape every 15 s, on a real Prometheus, the command as a process of its own.
//!
//! `make bench-backtest` builds the command as it is released (but without link-time optimizing) and prints wall time, processor time of
//! both sides and the command's highest memory. What is promised: within 2 minutes and 300 MB on 2 cores. `FLIPBACK_PAST` names a folder
//! in which the blocks are kept between two runs, since writing them takes longer than judging them; `FLIPBACK_KEEP` one that the answer
//! is copied to.

#[path = "../tests/support/mod.rs"]
pub mod support;

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use support::{
    past::{Archive, Fault, Happening, Story, configuration},
    process::{Folder, on_path, skip},
};

/// Guards of the promise.
const GUARDS: usize = 50;
/// Its span: a week.
const SPAN: i64 = 7 * 86_400;
/// The beginning: a multiple of two hours, so that a file of samples is one block.
const BEGIN: i64 = 1_789_999_200;

fn main() {
    if let Some(missing) = ["prometheus", "promtool"].into_iter().find(|program| !on_path(program)) {
        skip("backtest", &format!("{missing} is not on the PATH"));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads start");
    runtime.block_on(measure());
}

async fn measure() {
    let story = Story {
        guards: number("FLIPBACK_GUARDS", GUARDS),
        begin: BEGIN,
        span: SPAN,
        spacing: 15,
        rate: 40.0,
        happenings: happenings(),
    };
    let folder = Folder::new();
    let data = std::env::var_os("FLIPBACK_PAST").map_or_else(|| folder.path().join("data"), PathBuf::from);
    if !data.join("written").exists() {
        say("writing a week of samples, which takes some minutes");
        let (written, target) = (story.clone(), data.clone());
        tokio::task::spawn_blocking(move || written.write(&target))
            .await
            .expect("promtool does it");
        std::fs::write(data.join("written"), "").expect("the folder is ours");
    }
    let archive = Archive::serve(folder, &data, &[]).await;
    let file = archive.folder().write("flipback.toml", configuration(&story, &archive.url()));
    let page = archive.folder().path().join("report.html");
    let until = jiff::Timestamp::from_second(story.end()).expect("a time").to_string();
    say("judging it");
    let before = cpu(archive.id());
    let begun = tokio::time::Instant::now();
    let mut command = Command::new(binary());
    // Every such variable configures flipback; ours are for this program.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLIPBACK_")) {
        command.env_remove(name);
    }
    let child = command
        .args(["backtest", "--since", "7d", "--until", &until, "--config"])
        .arg(&file)
        .arg("--html")
        .arg(&page)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let id = child.id();
    let watch = std::thread::spawn(move || {
        let mut seen = (0.0, 0.0);
        while let Some(now) = memory(id).zip(Some(cpu(id))) {
            seen = now;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        seen
    });
    let output = tokio::task::spawn_blocking(move || child.wait_with_output())
        .await
        .expect("it ends")
        .expect("it ends");
    let wall = begun.elapsed().as_secs_f64();
    let (peak, own) = watch.join().expect("the watch ends");
    let theirs = cpu(archive.id()) - before;
    let out = String::from_utf8_lossy(&output.stdout);
    let bytes = std::fs::metadata(&page).map_or(0, |page| page.len());
    if let Some(keep) = std::env::var_os("FLIPBACK_KEEP") {
        let keep = PathBuf::from(keep);
        std::fs::write(keep.join("backtest.txt"), &*out).expect("the folder is writable");
        let _ = std::fs::copy(&page, keep.join("backtest.html"));
    }
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{}", out.lines().last().unwrap_or_default());
    let _ = writeln!(stdout, "guards                      {}", story.guards);
    let _ = writeln!(stdout, "exit code                   {:?}", output.status.code());
    let _ = writeln!(stdout, "wall time                   {wall:.1} s      (promised: 120)");
    let _ = writeln!(
        stdout,
        "highest resident memory     {peak:.0} MiB     (promised: 286, which are 300 MB)"
    );
    let _ = writeln!(stdout, "processor time, flipback    {own:.1} s");
    let _ = writeln!(stdout, "processor time, Prometheus  {theirs:.1} s");
    let _ = writeln!(stdout, "page                        {:.2} MB", bytes as f64 / 1e6);
}

/// Some guards have a switch to a bad release and back, some a gap, some a blip; most have a calm week.
fn happenings() -> Vec<Happening> {
    let mut all = Vec::new();
    for guard in 0..GUARDS {
        let switch = 86_400 * 2 + guard as i64 * 3600;
        let happening = |from, to, what| Happening { guard, from, to, what };
        match guard % 10 {
            3 => all.extend([
                happening(switch, 0, Fault::Switch),
                happening(switch + 300, switch + 900, Fault::Errors(0.2)),
                happening(switch + 900, 0, Fault::Switch),
            ]),
            5 => all.push(happening(switch, 0, Fault::Switch)),
            7 => all.push(happening(switch, switch + 1800, Fault::Gap)),
            9 => all.push(happening(switch, switch + 30, Fault::Errors(0.3))),
            _ => {}
        }
    }
    all
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Highest resident memory so far, in MiB.
fn memory(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

/// Processor time so far, in seconds.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 and 15, of which two stand before the bracket; a hundredth of a second each, as on every Linux.
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// What is measured: the binary that `FLIPBACK_BINARY` names, else the one that cargo built along.
fn binary() -> PathBuf {
    std::env::var_os("FLIPBACK_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_flipback").into(), PathBuf::from)
}

fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "backtest: {what}");
}
