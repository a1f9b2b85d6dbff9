//! Follows the configuration file of a running daemon: notices another content, reads and checks it in full, and hands it to the conductor,
//! which alone decides when it is taken.
//!
//! Contents are compared every few seconds (see [`Fingerprint`] for why nobody is asked to tell), and at once on SIGHUP, which is what
//! `systemctl reload` sends. A content counts when it was read twice alike, so that a file that is just being written is not refused for
//! its missing half. Checking is what a start does: every problem at once, then the live Prometheus' word on thresholds, within its bound.

use std::{path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::run;
use crate::{
    config::{self, Fingerprint, Sources},
    monitor::News,
};

/// How often the file is looked at. The kubelet brings a changed `ConfigMap` within a minute, a person waits for theirs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between the two looks that must be alike.
const SETTLE: Duration = Duration::from_millis(300);

/// Follows the file until stopped. `hash` is that of the content in force.
///
/// # Errors
/// When SIGHUP cannot be listened for; it would end the process.
pub async fn follow(sources: Sources, hash: String, news: mpsc::Sender<News>, stop: CancellationToken) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut handled = Handled::Hash(hash);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            told = hangup.recv() => told.is_some(),
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let Some(print) = settled(sources.file.clone(), &handled, asked).await else {
            continue;
        };
        handled = Handled::Print(print);
        let hash = print.short();
        tracing::info!(hash, asked, "Reading the configuration again");
        let heard = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            heard = checked(sources.clone()) => heard,
        };
        if news.send(heard).await.is_err() {
            return Ok(());
        }
    }
}

/// The content that was looked at last.
enum Handled {
    /// Only its short hash is known: that of the start.
    Hash(String),
    Print(Fingerprint),
}

impl Handled {
    fn is(&self, print: &Fingerprint) -> bool {
        match self {
            Self::Hash(hash) => print.short() == *hash,
            Self::Print(handled) => handled == print,
        }
    }
}

/// Another content than the handled one, or the same where somebody asked; `None` while there is nothing to read.
async fn settled(file: Option<PathBuf>, handled: &Handled, asked: bool) -> Option<Fingerprint> {
    let mut print = look(file.clone()).await?;
    if handled.is(&print) && !asked {
        return None;
    }
    loop {
        tokio::time::sleep(SETTLE).await;
        let again = look(file.clone()).await?;
        if again == print {
            return Some(print);
        }
        print = again;
    }
}

async fn look(file: Option<PathBuf>) -> Option<Fingerprint> {
    // A file on a stuck mount must not stop the other tasks of this thread.
    tokio::task::spawn_blocking(move || Fingerprint::of(file.as_deref())).await.ok()
}

/// Reads and checks everything, as a start does.
async fn checked(sources: Sources) -> News {
    let refused = |errors: config::ConfigErrors| News::Refused { why: errors.to_string() };
    let loaded = tokio::task::spawn_blocking(move || config::load(&sources)).await;
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(errors)) => return refused(errors),
        Err(error) => {
            return News::Refused {
                why: format!("the configuration could not be read: {error}"),
            };
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run::vetted(config.clone()).await {
        Some(errors) => refused(errors),
        None => News::Changed {
            hash: config.hash.clone(),
            config: Box::new(config),
        },
    }
}
