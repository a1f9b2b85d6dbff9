//! The API server's own record of who asked for what: the witness that flipback cannot bribe.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

/// What is recorded: every write with both bodies, every read without, save for those who keep the cluster itself going.
/// Written before the request is answered (`--audit-log-mode blocking`).
pub const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:kube-controller-manager", "system:node:testbed", "system:apiserver", "system:anonymous"]
  - level: None
    nonResourceURLs: ["/*"]
  - level: RequestResponse
    verbs: [create, update, patch, delete, deletecollection]
  - level: Metadata
"#;

/// One answered request.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// `get`, `list`, `watch`, `create`, `patch`, ...
    pub verb: String,
    /// Who, e.g. `system:serviceaccount:shop:flipback`.
    pub user: String,
    /// What the client calls itself.
    pub agent: String,
    /// When the API server got it.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
    /// `ResponseComplete`, or `ResponseStarted` for a watch that goes on.
    pub stage: String,
    /// `services`, `pods`, ...
    pub resource: String,
    /// `log`, `status`, ...; empty without one.
    pub subresource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty for a list.
    pub name: String,
    /// The HTTP status.
    pub code: u16,
    /// The path with its query.
    pub uri: String,
    /// The body that was sent; null for reads.
    pub request: Value,
    /// The body of the answer; null for reads.
    pub response: Value,
}

impl AuditEvent {
    /// Whether it would change something. Access reviews are questions, though they are POSTed.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !self.resource.ends_with("accessreviews")
            && !self.resource.ends_with("rulesreviews")
    }

    /// Whether it did change something.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.is_write() && (200..300).contains(&self.code) && !self.uri.contains("dryRun=")
    }

    /// Whether it is about this object.
    #[must_use]
    pub fn is_on(&self, resource: &str, namespace: &str, name: &str) -> bool {
        self.resource == resource && self.namespace == namespace && self.name == name
    }

    fn parse(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let time = |pointer: &str| text(pointer).parse().ok();
        Some(Self {
            verb: text("/verb"),
            user: text("/user/username"),
            agent: text("/userAgent"),
            received: time("/requestReceivedTimestamp")?,
            answered: time("/stageTimestamp")?,
            stage: text("/stage"),
            resource: text("/objectRef/resource"),
            subresource: text("/objectRef/subresource"),
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0) as u16,
            uri: text("/requestURI"),
            request: event.get("requestObject").cloned().unwrap_or_default(),
            response: event.get("responseObject").cloned().unwrap_or_default(),
        })
    }
}

/// Every event in the file so far, oldest first. A last line that is still being written is left for the next time.
///
/// # Panics
/// When the file cannot be read, or a whole line is none of ours.
#[must_use]
pub fn read(path: &Path) -> Vec<AuditEvent> {
    read_of(path, "")
}

/// Those whose line holds a word, such as a user's name: of a long file the rest is not even understood, which takes seconds.
///
/// # Panics
/// When the file cannot be read, or such a line is none of ours.
#[must_use]
pub fn read_of(path: &Path, word: &str) -> Vec<AuditEvent> {
    let text = std::fs::read_to_string(path).expect("the audit log is readable");
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    whole
        .lines()
        .filter(|line| line.contains(word))
        .map(|line| AuditEvent::parse(line).unwrap_or_else(|| panic!("unreadable audit line {line:?}")))
        .collect()
}
