//! Copies of evidence to a real S3 server: whole, resumed after `kill -9`, patient while it is down, silent about secrets.

pub mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use flipback::{
    evidence::{
        copy::{self, Copier},
        stock,
    },
    metrics::Metrics,
    model::settings::{CopySettings, Secret},
};
use object_store::{Attribute, ObjectStoreExt as _};
use secrecy::SecretString;
use serde_json::Value;
use support::{
    Bundles, S3,
    bundle::{self, Like},
    certs::Authority,
    eventually, install_tls,
    process::Process,
    s3::{ACCESS_KEY, BUCKET, SECRET_KEY},
};

const LONG: Duration = Duration::from_secs(120);
const PREFIX: &str = "prod/flipback";

fn url() -> String {
    format!("s3://{BUCKET}/{PREFIX}")
}

fn settings(s3: &S3) -> CopySettings {
    let secret = |(name, value): (&str, String)| (name.to_owned(), Secret::Value(SecretString::from(value)));
    CopySettings {
        url: url().parse().expect("a URL"),
        options: s3.options().into_iter().map(secret).collect::<BTreeMap<_, _>>(),
    }
}

/// `flipback evidence copy`, with the environment that the tools of AWS read.
fn command(bundles: &Bundles, s3: &S3, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
    command
        .env_clear()
        .args(["evidence", "copy", "--to", &url(), "--data-dir"])
        .arg(bundles.data_dir())
        .args(arguments)
        .current_dir(bundles.data_dir());
    for (name, value) in s3.options() {
        let name = name.to_ascii_uppercase();
        command.env(if name.starts_with("AWS_") { name } else { format!("AWS_{name}") }, value);
    }
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn id(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().into_owned()
}

fn is_whole(bundles: &Bundles, folder: &Path) -> bool {
    let all = stock::stock(&bundles.incidents(), Some(&url())).expect("lists");
    all.iter().any(|one| one.folder == folder && !one.kept.awaits_copy)
}

#[tokio::test]
async fn a_copy_is_the_bundle_with_its_types_and_the_list_last() {
    install_tls();
    let Some(mut s3) = S3::new("a_copy_is_the_bundle_with_its_types_and_the_list_last") else {
        return;
    };
    s3.start().await;
    let bundles = Bundles::new();
    let folder = bundles.make(&Like {
        // Two of them are sent in parts.
        files: vec![
            ("logs/green/web-green-1/big.log".into(), 11 << 20),
            ("logs/blue/web-blue-1/five.log".into(), 5 << 20),
            ("plot.png".into(), 0),
        ],
        ..Like::default()
    });
    fs::write(folder.join(".pinned"), "").expect("ours");
    let copied = command(&bundles, &s3, &["--output", "json"]).output().expect("runs");
    assert!(copied.status.success(), "{}", told(&copied));
    assert_eq!(json(&copied)[0]["copied"], true);
    let there = s3.bucket().join(PREFIX).join(id(&folder));
    assert!(bundle::holds(&there), "sha256sum finds every object");
    let listed = fs::read_to_string(there.join("MANIFEST.sha256")).expect("is there").lines().count();
    assert_eq!(s3.objects("").len(), listed + 1, "and nothing else: {:?}", s3.objects(""));
    let written = |name: &str| fs::metadata(there.join(name)).expect("is there").modified().expect("a time");
    let last = s3
        .objects("")
        .iter()
        .map(|object| fs::metadata(s3.bucket().join(object)).expect("there").modified().expect("a time"))
        .max();
    assert_eq!(Some(written("MANIFEST.sha256")), last);
    // What a browser would be told.
    let mut client = object_store::aws::AmazonS3Builder::new().with_bucket_name(BUCKET);
    for (name, value) in s3.options() {
        client = client.with_config(name.parse().expect("known"), value);
    }
    let client = client.build().expect("a client");
    for (name, kind) in [
        ("report.html", "text/html; charset=utf-8"),
        ("incident.json", "application/json"),
        ("logs/green/web-green-1/big.log", "text/plain; charset=utf-8"),
        ("plot.png", "image/png"),
    ] {
        let path = object_store::path::Path::from(format!("{PREFIX}/{}/{name}", id(&folder)));
        let got = client.get(&path).await.expect("is there");
        assert_eq!(got.attributes.get(&Attribute::ContentType).map(AsRef::as_ref), Some(kind), "{name}");
    }
    let again = command(&bundles, &s3, &[]).output().expect("runs");
    assert!(
        again.status.success() && told(&again).contains("copied to s3://evidence/prod/flipback already"),
        "{}",
        told(&again)
    );
}

#[tokio::test]
async fn a_copy_that_was_killed_goes_on_where_it_was() {
    install_tls();
    let Some(mut s3) = S3::new("a_copy_that_was_killed_goes_on_where_it_was") else {
        return;
    };
    s3.start().await;
    let bundles = Bundles::new();
    let files = (0..60).map(|n| (format!("logs/green/web-green-{n:02}/app.log"), 1 << 20)).collect();
    let folder = bundles.make(&Like { files, ..Like::default() });
    let mut killed = Process::start("flipback", command(&bundles, &s3, &[]), bundles.data_dir().join("copy.log"));
    let noted = || {
        fs::read_to_string(folder.join(".copied"))
            .unwrap_or_default()
            .matches("\"file\"")
            .count()
    };
    eventually("some files to be copied", LONG, || {
        let some = noted() >= 5;
        async move { some.then_some(()) }
    })
    .await;
    // Nothing goes on behind the test's back.
    s3.signal("STOP");
    killed.kill();
    let had = noted();
    assert!(
        (5..60).contains(&had),
        "{had} files were copied when it was killed: {}",
        killed.output()
    );
    let there = s3.bucket().join(PREFIX).join(id(&folder));
    assert!(!there.join("MANIFEST.sha256").exists(), "a copy that is not whole has no list");
    assert!(!is_whole(&bundles, &folder));
    s3.signal("CONT");
    let resumed = command(&bundles, &s3, &["--output", "json"]).output().expect("runs");
    assert!(resumed.status.success(), "{}", told(&resumed));
    let answer = json(&resumed);
    assert_eq!(answer[0]["had"], had, "nothing is sent twice: {answer}");
    assert_eq!(answer[0]["files"], 60 + 5 + 1 - had);
    assert!(bundle::holds(&there) && is_whole(&bundles, &folder));
}

#[tokio::test]
async fn what_waits_is_copied_when_the_server_comes_up_again() {
    install_tls();
    let Some(mut s3) = S3::new("what_waits_is_copied_when_the_server_comes_up_again") else {
        return;
    };
    let bundles = Bundles::new();
    let first = bundles.make(&Like::default());
    let metrics = Metrics::new().expect("registers");
    let copier = Copier::start(bundles.incidents(), settings(&s3), metrics.clone());
    let failed = || metrics.evidence_copies.with_label_values(&["failed"]).get();
    let several = |n: u64| {
        let enough = failed() >= n;
        async move { enough.then_some(()) }
    };
    eventually("two tries", LONG, || several(2)).await;
    assert_eq!(metrics.evidence_copies_pending.get(), 1);
    s3.start().await;
    let whole = |folder: &PathBuf| {
        let whole = is_whole(&bundles, folder);
        async move { whole.then_some(()) }
    };
    eventually("the copy", LONG, || whole(&first)).await;
    // Gone in the middle of things, with another bundle to copy.
    s3.stop();
    let second = bundles.make(&Like {
        at: "2026-11-21T05:00:00.000Z",
        ..Like::default()
    });
    let before = failed();
    copier.nudge();
    eventually("another try", LONG, || several(before + 1)).await;
    s3.start().await;
    eventually("the second copy", LONG, || whole(&second)).await;
    assert!(bundle::holds(&s3.bucket().join(PREFIX).join(id(&first))) && bundle::holds(&s3.bucket().join(PREFIX).join(id(&second))));
    eventually("the metrics", LONG, || {
        let settled = metrics.evidence_copies_pending.get() == 0 && metrics.evidence_copies.with_label_values(&["copied"]).get() == 2;
        async move { settled.then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_are_said_without_being_told_and_rotated_ones_are_picked_up() {
    install_tls();
    let Some(mut s3) = S3::new("wrong_credentials_are_said_without_being_told_and_rotated_ones_are_picked_up") else {
        return;
    };
    s3.start().await;
    let bundles = Bundles::new();
    let folder = bundles.make(&Like::default());
    for (name, value, expected) in [
        (
            "AWS_SECRET_ACCESS_KEY",
            "hunter2-hunter2-hunter2",
            "SignatureDoesNotMatch (check the credentials)",
        ),
        (
            "AWS_ACCESS_KEY_ID",
            "AKIAHUNTER2HUNTER2",
            // versitygw has words of its own for somebody whom it does not know.
            "the store answered 40",
        ),
        ("AWS_SESSION_TOKEN", "token-hunter2-token", "InvalidToken (check the credentials)"),
    ] {
        // As loud as it gets: what the libraries log is flipback's log, too.
        let refused = command(&bundles, &s3, &["--log", "trace"]).env(name, value).output().expect("runs");
        let told = told(&refused);
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(told.contains("not copied") && told.contains(expected), "{told}");
        for secret in ["hunter2-hunter2-hunter2", "AKIAHUNTER2HUNTER2", "token-hunter2-token", SECRET_KEY] {
            assert!(!told.contains(secret), "{secret} is told: {told}");
        }
        let noted = fs::read_to_string(folder.join(".copied")).expect("is there");
        assert!(!noted.contains("HUNTER") && !noted.contains("hunter"), "{noted}");
    }
    // The daemon's way: a secret in a file, that is replaced while it tries.
    let file = bundles.data_dir().join("secret");
    fs::write(&file, "hunter2-hunter2-hunter2").expect("ours");
    let mut settings = settings(&s3);
    settings.options.insert("aws_secret_access_key".into(), Secret::File(file.clone()));
    let metrics = Metrics::new().expect("registers");
    let _copier = Copier::start(bundles.incidents(), settings, metrics.clone());
    eventually("a refusal", LONG, || {
        let refused = metrics.evidence_copies.with_label_values(&["failed"]).get() > 0;
        async move { refused.then_some(()) }
    })
    .await;
    fs::write(&file, format!("{SECRET_KEY}\n")).expect("ours");
    eventually("the copy", LONG, || {
        let whole = is_whole(&bundles, &folder);
        async move { whole.then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    install_tls();
    let Some(mut s3) = S3::new("a_bucket_that_does_not_exist_is_named") else {
        return;
    };
    s3.start().await;
    let bundles = Bundles::new();
    let folder = bundles.make(&Like::default());
    let mut settings = settings(&s3);
    settings.url = "s3://no-such-bucket/x".parse().expect("a URL");
    let found = stock::stock(&bundles.incidents(), None).expect("lists");
    let found = found.iter().find(|one| one.folder == folder).expect("is there");
    let error = copy::copy(found, &settings, false).await.expect_err("there is none").to_string();
    assert!(
        error.contains("s3://no-such-bucket/x") && error.contains("NoSuchBucket (make the bucket"),
        "{error}"
    );
    assert!(!error.contains(ACCESS_KEY) && !error.contains(SECRET_KEY), "{error}");
}

#[tokio::test]
async fn tls_is_trusted_by_the_systems_authorities_only() {
    install_tls();
    let Some(s3) = S3::new("tls_is_trusted_by_the_systems_authorities_only") else {
        return;
    };
    let authority = Authority::new(s3.folder());
    let pair = authority.server(s3.folder(), "s3");
    let mut s3 = s3.with_tls(pair);
    s3.start().await;
    let bundles = Bundles::new();
    let folder = bundles.make(&Like::default());
    let refused = command(&bundles, &s3, &[]).output().expect("runs");
    let text = told(&refused);
    assert!(
        refused.status.code() == Some(1) && text.contains("no connection: invalid peer certificate"),
        "{text}"
    );
    let copied = command(&bundles, &s3, &[])
        .env("SSL_CERT_FILE", &authority.ca)
        .output()
        .expect("runs");
    assert!(copied.status.success(), "{}", told(&copied));
    assert!(bundle::holds(&s3.bucket().join(PREFIX).join(id(&folder))));
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for_for_ever() {
    install_tls();
    let Some(mut s3) = S3::new("a_server_that_hangs_is_not_waited_for_for_ever") else {
        return;
    };
    s3.start().await;
    let bundles = Bundles::new();
    bundles.make(&Like::default());
    s3.signal("STOP");
    let mut hanging = command(&bundles, &s3, &[]);
    // What the settings' options do, too.
    hanging.env("AWS_TIMEOUT", "1s");
    let mut process = Process::start("flipback", hanging, bundles.data_dir().join("copy.log"));
    let ended = process.wait(LONG).await;
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", process.output());
    assert!(process.output().contains("no answer in time"), "{}", process.output());
    s3.signal("CONT");
}
