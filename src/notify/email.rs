//! E-mail by SMTP: one mail per message, plain and HTML, with the picture of what happened in it. The mails of one thread
//! answer its first one, so that a mail program shows them together.
//!
//! - The connection is made for each mail and spoken step by step, so that an error says at which step it happened; each
//!   step waits no longer than what is left of the chat's timeout.
//! - Recipients are asked one by one. Where some are refused and others are not, those are told: that somebody has left the
//!   company must not keep everybody else from hearing.
//! - Nothing that anybody wrote becomes a header by itself: lettre encodes the subject, everything else is ours.
//! - Neither password nor the form in which it travels is repeated in an error.

use std::path::Path;

use futures::{FutureExt, future::BoxFuture};
use lettre::{
    Message as Mail,
    message::{
        Attachment, Mailbox, MultiPart, SinglePart,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::client::Certificate,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use super::{DeliverError, Draft, Entry, Notifier, Parcel, failure::chain, letter, picture, post::Post};
use crate::{
    model::{
        Announcement, Severity,
        settings::{Channel, ChatKind, Email, MailSecurity},
    },
    words::clipped,
};
use smtp::Line;

mod smtp;

/// Nobody's list of mails shows more.
const SUBJECT_CHARS_MAX: usize = 200;
/// Of a Message-ID's first half: the whole must fit a line.
const ID_CHARS_MAX: usize = 120;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Email,
    open: |post| Box::new(Sender { post }),
};

struct Sender {
    post: Post,
}

impl Notifier for Sender {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Email(email) = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let picture = match &parcel.announcement.picture {
                Some(path) => self.picture(path, &parcel.announcement.id).await,
                None => None,
            };
            let with_picture = picture.is_some();
            let mail = compose(email, &parcel, picture)?;
            let first = parcel.thread.map_or_else(|| message_id(email, parcel.announcement), str::to_owned);
            if let Some(rehearsal) = self.post.rehearsal() {
                rehearsal.note(draft(email, &mail, &parcel, with_picture));
                return Ok(Some(first));
            }
            let password = match &email.login {
                Some((_, password)) => Some(self.post.read(password).await?),
                None => None,
            };
            let ca = match &email.ca_file {
                Some(path) => Some(certificate(path).await?),
                None => None,
            };
            let deadline = Instant::now() + self.post.chat().timeout;
            Line::new(email, password.as_ref(), deadline).carry(&mail, ca).await?;
            Ok(Some(first))
        }
        .boxed()
    }
}

impl Sender {
    /// The picture; a mail goes without it rather than not at all.
    async fn picture(&self, path: &Path, id: &str) -> Option<Vec<u8>> {
        match picture::read(path).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(
                    chat = self.post.name(),
                    id,
                    error = chain(&error),
                    "Message goes without its picture"
                );
                None
            }
        }
    }
}

/// Something that only another configuration changes.
fn wrong(step: &'static str, why: impl ToString) -> DeliverError {
    DeliverError::Mail {
        step,
        why: why.to_string(),
        permanent: true,
    }
}

fn mailbox(text: &str) -> Result<Mailbox, DeliverError> {
    text.parse()
        .map_err(|error| wrong("read a mail address of the configuration", format!("{text:?}: {error}")))
}

/// The whole mail.
fn compose(email: &Email, parcel: &Parcel<'_>, picture: Option<Vec<u8>>) -> Result<Mail, DeliverError> {
    const STEP: &str = "put the mail together";
    let a = parcel.announcement;
    let html = SinglePart::html(letter::html(parcel, picture.is_some()));
    let body = MultiPart::alternative().singlepart(SinglePart::plain(letter::plain(parcel)));
    let body = match picture {
        None => body.singlepart(html),
        Some(png) => {
            let media_type = ContentType::parse("image/png").map_err(|error| wrong(STEP, error))?;
            let picture = Attachment::new_inline_with_name(letter::PICTURE.to_owned(), picture::FILE_NAME.to_owned());
            let related = MultiPart::related().singlepart(html).singlepart(picture.body(png, media_type));
            body.multipart(related)
        }
    };
    let mut mail = Mail::builder()
        .from(mailbox(&email.from)?)
        .subject(letter::one_line(&clipped(&parcel.message.title, SUBJECT_CHARS_MAX, |_| None)))
        .date(a.at.into())
        .message_id(Some(message_id(email, a)));
    for to in &email.to {
        mail = mail.to(mailbox(to)?);
    }
    if let Some(first) = parcel.thread.filter(|first| is_message_id(first)) {
        mail = mail.in_reply_to(first.to_owned()).references(first.to_owned());
    }
    let mut mail = mail.multipart(body).map_err(|error| wrong(STEP, error))?;
    let importance = match parcel.message.severity {
        Severity::Critical => "high",
        Severity::Warning => "normal",
        Severity::Info => "low",
    };
    for (name, value) in [
        // Nobody's absence note answers it, and other programs do not either.
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("Importance", importance),
        ("X-Flipback-Topic", a.topic.as_str()),
        ("X-Flipback-Guard", a.guard.as_str()),
    ] {
        let name = HeaderName::new_from_ascii_str(name);
        mail.headers_mut().insert_raw(HeaderValue::new(name, letter::one_line(value)));
    }
    Ok(mail)
}

/// `<announcement@domain of the sender>`: the same however often it is sent, so that mail programs drop a repeated one.
fn message_id(email: &Email, announcement: &Announcement) -> String {
    let id = &announcement.id;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let mut left: String = id.chars().filter(|c| fits(*c)).collect();
    let sound = !left.starts_with('.') && !left.ends_with('.') && !left.contains("..");
    if left != *id || left.is_empty() || left.len() > ID_CHARS_MAX || !sound {
        left = Sha256::digest(id).iter().map(|byte| format!("{byte:02x}")).collect();
    }
    let domain = mailbox(&email.from).map_or_else(|_| "flipback.invalid".to_owned(), |from| from.email.domain().to_owned());
    format!("<{left}@{domain}>")
}

/// A receipt of ours, and nothing that would end a header's line.
fn is_message_id(text: &str) -> bool {
    let within = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    within.is_some_and(|within| within.contains('@') && within.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>')))
}

async fn certificate(path: &Path) -> Result<Certificate, DeliverError> {
    const STEP: &str = "read the certificate authorities of the mail server";
    // A file may be mounted a moment later.
    let failed = |why: String| DeliverError::Mail {
        step: STEP,
        why: format!("{path:?}: {why}"),
        permanent: false,
    };
    let pem = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
    Certificate::from_pem(&pem).map_err(|error| failed(chain(&error)))
}

/// The mail as a person reads it: its headers unfolded, its parts as they were before they were encoded.
fn draft(email: &Email, mail: &Mail, parcel: &Parcel<'_>, with_picture: bool) -> Draft {
    let text = String::from_utf8_lossy(&mail.formatted()).into_owned();
    let headers = text.split_once("\r\n\r\n").map_or(text.as_str(), |(headers, _)| headers);
    // A folded header's next lines begin with white space.
    let unfolded = headers.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut body = json!({"plain": letter::plain(parcel), "html": letter::html(parcel, with_picture)});
    if with_picture {
        body["picture"] = json!(picture::FILE_NAME);
    }
    Draft {
        to: format!("SMTP {}:{} ({})", email.host, email.port, security(email.security)),
        headers: unfolded
            .lines()
            .filter_map(|line| line.split_once(": "))
            // Its boundary is drawn by lot, and says nothing.
            .filter(|(name, _)| *name != "Content-Type")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body,
    }
}

fn security(security: MailSecurity) -> &'static str {
    match security {
        MailSecurity::Tls => "TLS",
        MailSecurity::Starttls => "STARTTLS",
        MailSecurity::None => "unprotected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Topic,
        words::{
            Message,
            tests::{TOPICS, example},
        },
    };

    fn email() -> Email {
        Email {
            host: "mail.example".into(),
            port: 587,
            security: MailSecurity::Starttls,
            login: None,
            ca_file: None,
            from: "flipback <flipback@shop.example>".into(),
            to: vec!["ops@shop.example".into(), "Ann <ann@shop.example>".into()],
        }
    }

    fn composed(announcement: &Announcement, message: &Message, thread: Option<&str>, picture: Option<Vec<u8>>) -> String {
        let parcel = Parcel {
            announcement,
            message,
            thread,
        };
        let mail = compose(&email(), &parcel, picture).expect("a mail");
        String::from_utf8(mail.formatted()).expect("ASCII")
    }

    /// The boundary between parts is drawn by lot.
    fn steady(mail: &str) -> String {
        let mut steady = mail.replace("\r\n", "\n");
        let boundaries: Vec<String> = mail
            .split("boundary=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next().map(str::to_owned))
            .collect();
        for (n, boundary) in boundaries.iter().enumerate() {
            steady = steady.replace(boundary.as_str(), &format!("BOUNDARY-{n}"));
        }
        steady
    }

    #[test]
    fn a_rollback_as_a_mail() {
        let completed = example(Topic::RollbackCompleted);
        let mail = composed(&completed, &Message::of(&completed), Some("<first@shop.example>"), None);
        insta::assert_snapshot!(steady(&mail));
    }

    #[test]
    fn the_html_of_a_mail_with_everything() {
        let ready = Announcement {
            link: Some("https://evidence.example/shop.web/report.html?a=1&b=2".into()),
            ..example(Topic::RollbackFailed)
        };
        let message = Message::of(&ready);
        let parcel = Parcel {
            announcement: &ready,
            message: &message,
            thread: None,
        };
        insta::assert_snapshot!("html", letter::html(&parcel, true));
        insta::assert_snapshot!("plain", letter::plain(&parcel));
    }

    #[test]
    fn every_topic_becomes_a_mail_of_seven_bit_lines() {
        for topic in TOPICS {
            let announcement = example(topic);
            let mail = composed(&announcement, &Message::of(&announcement), None, None);
            assert!(mail.is_ascii(), "{topic:?}");
            assert!(mail.split("\r\n").all(|line| line.len() <= 998), "{topic:?}");
            assert!(mail.contains("\r\nAuto-Submitted: auto-generated\r\n"), "{mail}");
        }
    }

    #[test]
    fn what_anybody_wrote_becomes_no_header_and_no_markup() {
        let hostile = Announcement {
            id: "x\r\nBcc: eve@evil.example\r\n\r\n<script>".into(),
            why: "<script>alert(1)</script>\r\n.\r\nRCPT TO:<eve@evil.example>".into(),
            object: "Service/\"><img src=x onerror=alert(1)>".into(),
            link: Some("javascript:alert(1)".into()),
            ..example(Topic::RollbackFailed)
        };
        let message = Message {
            title: "a\r\nBcc: eve@evil.example\r\nX: \u{202e}y".repeat(20),
            ..Message::of(&hostile)
        };
        for thread in ["<a@b>\r\nBcc: eve@evil.example", "no id", "<a b@c>", "<@\u{1}>"] {
            let mail = composed(&hostile, &message, Some(thread), None);
            let (headers, _) = mail.split_once("\r\n\r\n").expect("a body");
            let names: Vec<&str> = headers
                .lines()
                .filter(|line| !line.starts_with([' ', '\t']))
                .filter_map(|line| line.split(':').next())
                .collect();
            assert_eq!(
                names,
                [
                    "From",
                    "Subject",
                    "Date",
                    "Message-ID",
                    "To",
                    "MIME-Version",
                    "Auto-Submitted",
                    "X-Auto-Response-Suppress",
                    "Importance",
                    "X-Flipback-Topic",
                    "X-Flipback-Guard",
                    "Content-Type"
                ],
                "{headers}"
            );
        }
        let html = letter::html(
            &Parcel {
                announcement: &hostile,
                message: &message,
                thread: None,
            },
            false,
        );
        assert!(
            !html.contains("<script") && !html.contains("<img") && !html.contains("href"),
            "{html}"
        );
    }

    #[test]
    fn a_message_id_is_sound_and_the_same_every_time() {
        let email = email();
        for id in ["20261121T041234.567Z-blind", "", "..", "a b", &"x".repeat(500), "é@<>"] {
            let announcement = Announcement {
                id: id.into(),
                ..example(Topic::Blind)
            };
            let made = message_id(&email, &announcement);
            assert_eq!(made, message_id(&email, &announcement));
            assert!(is_message_id(&made) && made.len() < 200, "{made}");
        }
        let plain = message_id(&email, &example(Topic::Blind));
        assert_eq!(plain, "<20261121T041234.567Z-blind@shop.example>");
    }

    #[test]
    fn a_picture_lies_within_the_mail() {
        let announcement = example(Topic::EvidenceReady);
        let mail = composed(
            &announcement,
            &Message::of(&announcement),
            None,
            Some(b"\x89PNG\r\n\x1a\n".to_vec()),
        );
        assert!(mail.contains("Content-ID: <what-happened@flipback>"), "{mail}");
    }

    #[test]
    fn a_wrong_address_of_the_configuration_is_said() {
        let announcement = example(Topic::Test);
        let message = Message::of(&announcement);
        let parcel = Parcel {
            announcement: &announcement,
            message: &message,
            thread: None,
        };
        let broken = Email {
            to: vec!["ops at shop".into()],
            ..email()
        };
        let error = compose(&broken, &parcel, None).expect_err("no address");
        assert!(error.is_permanent() && error.to_string().contains("ops at shop"), "{error}");
    }
}
