//! `flipback run`: the daemon, and the same daemon for whoever embeds it (the demo, the tests).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    model::Status,
    monitor::{self, COMMANDS_MAX, MonitorError},
    serve::{self, ServeError},
};

/// The watchdog of deploy/flipback.service waits for a minute.
const FEED_EVERY: Duration = Duration::from_secs(20);
/// Looks that a living conductor may miss.
const LOOKS_MISSED: u32 = 3;

/// Why the daemon could not start. Nothing of the network is among it: what cannot be reached is a state, told and retried.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A room could not be opened.
    #[error("failed to assemble the daemon")]
    Assemble(#[source] MonitorError),
    /// The address could not be bound.
    #[error("failed to open the status server")]
    Serve(#[source] ServeError),
    /// It had started, and then ended without being told to.
    #[error("the daemon ended by itself, which is a bug that its log describes: start it again")]
    Died(#[source] tokio::task::JoinError),
}

/// A daemon at work.
pub struct Running {
    /// What the page, the API and the command line show.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until the daemon has ended after its stop was asked for.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "The daemon ended abnormally");
        }
    }
}

/// Starts the daemon; it works until `stop` is cancelled and then ends within 5 s.
///
/// # Errors
/// [`StartError`] when the address cannot be used.
#[expect(clippy::disallowed_methods, reason = "an edge: the start is stamped once")]
pub async fn start(config: Config, stop: CancellationToken) -> Result<Running, StartError> {
    let parts = monitor::assemble(&config, jiff::Timestamp::now(), &stop).map_err(StartError::Assemble)?;
    let (commands, requests) = mpsc::channel(COMMANDS_MAX);
    let server = serve::bind(config.serve.clone(), parts.status.clone(), commands, parts.metrics)
        .await
        .map_err(StartError::Serve)?;
    let address = server.local_addr();
    tracing::info!(%address, guards = config.guards.len(), poll_seconds = config.poll.as_secs_f64(), "Watching");
    // Messages and the page outlive the conductor: what it says last must still be heard.
    let (last, serving) = (CancellationToken::new(), CancellationToken::new());
    let outbox = tokio::spawn(parts.outbox.run(last.clone()));
    let page = tokio::spawn(server.run(serving.clone()));
    let task = tokio::spawn(async move {
        parts.monitor.run(requests, stop).await;
        last.cancel();
        let _ = outbox.await;
        serving.cancel();
        let _ = page.await;
        tracing::info!("Stopped");
    });
    Ok(Running {
        status: parts.status,
        address,
        task,
    })
}

/// Tells systemd that the daemon is ready, and then that it is alive, for as long as the conductor looks at its guards.
///
/// Outside systemd this does nothing. The watchdog is fed while statuses come, and for [`LOOKS_MISSED`] polls after the last one, for a
/// poll may be longer than the watchdog's patience: a conductor that hangs is restarted.
pub async fn tell_systemd(mut status: watch::Receiver<Arc<Status>>, stop: CancellationToken) {
    let notify = |state: &[sd_notify::NotifyState<'_>]| {
        if let Err(error) = sd_notify::notify(state) {
            tracing::warn!(%error, "Failed to notify systemd");
        }
    };
    let mut looked = None;
    let mut patience = Duration::ZERO;
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => break,
            changed = tokio::time::timeout(FEED_EVERY, status.changed()) => changed,
        };
        match changed {
            Ok(Err(_)) => break,
            Ok(Ok(())) => {
                let now = status.borrow_and_update().clone();
                patience = Duration::try_from_secs_f64(now.poll_seconds).unwrap_or_default() * LOOKS_MISSED;
                if looked.replace(tokio::time::Instant::now()).is_none() {
                    notify(&[sd_notify::NotifyState::Ready]);
                }
                let line = format!("Watching {} guards", now.guards.len());
                notify(&[sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&line)]);
            }
            Err(_) if looked.is_some_and(|looked| looked.elapsed() <= patience) => notify(&[sd_notify::NotifyState::Watchdog]),
            Err(_) => {}
        }
    }
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for the signal, or for the end of a daemon that panicked: a process that guards nothing any more must not stay and look
/// alive, it must end, so that whoever supervises it starts it again.
async fn outlived(task: &mut JoinHandle<()>, signal: impl Future<Output = ()>) -> Result<(), StartError> {
    tokio::select! {
        () = signal => Ok(()),
        ended = task => ended.map_err(StartError::Died),
    }
}

/// `flipback run`: works until a signal, ends within 5 s of it.
///
/// # Errors
/// [`StartError`], also when the daemon dies.
pub async fn run(config: Config) -> Result<(), StartError> {
    let stop = CancellationToken::new();
    let mut running = start(config, stop.clone()).await?;
    let systemd = tokio::spawn(tell_systemd(running.status.clone(), stop.clone()));
    let signal = async {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "Failed to listen for signals: only SIGKILL will end this process");
            std::future::pending::<()>().await;
        }
    };
    outlived(&mut running.task, signal).await?;
    tracing::info!("Stopping");
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), systemd).await;
    running.finished().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_that_died_ends_the_process_without_a_signal() {
        let mut dying: JoinHandle<()> = tokio::spawn(async { panic!("a bug") });
        assert!(matches!(
            outlived(&mut dying, std::future::pending()).await,
            Err(StartError::Died(_))
        ));
        let mut living = tokio::spawn(std::future::pending::<()>());
        assert!(outlived(&mut living, async {}).await.is_ok());
    }
}
