//! Evidence and the audit journal: as they are written, and what is said when they are wrong.

use super::*;
use crate::model::settings::Retention;

#[test]
fn evidence_and_audit_are_read_whole() {
    let config = loaded(
        &format!(
            r#"
[evidence]
redact = ["shop-[0-9a-f]{{8,}}", "(?i)badge=\\S+"]
public_url = "https://evidence.example.com/flipback"
[evidence.retention]
count = 50
age = "30d"
bytes = "500 MB"
[evidence.copy]
url = "s3://evidence/flipback"
[evidence.copy.options]
aws_region = "eu-central-1"
AWS_ALLOW_HTTP = true
timeout = "30s"
aws_secret_access_key = {{ file = "aws-key" }}
[audit]
file_bytes = "1 MiB"
files = 5
[defaults.evidence]
follow_up = "0s"
{GUARD}"#
        ),
        &[("FLIPBACK_EVIDENCE__COPY__OPTIONS__AWS_SESSION_TOKEN", "hunter2")],
    );
    let evidence = &config.evidence;
    assert_eq!(evidence.redact, ["shop-[0-9a-f]{8,}", "(?i)badge=\\S+"]);
    let public = evidence.public_url.as_ref().expect("set");
    assert_eq!(
        public.join("shop.web_x/report.html").expect("joins").as_str(),
        "https://evidence.example.com/flipback/shop.web_x/report.html"
    );
    assert_eq!(
        evidence.retention,
        Retention {
            count: 50,
            age: Duration::from_secs(30 * 24 * 3600),
            bytes: 500_000_000,
        }
    );
    let copy = evidence.copy.as_ref().expect("set");
    assert_eq!(copy.url.as_str(), "s3://evidence/flipback");
    let options: Vec<String> = copy
        .options
        .iter()
        .map(|(name, value)| match value {
            Secret::Value(value) => format!("{name}={}", value.expose_secret()),
            Secret::File(path) => format!("{name}=<{}", path.file_name().expect("a name").to_string_lossy()),
        })
        .collect();
    assert_eq!(
        options,
        [
            "aws_allow_http=true",
            "aws_region=eu-central-1",
            "aws_secret_access_key=<aws-key",
            "aws_session_token=hunter2",
            "timeout=30s"
        ]
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!((config.audit.file_bytes, config.audit.files), (1 << 20, 5));
    assert_eq!(config.guards[0].evidence.follow_up, Duration::ZERO);
}

#[test]
fn the_environment_reaches_evidence_and_audit() {
    let config = loaded(
        GUARD,
        &[
            ("FLIPBACK_EVIDENCE__PUBLIC_URL", "https://evidence.example.com"),
            ("FLIPBACK_EVIDENCE__RETENTION__COUNT", "7"),
            ("FLIPBACK_EVIDENCE__COPY__URL", "file:///mnt/evidence"),
            ("FLIPBACK_AUDIT__FILES", "3"),
        ],
    );
    assert_eq!(
        config.evidence.public_url.as_ref().expect("set").as_str(),
        "https://evidence.example.com/"
    );
    assert_eq!(config.evidence.retention.count, 7);
    assert_eq!(config.evidence.copy.as_ref().expect("set").url.as_str(), "file:///mnt/evidence");
    assert_eq!(config.audit.files, 3);
}

#[test]
fn evidence_that_cannot_be_kept_so_is_refused() {
    let copy = |lines: &str| refused(&format!("[evidence.copy]\n{lines}\n{GUARD}"), &[]);
    let all = refused(
        r#"
[evidence]
redact = ["(unclosed", "a*", "fine", "x{1000}{1000}{1000}"]
public_url = "https://user:hunter2@evidence.example.com/"
log_lines = 10
retentio = 1
[evidence.retention]
count = 0
age = "5M"
bytes = "10 KiB"
[audit]
file_bytes = 1
files = 1
[defaults.evidence]
redact = ["x"]
follow_up = "-1s"
[[guards]]
name = "web"
"#,
        &[],
    );
    let said = [
        all,
        copy(""),
        copy("url = \"https://s3.example.com/bucket\""),
        copy("url = \"s3://key:hunter2@bucket/x\""),
        copy("url = \"s3:///x\""),
        copy("url = \"ftp://bucket\""),
        copy("url = \"file://backup/x\""),
        copy("url = \"file:///var/lib/flipback/copies\""),
        copy("url = \"file:///mnt/x\"\noptions = { aws_region = \"x\" }"),
        copy(
            "url = \"s3://bucket\"\noptions = { aws_regoin = \"x\", aws_secret_access_key = \"hunter2\", token = \"hunter2\", aws_endpoint = 1.5 }",
        ),
        copy("url = \"az://box\"\noptions = { account_key = \"hunter2\", aws_region = \"x\" }"),
        copy("url = \"gs://box\"\noptions = { google_service_account_key = \"hunter2\", google_service_account = { path = \"x\" } }"),
    ];
    let said = said.join("\n----\n");
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(said);
}
