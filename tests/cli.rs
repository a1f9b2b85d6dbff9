//! The built binary as its users meet it: exit codes, what goes to which stream, a daemon that is there and one that is not.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::mpsc,
    time::Duration,
};

const GUARD: &str = r#"
[[guards]]
name = "web"
namespace = "shop"
[guards.route]
service = "web"
selector_key = "version"
[guards.colors]
blue = { value = "blue", deployment = "web-blue" }
green = { value = "green", deployment = "web-green" }
"#;

/// The binary in a folder, with an environment of nothing but what is given.
fn flipback(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flipback"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("USER", "ann")
        .env("KUBECONFIG", "/nonexistent")
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("flipback.toml"), config).expect("writable");
    folder
}

/// A port nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// One request as a stub daemon saw it.
#[derive(Debug)]
struct Seen {
    line: String,
    authorization: Option<String>,
    body: String,
}

/// A daemon of fixed answers, by method and path; what it was asked comes out of the channel.
fn daemon(answers: Vec<(&'static str, u16, String)>) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (asked, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Some(request) = read(&stream) else { continue };
            let answer = answers.iter().find(|(start, ..)| request.line.starts_with(start));
            let (status, body) = answer.map_or((404, "{}"), |(_, status, body)| (*status, body.as_str()));
            let mut stream = stream;
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = asked.send(request);
        }
    });
    (address, seen)
}

fn read(stream: &TcpStream) -> Option<Seen> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        lines.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(Seen {
        line,
        authorization,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// A status of one guard in a phase, as a daemon of now would say it.
fn status(phase: &str) -> String {
    let at = jiff_now();
    format!(
        r#"{{"version":"0","started_at":"{at}","at":"{at}","poll_seconds":5.0,"notifications_pending":0,"guards":[{{
        "guard":"shop/web","mode":"enforce","object":"Service/web","phase":"{phase}","why":"because","active":"green","standby":"blue",
        "colors":[],"rules":[],"switched_at":null,"watch_until":null,"cooldown_until":null,"paused_by":null,"last_incident":null,"events":[]}}]}}"#
    )
}

#[expect(clippy::disallowed_methods, reason = "a daemon's status is of now")]
fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[test]
fn help_and_version_are_no_errors_and_a_wrong_flag_is_64() {
    let folder = folder(GUARD);
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["status", "--help"],
        &["completions", "bash"],
        &["man"],
    ] {
        let output = flipback(folder.path(), arguments, &[]);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--nonsense"][..], &["rollback", "web"], &[]] {
        let output = flipback(folder.path(), arguments, &[]);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_bad_configuration_is_64_for_every_command_and_names_file_and_key() {
    let folder = folder(&format!("poll = 5\n{GUARD}"));
    for arguments in [
        &["run"][..],
        &["status"],
        &["check"],
        &["rollback", "web", "--reason", "x"],
        &["pause", "web"],
    ] {
        let output = flipback(folder.path(), arguments, &[]);
        assert_eq!(code(&output), 64, "{arguments:?}");
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains("flipback.toml: poll"), "{arguments:?}: {said}");
    }
    let output = flipback(folder.path(), &["check", "--output", "json"], &[]);
    let errors: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(errors["problems"][0]["key"], "poll");
}

#[test]
fn a_file_that_was_named_and_is_missing_is_64() {
    let folder = folder(GUARD);
    let output = flipback(folder.path(), &["status", "--config", "/nonexistent.toml"], &[]);
    assert_eq!(code(&output), 64);
    assert!(stderr(&output).contains("/nonexistent.toml"));
    let output = flipback(folder.path(), &["status"], &[("FLIPBACK_CONFIG", "/nonexistent.toml")]);
    assert_eq!(code(&output), 64);
}

#[test]
fn a_daemons_status_is_shown_and_its_phase_is_the_exit_code() {
    for (phase, expected) in [
        ("steady", 0),
        ("watching", 0),
        ("breaching", 1),
        ("rolled_back", 1),
        ("blind", 2),
        ("starting", 2),
    ] {
        let (address, _seen) = daemon(vec![("GET /api/v1/status", 200, status(phase))]);
        let folder = folder(&format!("[serve]\nlisten = \"{address}\"\n{GUARD}"));
        let output = flipback(folder.path(), &["status"], &[]);
        assert_eq!(code(&output), expected, "{phase}: {}", stderr(&output));
        assert!(stdout(&output).contains("shop/web"), "{phase}");
        assert_eq!(stderr(&output), "", "{phase}");
    }
}

#[test]
fn with_an_address_no_configuration_is_needed() {
    let (address, _seen) = daemon(vec![("GET /api/v1/status", 200, status("steady"))]);
    let empty = tempfile::tempdir().expect("a folder");
    let output = flipback(
        empty.path(),
        &["status", "web", "--address", &address.to_string(), "-o", "json"],
        &[],
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["guards"][0]["guard"], "shop/web");
    let output = flipback(empty.path(), &["status", "nobody", "--address", &address.to_string()], &[]);
    assert_eq!(code(&output), 64);
    assert!(stderr(&output).contains("shop/web"), "the names there are: {}", stderr(&output));
}

#[test]
fn a_named_daemon_that_is_not_there_is_2() {
    let empty = tempfile::tempdir().expect("a folder");
    let output = flipback(empty.path(), &["status", "--address", &free().to_string()], &[]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("no daemon answers"), "{}", stderr(&output));
}

#[test]
fn without_a_daemon_one_look_is_taken_and_said() {
    let folder = folder(&format!("[serve]\nlisten = \"{}\"\n{GUARD}", free()));
    let output = flipback(folder.path(), &["status"], &[]);
    assert_eq!(code(&output), 2, "no kubeconfig: it cannot be told; {}", stdout(&output));
    assert!(stderr(&output).contains("No daemon was asked"), "{}", stderr(&output));
    assert!(stdout(&output).contains("shop/web"), "{}", stdout(&output));
}

#[test]
fn a_command_goes_to_the_daemon_with_the_token_and_the_whole_name() {
    let (address, seen) = daemon(vec![
        ("GET /api/v1/status", 200, status("breaching")),
        ("POST /api/v1/commands", 200, r#"{"reply":"done","what":"paused by ann"}"#.into()),
    ]);
    let folder = folder(&format!("[serve]\nlisten = \"{address}\"\ntoken_file = \"token\"\n{GUARD}"));
    std::fs::write(folder.path().join("token"), "sesame\n").expect("writable");
    let output = flipback(
        folder.path(),
        &["pause", "web", "--reason", "migration"],
        &[("HOSTNAME", "bastion")],
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).trim(), "paused by ann");
    let asked: Vec<Seen> = seen.try_iter().collect();
    let command = asked.iter().find(|request| request.line.starts_with("POST")).expect("a command");
    assert_eq!(command.authorization.as_deref(), Some("Bearer sesame"));
    let body: serde_json::Value = serde_json::from_str(&command.body).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({"command": "pause", "guard": "shop/web", "by": "ann@bastion", "reason": "migration"})
    );
}

#[test]
fn a_refused_command_is_1_and_a_wrong_token_is_2() {
    let (address, _seen) = daemon(vec![
        ("GET /api/v1/status", 200, status("steady")),
        (
            "POST /api/v1/commands",
            409,
            r#"{"error":"refused","detail":"the standby color cannot serve","message":"refused: ..."}"#.into(),
        ),
    ]);
    let folder = folder(&format!("[serve]\nlisten = \"{address}\"\n{GUARD}"));
    let output = flipback(folder.path(), &["rollback", "web", "--reason", "x"], &[]);
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).contains("the standby color cannot serve"), "{}", stdout(&output));

    let (address, _seen) = daemon(vec![
        ("GET /api/v1/status", 200, status("steady")),
        ("POST /api/v1/commands", 401, r#"{"error":"unauthorized","message":"..."}"#.into()),
    ]);
    let output = flipback(
        folder.path(),
        &["rollback", "web", "--reason", "x", "--address", &address.to_string()],
        &[("FLIPBACK_SERVE__TOKEN", "hunter2")],
    );
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("token"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("hunter2"));
}

#[test]
fn check_offline_asks_nobody_and_says_what_to_look_at() {
    let folder = folder(GUARD);
    let output = flipback(
        folder.path(),
        &["check", "--offline"],
        &[("SLACK_WEBHOOK_URL", "https://hooks.slack.example/hunter2")],
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("needs a Prometheus") && said.contains("obeys SLACK_WEBHOOK_URL"),
        "{said}"
    );
    assert!(!said.contains("hunter2"));
    assert!(!said.contains('\u{1b}'), "no colors where nobody looks");
}

#[test]
fn check_without_a_cluster_is_1_and_says_what_to_do() {
    let folder = folder(GUARD);
    let output = flipback(folder.path(), &["check", "-o", "json"], &[]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let wrong = findings
        .as_array()
        .expect("a list")
        .iter()
        .find(|finding| finding["level"] == "wrong")
        .expect("something wrong");
    assert_eq!(wrong["about"], "cluster");
}
