//! E-mail by SMTP: one mail per message, plain and HTML, with the picture of what happened in it. The mails of one thread
//! answer its first one, so that a mail program shows them together.
//!
//! - The connection is made for each mail and spoken step by step, so that an error says at which step it happened; each
//!   step waits no longer than what is left of the chat's timeout.
//! - Recipients are asked one by one. Where some are refused and others are not, those are told: that somebody has left the
//!   company must not keep everybody else from hearing.
//! - Nothing that anybody wrote becomes a header by itself: lettre encodes the subject, everything else is ours.
//! - Neither password nor the form in which it travels is repeated in an error.

use std::{future::Future, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::{FutureExt, future::BoxFuture};
use lettre::{
    Address, Message as Mail,
    message::{
        Attachment, Mailbox, MultiPart, SinglePart,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail as MailFrom, Rcpt},
        extension::{ClientId, Extension, MailParameter},
        response::Code,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use super::{
    DeliverError, Draft, Entry, Notifier, Parcel,
    failure::chain,
    letter, picture,
    post::{Post, without},
};
use crate::{
    model::{
        Announcement, Severity,
        settings::{Channel, ChatKind, Email, MailSecurity},
    },
    words::clipped,
};

/// A server that does not take the connection by then never will.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The mail is delivered already.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
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

/// The way of one mail.
struct Line<'a> {
    email: &'a Email,
    password: Option<&'a SecretString>,
    deadline: Instant,
}

type Smtp<T> = Result<T, lettre::transport::smtp::Error>;

impl<'a> Line<'a> {
    fn new(email: &'a Email, password: Option<&'a SecretString>, deadline: Instant) -> Self {
        Self { email, password, deadline }
    }

    async fn carry(&self, mail: &Mail, ca: Option<Certificate>) -> Result<(), DeliverError> {
        let mut connection = self.connect(ca).await?;
        self.log_in(&mut connection).await?;
        let envelope = mail.envelope();
        let mut parameters = Vec::new();
        let plain = |address: &Address| <Address as AsRef<str>>::as_ref(address).is_ascii();
        if !envelope.to().iter().chain(envelope.from()).all(plain) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(wrong(
                    "send to an address with other than ASCII letters",
                    "the server does not know SMTPUTF8",
                ));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let from = MailFrom::new(envelope.from().cloned(), parameters);
        self.step("name the sender", connection.command(from)).await?;
        self.recipients(&mut connection, envelope.to()).await?;
        self.step("send the mail", connection.command(Data)).await?;
        self.step("send the mail", connection.message(&mail.formatted())).await?;
        // It is delivered, whatever comes of the goodbye.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, connection.quit()).await;
        Ok(())
    }

    async fn connect(&self, ca: Option<Certificate>) -> Result<AsyncSmtpConnection, DeliverError> {
        const STEP: &str = "reach the mail server";
        let host = &self.email.host;
        let tls = |step| {
            let mut parameters = TlsParameters::builder(host.clone());
            if let Some(ca) = ca {
                parameters = parameters.add_root_certificate(ca);
            }
            parameters.build_rustls().map_err(|error| self.failed(step, &error))
        };
        let hello = ClientId::default();
        let (wrapper, upgrade) = match self.email.security {
            MailSecurity::Tls => (Some(tls("set up TLS")?), None),
            MailSecurity::Starttls => (None, Some(tls("set up TLS")?)),
            MailSecurity::None => (None, None),
        };
        let server = (host.as_str(), self.email.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT_TIMEOUT), &hello, wrapper, None);
        let mut connection = self.step(STEP, connecting).await?;
        if let Some(parameters) = upgrade {
            // Never without: a server that offers none, or somebody between who hides it, gets neither password nor mail.
            if !connection.can_starttls() {
                return Err(wrong("protect the connection by STARTTLS", "the mail server does not offer it"));
            }
            self.step("protect the connection by STARTTLS", connection.starttls(parameters, &hello))
                .await?;
        }
        Ok(connection)
    }

    async fn log_in(&self, connection: &mut AsyncSmtpConnection) -> Result<(), DeliverError> {
        const STEP: &str = "log in at the mail server";
        let (Some((user, _)), Some(password)) = (&self.email.login, self.password) else {
            return Ok(());
        };
        let credentials = Credentials::new(user.clone(), password.expose_secret().trim().to_owned());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if connection.server_info().get_auth_mechanism(&mechanisms).is_none() {
            return Err(wrong(STEP, "it offers neither PLAIN nor LOGIN on this connection"));
        }
        self.step(STEP, connection.auth(&mechanisms, &credentials)).await?;
        Ok(())
    }

    /// Names the recipients; fails when the server takes none of them.
    async fn recipients(&self, connection: &mut AsyncSmtpConnection, to: &[Address]) -> Result<(), DeliverError> {
        let mut accepted = 0;
        let mut refusal: Option<DeliverError> = None;
        for address in to {
            let answered = self.step("name a recipient", connection.command(Rcpt::new(address.clone(), Vec::new())));
            match answered.await {
                Ok(_) => accepted += 1,
                Err(error @ DeliverError::Refused { .. }) => {
                    warn!(recipient = %address, reason = %error, "The mail server refuses a recipient");
                    // Where some may be taken later, the mail is worth another attempt.
                    if refusal.as_ref().is_none_or(DeliverError::is_permanent) {
                        refusal = Some(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match refusal {
            Some(refusal) if accepted == 0 => Err(refusal),
            _ => Ok(()),
        }
    }

    /// One step, within what is left of the time.
    async fn step<T>(&self, step: &'static str, doing: impl Future<Output = Smtp<T>>) -> Result<T, DeliverError> {
        match tokio::time::timeout_at(self.deadline, doing).await {
            Ok(done) => done.map_err(|error| self.failed(step, &error)),
            Err(_) => Err(DeliverError::Mail {
                step,
                why: "no answer in time".to_owned(),
                permanent: false,
            }),
        }
    }

    fn failed(&self, step: &'static str, error: &lettre::transport::smtp::Error) -> DeliverError {
        let secrets = self.secrets();
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        match error.status() {
            Some(code) => DeliverError::Refused {
                said: format!("{code} to the attempt to {step}: {}", without(&cause, &secrets)),
                permanent: error.is_permanent() && !may_heal(code),
            },
            None => DeliverError::Mail {
                step,
                why: without(&error.to_string(), &secrets),
                permanent: false,
            },
        }
    }

    /// The password, and what AUTH makes of it.
    fn secrets(&self) -> Vec<String> {
        let (Some((user, _)), Some(password)) = (&self.email.login, self.password) else {
            return Vec::new();
        };
        let password = password.expose_secret().trim();
        vec![
            password.to_owned(),
            BASE64.encode(password),
            BASE64.encode(format!("\0{user}\0{password}")),
        ]
    }
}

/// A password is put right within minutes, in a file that is read again: 530 and 535 are worth more attempts.
fn may_heal(code: Code) -> bool {
    matches!(u16::from(code), 530 | 534 | 535)
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
