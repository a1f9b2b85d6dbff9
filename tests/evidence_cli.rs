//! `flipback evidence` on data folders made by hand, as a person and as a program use it.

pub mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use support::{
    Bundles,
    bundle::{self, Like},
};

const WEB: &str = "shop.web_20261121T041234.567Z";

/// Four incidents of two guards: pinned, with gaps, one unreadable by this version, one unfinished.
fn shop() -> Bundles {
    let bundles = Bundles::new();
    bundles.make(&Like {
        missing: &["logs/green/web-green-2/app: no answer in time", "metrics: \u{1b}[31mquery failed"],
        ..Like::default()
    });
    let pinned = bundles.make(&Like {
        at: "2026-11-19T23:00:00.000Z",
        outcome: json!({"result": "failed", "error": "the API server answered 403: services \"web\" is forbidden"}),
        ..Like::default()
    });
    fs::write(pinned.join(".pinned"), "").expect("ours");
    bundles.make(&Like {
        guard: "shop/api",
        at: "2026-11-20T10:00:00.000Z",
        outcome: json!({"result": "withheld"}),
        files: vec![("logs/green/api-1/app.log".into(), 3 << 20)],
        ..Like::default()
    });
    bundles.make(&Like {
        at: "2026-11-18T08:00:00.000Z",
        files: vec![("logs/green/web-1/app.log".into(), 1 << 20)],
        ..Like::default()
    });
    let begun = bundles.make(&Like {
        at: "2026-11-21T06:00:00.000Z",
        ..Like::default()
    });
    let hidden = format!(".partial-{}", name(&begun));
    fs::rename(&begun, begun.with_file_name(hidden)).expect("ours");
    bundles
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn command(bundles: &Bundles, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).arg("evidence").args(arguments);
    command
        .arg("--data-dir")
        .arg(bundles.data_dir())
        .current_dir(bundles.data_dir())
        .stdin(Stdio::null());
    command
}

fn run(bundles: &Bundles, arguments: &[&str]) -> Output {
    command(bundles, arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a person sees, its exit code, and no trace of where the test runs or when.
fn seen(bundles: &Bundles, arguments: &[&str]) -> String {
    let output = run(bundles, arguments);
    let code = output.status.code().expect("an exit");
    let told = [text(&output.stdout), text(&output.stderr)].join("--- stderr ---\n");
    let told = told.replace(&bundles.data_dir().display().to_string(), "DATA");
    let ago = regex::Regex::new(r"\([^()]* ago\)").expect("valid");
    let said = ago.replace_all(&told, "(AGO)");
    format!("$ flipback evidence {}\n{said}--- exit {code} ---", arguments.join(" "))
}

fn answer(bundles: &Bundles, arguments: &[&str]) -> Value {
    let output = run(bundles, arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)))
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|one| one["id"].as_str().expect("an id"))
        .collect()
}

#[test]
fn incidents_are_listed_newest_first_and_filtered() {
    let bundles = shop();
    insta::assert_snapshot!("list", seen(&bundles, &["list"]));
    let all = answer(&bundles, &["list", "--output", "json"]);
    assert_eq!(ids(&all)[1], WEB);
    assert_eq!(all.as_array().expect("a list").len(), 5);
    let of = |arguments: &[&str]| answer(&bundles, &[&["list", "--output", "json"], arguments].concat());
    assert_eq!(ids(&of(&["--guard", "api"])), ["shop.api_20261120T100000.000Z"]);
    assert_eq!(ids(&of(&["--guard", "shop/web", "--since", "2026-11-20"])).len(), 2);
    assert_eq!(of(&["--since", "2030-01-01"]), json!([]));
    assert_eq!(run(&bundles, &["list", "--since", "yesterday"]).status.code(), Some(64));
    assert_eq!(run(&Bundles::new(), &["list"]).status.code(), Some(0));
}

#[test]
fn an_incident_is_told_whole() {
    let bundles = shop();
    insta::assert_snapshot!("show", seen(&bundles, &["show"]));
    insta::assert_snapshot!("show_failed", seen(&bundles, &["show", "shop.web_20261119", "--files"]));
    let shown = answer(&bundles, &["show", "last", "api", "--output", "json"]);
    assert_eq!(shown["incident"]["case"]["guard"], "shop/api");
    assert_eq!(shown["files"]["logs/green/api-1/app.log"], 3 << 20);
    let path = bundles.incidents().join(WEB).display().to_string();
    assert_eq!(
        answer(&bundles, &["show", &path, "--output", "json"])["id"],
        WEB,
        "a path is taken, too"
    );
}

#[test]
fn what_is_meant_is_never_guessed() {
    let bundles = shop();
    let said = [
        ["show", "shop.web"].as_slice(),
        &["show", "nothing"],
        &["show", "last", "cart"],
        &["show", "shop.api", "web"],
    ]
    .map(|arguments| seen(&bundles, arguments));
    insta::assert_snapshot!("unclear", said.join("\n\n"));
    assert_eq!(run(&Bundles::new(), &["show"]).status.code(), Some(64));
}

#[test]
fn verify_finds_what_was_done_to_a_bundle_and_to_an_archive() {
    let bundles = shop();
    assert_eq!(run(&bundles, &["verify"]).status.code(), Some(0));
    let exported = run(&bundles, &["export", WEB]);
    assert_eq!(exported.status.code(), Some(0), "{}", text(&exported.stderr));
    let archive = format!("{WEB}.tar.zst");
    let path = bundles.data_dir().join(&archive);
    assert_eq!(run(&bundles, &["verify", &archive]).status.code(), Some(0));
    let folder = bundles.incidents().join(WEB);
    fs::write(folder.join("logs/green/web-green-1/app.log"), "nothing happened\n").expect("ours");
    fs::remove_file(folder.join("decision.jsonl")).expect("ours");
    bundle::put(&folder, "notes.txt", b"mine");
    fs::set_permissions(folder.join("incident.json"), fs::Permissions::from_mode(0o644)).expect("ours");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("metrics/passwd")).expect("ours");
    insta::assert_snapshot!("verify", seen(&bundles, &["verify", WEB, "last", "api", &archive]));
    let found = answer(&bundles, &["verify", WEB, "--output", "json"]);
    assert_eq!(found[0]["problems"][0], json!({"file": "decision.jsonl", "fault": "missing"}));
    let whole = fs::read(&path).expect("is there");
    fs::write(&path, &whole[..whole.len() / 2]).expect("ours");
    let cut = run(&bundles, &["verify", &archive]);
    assert!(
        cut.status.code() == Some(1) && text(&cut.stdout).contains("not a whole archive"),
        "{}",
        text(&cut.stdout)
    );
}

#[test]
fn an_export_is_what_tar_reads_in_a_file_and_in_a_pipe() {
    let bundles = shop();
    let to = bundles.data_dir().join("out");
    fs::create_dir(&to).expect("ours");
    let answer = answer(&bundles, &["export", "last", "web", "--to", "out", "--output", "json"]);
    assert_eq!(answer["path"], format!("out/{WEB}.tar.zst"));
    let file = to.join(format!("{WEB}.tar.zst"));
    let piped = run(&bundles, &["export", WEB, "--to", "-"]);
    assert_eq!(piped.stdout, fs::read(&file).expect("is there"), "the same bytes");
    let unpacked = Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(&file)
        .current_dir(&to)
        .status()
        .expect("tar runs");
    assert!(unpacked.success() && bundle::holds(&to.join(WEB)));
    let again = run(&bundles, &["export", WEB, "--to", "out"]);
    assert!(
        again.status.code() == Some(64) && text(&again.stderr).contains("--force"),
        "{}",
        text(&again.stderr)
    );
    assert_eq!(run(&bundles, &["export", WEB, "--to", "out", "--force"]).status.code(), Some(0));
    let partial = run(&bundles, &["export", "shop.web_20261121T06"]);
    assert!(
        partial.status.code() == Some(64) && text(&partial.stderr).contains("not complete"),
        "{}",
        text(&partial.stderr)
    );
    // What is damaged is packed all the same, and said.
    fs::write(bundles.incidents().join(WEB).join("report.html"), "x").expect("ours");
    let damaged = run(&bundles, &["export", WEB, "--to", "out", "--force"]);
    assert!(
        damaged.status.code() == Some(1) && text(&damaged.stderr).contains("report.html"),
        "{}",
        text(&damaged.stderr)
    );
}

#[test]
fn a_pruning_is_shown_asked_for_and_done() {
    let bundles = shop();
    let before = answer(&bundles, &["list", "--output", "json"]);
    insta::assert_snapshot!(
        "prune",
        seen(
            &bundles,
            &["prune", "--dry-run", "--count", "2", "--age", "36500d", "--bytes", "2MiB"]
        )
    );
    let refused = run(&bundles, &["prune", "--count", "2"]);
    assert!(
        refused.status.code() == Some(64) && text(&refused.stderr).contains("--yes"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(
        answer(&bundles, &["list", "--output", "json"]),
        before,
        "nothing is deleted unasked"
    );
    let done = answer(&bundles, &["prune", "--count", "1", "--age", "36500d", "--yes", "--output", "json"]);
    assert_eq!(ids(&done["delete"]), ["shop.web_20261118T080000.000Z"]);
    assert_eq!(done["exceeded"], json!(["count"]));
    let left = answer(&bundles, &["list", "--output", "json"]);
    assert_eq!(
        ids(&left),
        [
            "shop.web_20261121T060000.000Z",
            WEB,
            "shop.api_20261120T100000.000Z",
            "shop.web_20261119T230000.000Z"
        ]
    );
    // Unpinned, it goes.
    assert_eq!(
        answer(&bundles, &["unpin", "shop.web_20261119", "--output", "json"])["pinned"],
        false
    );
    assert_eq!(answer(&bundles, &["pin", "last", "api", "--output", "json"])["pinned"], true);
    let done = answer(&bundles, &["prune", "--count", "0", "--age", "0s", "--yes", "--output", "json"]);
    assert_eq!(ids(&done["delete"]), ["shop.web_20261119T230000.000Z"]);
    assert_eq!(run(&bundles, &["prune", "--bytes", "much"]).status.code(), Some(64));
}

#[test]
fn limits_are_the_configurations() {
    let bundles = shop();
    let example = support::project().join("config/examples/engine-ops.toml");
    let mut config = fs::read_to_string(example).expect("is there");
    config.push_str("\n[evidence.retention]\ncount = 1\n");
    fs::write(bundles.data_dir().join("flipback.toml"), config).expect("ours");
    fs::create_dir(bundles.data_dir().join("secrets")).expect("ours");
    fs::write(bundles.data_dir().join("secrets/slack-url"), "https://hooks.example/x").expect("ours");
    let shown = run(&bundles, &["prune", "--dry-run", "--age", "36500d"]);
    assert!(
        text(&shown.stdout).contains("at most 1 incident,"),
        "{}{}",
        text(&shown.stdout),
        text(&shown.stderr)
    );
    assert!(!text(&shown.stderr).contains("No configuration"), "{}", text(&shown.stderr));
}

#[test]
fn a_report_is_opened_by_the_browser_or_its_path_is_told() {
    let bundles = shop();
    let script = bundles.data_dir().join("browser");
    let seen_by = bundles.data_dir().join("opened");
    fs::write(
        &script,
        format!("#!/bin/sh\necho \"$@\" > {0}.part && mv {0}.part {0}\n", seen_by.display()),
    )
    .expect("ours");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("ours");
    let report = bundles.incidents().join(WEB).join("report.html").display().to_string();
    let opened = command(&bundles, &["open", WEB])
        .env("BROWSER", format!("/no/such/browser:{} --new %s", script.display()))
        .output();
    let opened = opened.expect("runs");
    assert_eq!((text(&opened.stdout).trim(), text(&opened.stderr).as_str()), (report.as_str(), ""));
    for _ in 0..3000 {
        if seen_by.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(
        fs::read_to_string(&seen_by).expect("the browser ran").trim(),
        format!("--new {report}")
    );
    let mut remote = command(&bundles, &["open", WEB]);
    let far = remote
        .env("SSH_CONNECTION", "10.0.0.9 50000 10.0.0.4 22")
        .env("USER", "ann")
        .env("DISPLAY", ":0")
        .output()
        .expect("runs");
    assert_eq!(text(&far.stdout).trim(), report);
    let folder = bundles.incidents().join(WEB).display().to_string();
    assert!(
        text(&far.stderr).contains(&format!("scp -r ann@10.0.0.4:{folder} .")),
        "{}",
        text(&far.stderr)
    );
    fs::remove_file(&report).expect("ours");
    assert_eq!(run(&bundles, &["open", WEB]).status.code(), Some(1));
}

#[test]
fn a_report_is_made_anew_and_the_list_follows() {
    let bundles = shop();
    let report = bundles.incidents().join(WEB).join("report.html");
    let log = bundles.incidents().join(WEB).join("logs/green/web-green-1/app.log");
    let before = fs::read(&report).expect("is there");
    let captured = fs::read(&log).expect("is there");
    let made = answer(&bundles, &["report", WEB, "--output", "json"]);
    assert_eq!((made["id"].as_str(), made["path"].as_str()), (Some(WEB), report.to_str()));
    let page = fs::read_to_string(&report).expect("is there");
    assert!(page.as_bytes() != before && page.contains("flipback-incident-sha256"));
    assert_eq!(fs::read(&log).expect("is there"), captured, "what was captured stays");
    assert_eq!(run(&bundles, &["verify", WEB]).status.code(), Some(0));
    let told = run(&bundles, &["report", WEB]);
    assert_eq!(
        (text(&told.stdout).trim(), text(&told.stderr).as_str()),
        (report.to_str().expect("UTF-8"), "")
    );
    // What is not whole has none yet.
    let unfinished = run(&bundles, &["report", "shop.web_20261121T06"]);
    assert_eq!(unfinished.status.code(), Some(64), "{unfinished:?}");
    assert!(text(&unfinished.stderr).contains("is not complete"), "{unfinished:?}");
    let help = text(&run(&bundles, &["report", "--help"]).stdout);
    assert!(
        help.contains("Examples:") && help.contains("flipback evidence report last"),
        "{help}"
    );
}

#[test]
fn a_copy_to_a_folder_is_made_and_marked() {
    let bundles = shop();
    let copies = bundles.data_dir().join("copies");
    let to = format!("file://{}", copies.display());
    insta::assert_snapshot!(
        "copy",
        seen(&bundles, &["copy", "--to", &to]).replace(&copies.display().to_string(), "COPIES")
    );
    assert!(bundle::holds(&copies.join(WEB)));
    assert!(
        !copies.join("shop.web_20261121T060000.000Z").exists(),
        "what is not complete is not copied"
    );
    assert_eq!(answer(&bundles, &["show", WEB, "--output", "json"])["copied_to"], to);
    let wrong = run(&bundles, &["copy", "--to", "ftp://host/x"]);
    assert!(
        wrong.status.code() == Some(64) && text(&wrong.stderr).contains("expected s3://"),
        "{}",
        text(&wrong.stderr)
    );
    let none = run(&bundles, &["copy"]);
    assert!(
        none.status.code() == Some(64) && text(&none.stderr).contains("--to"),
        "{}",
        text(&none.stderr)
    );
}

#[test]
fn colors_are_for_terminals() {
    let bundles = shop();
    for arguments in [["list"].as_slice(), &["show"], &["verify"], &["prune", "--dry-run"]] {
        assert!(!run(&bundles, arguments).stdout.contains(&0x1b), "{arguments:?}");
        let forced = command(&bundles, arguments).env("CLICOLOR_FORCE", "1").output().expect("runs");
        assert!(forced.stdout.contains(&0x1b), "{arguments:?}");
        let never = command(&bundles, arguments)
            .env("CLICOLOR_FORCE", "0")
            .env("NO_COLOR", "1")
            .output()
            .expect("runs");
        assert!(!never.stdout.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_said() {
    let bundles = Bundles::new();
    fs::remove_dir(bundles.incidents()).expect("ours");
    fs::write(bundles.incidents(), "no folder").expect("ours");
    let said = run(&bundles, &["list"]);
    assert!(
        said.status.code() == Some(1) && text(&said.stderr).contains("failed to list"),
        "{}",
        text(&said.stderr)
    );
}
