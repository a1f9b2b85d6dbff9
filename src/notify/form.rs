//! What the forms of several chats share: the sign of a severity, the button to the report, the facts beside it.

use std::fmt::Write as _;

use url::{Position, Url};

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
    let url = Url::parse(&plain(&Url::parse(link?).ok()?)).ok()?;
    let opens = matches!(url.scheme(), "http" | "https") && url.as_str().chars().count() <= URL_CHARS_MAX;
    opens.then_some(url)
}

/// An address by the letters of RFC 3986 alone: browsers are content with more of them, chats are not.
fn plain(url: &Url) -> String {
    let mut out = url[..Position::BeforePath].to_owned();
    let rest = &url[Position::BeforePath..];
    let mut has_fragment = false;
    for (at, byte) in rest.bytes().enumerate() {
        let hex = |offset: usize| rest.as_bytes().get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        let stays = match byte {
            b'%' => hex(1) && hex(2),
            b'#' => !std::mem::replace(&mut has_fragment, true),
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte),
        };
        if stays {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The two facts that belong side by side, and first: what traffic leaves, and what it goes to.
const WAY: [&str; 4] = ["From", "To", "Active", "Standby"];

/// The facts that do not stand elsewhere in a message that has a button to the report and names the incident.
pub(super) fn facts<'a>(announcement: &'a Announcement, message: &'a Message) -> Vec<(&'a str, &'a str)> {
    let button = address(announcement.link.as_deref()).and(announcement.link.as_deref());
    let elsewhere = [button, announcement.incident.as_deref()];
    let facts = message.facts.iter().map(|fact| (fact.name, fact.value.as_str()));
    let mut facts: Vec<(&str, &str)> = facts.filter(|(_, value)| !elsewhere.contains(&Some(value))).collect();
    facts.sort_by_key(|(name, _)| !WAY.contains(name));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_everywhere_or_none() {
        let of = |link: &str| address(Some(link)).map(String::from);
        let plain = "https://evidence.example/shop.web_20261121T041234Z/report.html#why";
        assert_eq!(of(plain).as_deref(), Some(plain));
        let odd = of("https://evidence.example/a|b^c/[d]{e}?f=100%&g=%2f#h#i").expect("an address");
        assert_eq!(odd, "https://evidence.example/a%7Cb%5Ec/%5Bd%5D%7Be%7D?f=100%25&g=%2f#h%23i");
        for bad in [
            "javascript:alert(1)",
            "file:///etc/passwd",
            "report.html",
            "",
            &format!("https://e.example/{}", "x".repeat(3000)),
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
