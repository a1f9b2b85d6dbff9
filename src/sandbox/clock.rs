//! The sandbox's only clock. It is a double of the world, and the world has a clock of its own; the daemon inside never
//! reads this one.

use jiff::Timestamp;

/// The present time.
#[expect(clippy::disallowed_methods, reason = "the sandbox is the world, and the world has a clock")]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// The present time in whole seconds, as Kubernetes writes it.
pub(super) fn stamp(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_else(|_| at.to_string())
}
