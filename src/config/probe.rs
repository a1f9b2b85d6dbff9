//! Rules of kind `probe`: HTTP GET on the color's endpoints.

use std::time::Duration;

use crate::model::ProbeRule;

use super::{
    environment::Scripts,
    raw::{Share, Table},
};

/// More than half of the endpoints must fail: one bad node is no bad release.
const PROBE_THRESHOLD: f64 = 0.5;
const PROBE_PATH: &str = "/health";
/// What the kubelet accepts.
const PROBE_STATUS: (u16, u16) = (200, 399);
/// Two attempts end within the default poll.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_RETRIES: u32 = 1;
const PROBE_ENDPOINTS: u32 = 10;

/// The probe of a table.
pub(super) fn probe(table: &mut Table<'_>, scripts: &Scripts) -> ProbeRule {
    if let Some(timeout) = &scripts.probe_timeout {
        table.force("timeout", timeout.clone());
    }
    ProbeRule {
        threshold: table.share("threshold", Share::Open).unwrap_or(PROBE_THRESHOLD),
        path: table
            .text_where(
                "path",
                "a path that begins with /, such as \"/health\", or \"https:/health\" for TLS",
                |path| path.strip_prefix("https:").unwrap_or(path).starts_with('/') && !path.contains(char::is_whitespace),
            )
            .unwrap_or_else(|| PROBE_PATH.to_owned()),
        port: table.count("port", 1..=65535).and_then(|port| u16::try_from(port).ok()),
        status: status(table).unwrap_or(PROBE_STATUS),
        body_contains: table.text("body_contains"),
        timeout: table
            .duration("timeout", Duration::from_millis(10)..=Duration::from_secs(60))
            .unwrap_or(PROBE_TIMEOUT),
        retries: table.count("retries", 0..=10).unwrap_or(PROBE_RETRIES),
        endpoints_max: table.count("endpoints_max", 1..=100).unwrap_or(PROBE_ENDPOINTS),
    }
}

/// `"200-399"`, or one status.
fn status(table: &Table<'_>) -> Option<(u16, u16)> {
    let parse = |text: &str| -> Option<(u16, u16)> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        (100 <= low && low <= high && high <= 599).then_some((low, high))
    };
    let text = table.text_where("status", "a status or a range of them, such as 200 or \"200-399\"", |text| {
        parse(text).is_some()
    })?;
    parse(&text)
}
