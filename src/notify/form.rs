//! What the forms of several chats share: the sign of a severity, the button to the report, the facts beside it.

use url::Url;

use crate::{
    model::{Announcement, Severity},
    words::Message,
};

/// Slack's limit of a button's address, the strictest.
const URL_CHARS_MAX: usize = 3000;

/// The severity for those who see no color: in a notification, in a list of steps.
pub(super) fn sign(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "🔴",
        Severity::Warning => "🟠",
        Severity::Info => "🟢",
    }
}

/// An address that a button may lead to.
pub(super) fn address(link: Option<&str>) -> Option<Url> {
    let url = Url::parse(link?).ok()?;
    let opens = matches!(url.scheme(), "http" | "https") && url.as_str().chars().count() <= URL_CHARS_MAX;
    opens.then_some(url)
}

/// The facts that do not stand elsewhere in a message that has a button to the report and names the incident.
pub(super) fn facts<'a>(announcement: &'a Announcement, message: &'a Message) -> impl Iterator<Item = (&'a str, &'a str)> {
    let button = address(announcement.link.as_deref()).and(announcement.link.as_deref());
    let elsewhere = [button, announcement.incident.as_deref()];
    let facts = message.facts.iter().map(|fact| (fact.name, fact.value.as_str()));
    facts.filter(move |(_, value)| !elsewhere.contains(&Some(value)))
}
