//! The audit journal as its users meet it: the commands, the recipe of docs/audit.md, and a writer that is killed.

pub mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use flipback::{
    audit::{self, Journal, Note},
    metrics::Metrics,
    model::{Actor, AuditEntry, GuardId, settings::AuditSettings},
};
use jiff::Timestamp;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio_util::sync::CancellationToken;

/// Set for the process that writes until it is killed.
const WRITER: &str = "FLIPBACK_TEST_AUDIT_WRITER";

fn entry(n: i64, at: Timestamp) -> AuditEntry {
    let person = Actor::Person { name: "ann".into() };
    let guard = GuardId::new("", "shop", if n % 2 == 0 { "web" } else { "cart" }).expect("a name");
    AuditEntry {
        at,
        actor: if n % 3 == 0 { person } else { Actor::Flipback },
        guard: Some(guard),
        action: if n % 3 == 0 { "paused" } else { "flipped" }.into(),
        why: format!("number {n}: error-rate was 8.1 % of 1204 requests, 5 % allowed"),
        incident: (n % 5 == 0).then(|| "shop.web_20261121T050042.123Z".into()),
    }
}

/// A data folder with a journal of so many entries, the last one of now.
fn journal(count: i64, settings: AuditSettings) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, task) = Journal::open(folder.path().join(audit::FOLDER), settings, Metrics::new().expect("metrics"));
    let now = support::now();
    for n in 0..count {
        let hours = jiff::SignedDuration::from_hours(count - 1 - n);
        journal.write(entry(n, now.saturating_sub(hours).expect("in range")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let stop = CancellationToken::new();
    stop.cancel();
    runtime.block_on(task.run(stop));
    folder
}

/// Several files.
const SMALL: AuditSettings = AuditSettings {
    file_bytes: 2000,
    files: 100,
};

fn files(data: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(data.join(audit::FOLDER)).expect("lists");
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("lists").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    files
}

fn flipback(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
    command.arg("audit").args(arguments).arg("--data-dir").arg(data);
    command.env_remove("FLIPBACK_OUTPUT").env_remove("FLIPBACK_CONFIG");
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The `jq` of those who have none at hand.
fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_journal_is_checked_and_the_exit_code_says_how_it_is() {
    let data = journal(40, SMALL);
    let whole = flipback(data.path(), &["verify"]);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stderr));
    let said = text(&whole.stdout);
    assert!(said.starts_with("whole  40 entries, 1 to 40, in "), "{said}");
    assert!(!said.contains('\u{1b}'), "no colors where nobody sees them");
    let whole = json(&flipback(data.path(), &["verify", "--output", "json"]));
    assert_eq!((&whole["whole"], &whole["entries"]), (&true.into(), &40.into()));
    let anchor = whole["anchor"].as_str().expect("an anchor").to_owned();
    assert!(said.contains(&anchor));
    let held = flipback(data.path(), &["verify", "--anchor", &anchor]);
    assert_eq!(held.status.code(), Some(0));
    assert!(text(&held.stdout).contains("the anchor's entry is still there"));

    let last = files(data.path()).pop().expect("files");
    let sound = fs::read_to_string(&last).expect("reads");
    let mut lines: Vec<&str> = sound.lines().collect();
    lines.pop();
    fs::write(&last, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("writes");
    assert_eq!(
        flipback(data.path(), &["verify"]).status.code(),
        Some(0),
        "the chain alone cannot see it"
    );
    let cut = flipback(data.path(), &["verify", "--anchor", &anchor]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(
        text(&cut.stdout).starts_with("broken  the end of the journal was cut off"),
        "{}",
        text(&cut.stdout)
    );

    fs::write(&last, sound.replace("1204", "1205")).expect("writes");
    let changed = flipback(data.path(), &["verify", "--output", "json"]);
    assert_eq!(changed.status.code(), Some(1));
    let changed = json(&changed);
    let name = last.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!((&changed["whole"], &changed["broken"]["fault"]), (&false.into(), &"changed".into()));
    assert_eq!((&changed["broken"]["file"], &changed["broken"]["line"]), (&name.into(), &1.into()));

    let nothing = tempfile::tempdir().expect("a folder");
    let absent = flipback(nothing.path(), &["verify"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(
        text(&absent.stderr).contains("no audit journal lies in"),
        "{}",
        text(&absent.stderr)
    );
    assert_eq!(flipback(data.path(), &["verify", "--anchor", "nonsense"]).status.code(), Some(64));
}

#[test]
fn entries_are_shown_by_guard_time_and_incident() {
    let data = journal(40, SMALL);
    let count = |arguments: &[&str]| {
        let mut all = vec!["show", "--output", "json"];
        all.extend(arguments);
        let shown = flipback(data.path(), &all);
        assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
        let lines: Vec<serde_json::Value> = text(&shown.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        lines.len()
    };
    assert_eq!(count(&[]), 40);
    assert_eq!(count(&["--guard", "shop/web"]), 20);
    assert_eq!(count(&["--guard", "web"]), 20);
    assert_eq!(count(&["--guard", "eb"]), 0);
    // Hours 0 to 9 before now; some seconds have passed since.
    assert_eq!(count(&["--since", "9h 30m"]), 10);
    assert_eq!(count(&["--incident", "shop.web_20261121T050042.123Z"]), 8);
    assert_eq!(count(&["--guard", "web", "--incident", "shop.web_20261121T050042.123Z"]), 4);
    let shown = flipback(data.path(), &["show", "--guard", "cart"]);
    let said = text(&shown.stdout);
    assert!(
        said.starts_with("WHEN") && said.lines().count() == 21 && said.contains("  ann       shop/cart  paused   number 3"),
        "{said}"
    );
}

/// The recipe of docs/audit.md, run as it stands there.
#[test]
fn a_journal_can_be_checked_without_flipback() {
    let test = "a_journal_can_be_checked_without_flipback";
    if Command::new("python3").arg("--version").output().is_err() {
        return support::process::skip(test, "python3 is not on the PATH");
    }
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md")).expect("reads");
    let block = |language: &str| {
        let begun = docs.split(&format!("```{language}\n")).nth(1).expect("a recipe");
        begun.split("```").next().expect("its end").to_owned()
    };
    let data = journal(40, SMALL);
    let folder = data.path().join(audit::FOLDER);
    let script = block("python");
    let check = || Command::new("python3").arg("-c").arg(&script).arg(&folder).output().expect("runs");
    let anchor = audit::verify(&folder).expect("whole").anchor.to_string();
    let whole = check();
    assert_eq!(
        (whole.status.code(), text(&whole.stdout).trim()),
        (Some(0), anchor.as_str()),
        "{}",
        text(&whole.stderr)
    );

    let path = files(data.path())[1].clone();
    let sound = fs::read_to_string(&path).expect("reads");
    let lines: Vec<&str> = sound.lines().collect();
    let by_hand = Command::new("sh")
        .arg("-c")
        .arg(block("sh"))
        .env("FILE", &path)
        .output()
        .expect("runs");
    let known: serde_json::Value = serde_json::from_str(lines[2]).expect("JSON");
    assert_eq!(text(&by_hand.stdout).split(' ').next(), known["hash"].as_str());

    for (edited, line) in [
        (sound.replacen("1204", "1205", 1), 1),
        (sound.replacen(&format!("{}\n", lines[1]), "", 1), 2),
        (format!("{}\n{sound}", lines[0]), 2),
    ] {
        fs::write(&path, edited).expect("writes");
        let broken = check();
        assert_ne!(broken.status.code(), Some(0));
        let said = text(&broken.stderr);
        assert!(said.contains(&format!("broken: {}:{line}", path.display())), "{said}");
        assert!(audit::verify(&folder).is_err());
    }
}

/// The process that other tests kill: it writes without end, and says so.
#[test]
#[ignore = "it never ends: others start and kill it"]
fn writer() {
    let Ok(folder) = std::env::var(WRITER) else { return };
    let metrics = Metrics::new().expect("metrics");
    let settings = AuditSettings {
        file_bytes: 200_000,
        files: 5,
    };
    let (journal, task) = Journal::open(folder.into(), settings, metrics.clone());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.spawn(task.run(CancellationToken::new()));
    for n in 0.. {
        journal.write(entry(n, support::now()));
        if n % 50 == 0 {
            println!("written {}", metrics.audit_entries.with_label_values(&["written"]).get());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_writer_killed_at_any_instant_leaves_a_journal_that_can_be_checked() {
    // The last round follows one whose end was torn, and is killed at once: what it tells of the cut is not pruned yet.
    const ROUNDS: u32 = 26;
    let data = tempfile::tempdir().expect("a folder");
    let folder = data.path().join(audit::FOLDER);
    let mut random = SmallRng::seed_from_u64(4);
    let mut before: Option<audit::Verified> = None;
    let mut torn = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "writer", "--ignored", "--nocapture"])
            .env(WRITER, &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let durable = lines.find_map(|line| {
            let line = line.expect("reads");
            let count: u64 = line.rsplit("written ").next()?.parse().ok()?;
            (count > 0).then_some(count)
        });
        let pause = if round + 1 == ROUNDS { 0 } else { random.random_range(0..60_000) };
        std::thread::sleep(Duration::from_micros(pause));
        child.kill().expect("kills");
        child.wait().expect("ends");
        let durable = durable.expect("it wrote something");
        let verified = audit::verify(&folder).unwrap_or_else(|error| panic!("round {round}: {error}"));
        if let Some(before) = &before {
            // Nothing that was there is gone, and what was said to be written is.
            audit::verify_against(&folder, Some(&before.anchor)).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(verified.anchor.seq >= before.anchor.seq + durable, "round {round}: {verified:?}");
        }
        torn += u64::from(verified.torn.is_some());
        if round % 3 == 0 {
            // A write that a power cut left half done.
            let newest = files(data.path()).pop().expect("files");
            let bytes = fs::read(&newest).expect("reads");
            if verified.torn.is_none() && bytes.last() == Some(&b'\n') {
                fs::write(&newest, [bytes, br#"{"seq":7,"at":"20"#.to_vec()].concat()).expect("writes");
                torn += 1;
            }
        }
        before = Some(verified);
    }
    let verified = before.expect("rounds");
    assert!(verified.pruned_through > 0 && verified.files <= 6, "{verified:?}");
    let mut cuts = Vec::new();
    audit::entries(&folder, |told| {
        if let audit::Told::Line(line, _) = told {
            cuts.extend(line.journal.filter(|note| matches!(note, Note::Torn { .. })));
        }
        std::ops::ControlFlow::Continue(())
    })
    .expect("reads");
    assert!(
        torn > 0 && !cuts.is_empty() && cuts.len() as u64 <= torn,
        "{torn} torn, {} told",
        cuts.len()
    );
}
