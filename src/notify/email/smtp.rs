//! One mail's way to its mail server, spoken step by step.

use std::{future::Future, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use lettre::{
    Address, Message as Mail,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail as MailFrom, Rcpt},
        extension::{ClientId, Extension, MailParameter},
        response::Code,
    },
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::warn;

use super::wrong;
use crate::{
    model::settings::{Email, MailSecurity},
    notify::{DeliverError, post::without},
};

/// A server that does not take the connection by then never will.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The mail is delivered already.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// The way of one mail.
pub(super) struct Line<'a> {
    email: &'a Email,
    password: Option<&'a SecretString>,
    deadline: Instant,
}

type Smtp<T> = Result<T, lettre::transport::smtp::Error>;

impl<'a> Line<'a> {
    pub(super) fn new(email: &'a Email, password: Option<&'a SecretString>, deadline: Instant) -> Self {
        Self { email, password, deadline }
    }

    /// Carries it there.
    pub(super) async fn carry(&self, mail: &Mail, ca: Option<Certificate>) -> Result<(), DeliverError> {
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
