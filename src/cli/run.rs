//! `flipback run`: the daemon, and the same daemon for whoever embeds it (the demo, the tests).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{BAD, Failure, USAGE, chain, follow};
use crate::{
    config::{Config, ConfigErrors, Origin, Problem, Sources},
    metrics::Metrics,
    model::{RuleKind, Status},
    monitor::{self, COMMANDS_MAX, CONDUCTOR_FINISH, MonitorError, News, World},
    observe::{Observer, Unfit},
    serve::{self, ServeError},
};

/// How long everything else may take after the conductor's time is over: as long as the slowest of its parts, the audit journal.
const LAST_WORDS: Duration = Duration::from_millis(2500);
/// The watchdog of deploy/flipback.service waits for a minute.
const FEED_EVERY: Duration = Duration::from_secs(20);
/// Looks that a living conductor may miss.
const LOOKS_MISSED: u32 = 3;

/// A live Prometheus has its say on the configuration within this; after it the daemon is at work and stays so.
const VETTED_WITHIN: Duration = Duration::from_secs(10);

/// Why the daemon could not start. Nothing of the network is among it: what cannot be reached is a state, told and retried.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A room could not be opened.
    #[error("failed to assemble the daemon")]
    Assemble(#[source] MonitorError),
    /// The address could not be bound.
    #[error("failed to open the status server")]
    Serve(#[source] ServeError),
    /// The live Prometheus says that the configuration cannot be judged by.
    #[error("a live Prometheus contradicts the configuration: {0}")]
    Unfit(ConfigErrors),
    /// It had started, and then ended without being told to.
    #[error("the daemon ended by itself, which is a bug that its log describes: start it again")]
    Died(#[source] tokio::task::JoinError),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Unfit(_) => USAGE,
            StartError::Assemble(_) | StartError::Serve(_) | StartError::Died(_) => BAD,
        };
        Self {
            code,
            message: chain(&error),
        }
    }
}

/// A daemon at work.
pub struct Running {
    /// What the page, the API and the command line show.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it hears of other configurations.
    pub news: mpsc::Sender<News>,
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

/// Starts the daemon; it works until `stop` is cancelled and then ends within 5 s. A second more it waits for a disk that does not answer.
///
/// # Errors
/// [`StartError`] when the address cannot be used.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Running, StartError> {
    let world = World::real();
    let parts = monitor::assemble(&config, &world, &stop).map_err(StartError::Assemble)?;
    let (commands, requests) = mpsc::channel(COMMANDS_MAX);
    let server = serve::bind(config.serve.clone(), parts.status.clone(), commands, parts.metrics)
        .await
        .map_err(StartError::Serve)?;
    let address = server.local_addr();
    tracing::info!(%address, guards = config.guards.len(), poll_seconds = config.poll.as_secs_f64(), "Watching");
    // Messages and the page outlive the conductor: what it says last must still be heard.
    let (last, hurry) = (CancellationToken::new(), CancellationToken::new());
    let serving = CancellationToken::new();
    let outbox = tokio::spawn(parts.outbox.run(last.clone(), hurry.clone(), world.clock.clone()));
    let journal = tokio::spawn(parts.journal.run(last.clone()));
    let page = tokio::spawn(server.run(serving.clone()));
    let task = tokio::spawn(async move {
        let hastens = async {
            stop.cancelled().await;
            tokio::time::sleep(CONDUCTOR_FINISH).await;
            hurry.cancel();
            serving.cancel();
            tokio::time::sleep(LAST_WORDS).await;
            tracing::error!("Not everything ended in time: what was not written is lost");
        };
        let ends = async {
            parts.monitor.run(requests, stop.clone()).await;
            last.cancel();
            let _ = tokio::join!(outbox, journal);
            serving.cancel();
            let _ = page.await;
        };
        // However long each of them would like to take: together they have the 5 s.
        tokio::select! {
            () = ends => {}
            () = hastens => {}
        }
        tracing::info!("Stopped");
    });
    Ok(Running {
        status: parts.status,
        address,
        news: parts.news,
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

/// Asks every Prometheus what it says of the configuration: warnings are logged, refusals are the answer.
///
/// A question of its own, with queries of its own: the looks of the daemon neither wait for it nor learn from it.
pub(super) async fn vetted(config: Config) -> Option<ConfigErrors> {
    let observer = Metrics::new().map_err(|error| chain(&error)).and_then(|metrics| {
        Observer::new(&config.guards, &config.clusters, config.probe_resolve.clone(), metrics).map_err(|error| chain(&error))
    });
    let observer = match observer {
        Ok(observer) => observer,
        Err(error) => {
            // The daemon itself opens the same rooms and says it louder.
            tracing::debug!(error, "The configuration is not compared with what Prometheus has");
            return None;
        }
    };
    let start = observer.vet(VETTED_WITHIN).await;
    for (guard, warning) in &start.warnings {
        tracing::warn!(%guard, "{warning}");
    }
    let problems: Vec<Problem> = start.unfit.iter().map(|unfit| problem(&config, unfit)).collect();
    (!problems.is_empty()).then_some(ConfigErrors { problems })
}

/// The environment variables that set latency thresholds, by quantile, as `config` reads them.
const LATENCY_VARIABLES: [(f64, [&str; 2]); 2] = [
    (0.95, ["P95_LATENCY_THRESHOLD", "LATENCY_P95_THRESHOLD"]),
    (0.99, ["P99_LATENCY_THRESHOLD", "LATENCY_P99_THRESHOLD"]),
];

/// A threshold that no bucket bounds, in the words of every other problem of a configuration.
fn problem(config: &Config, unfit: &Unfit) -> Problem {
    let spec = config.guards.iter().find(|spec| spec.id == unfit.guard);
    let rule = spec.and_then(|spec| spec.rules.iter().find(|rule| rule.name == unfit.rule));
    let quantile = rule.map_or(0.0, |rule| match &rule.kind {
        RuleKind::Latency(latency) => latency.quantile,
        _ => 0.0,
    });
    let by_variable = LATENCY_VARIABLES
        .iter()
        .find(|(of, _)| (of - quantile).abs() < 1e-9)
        .and_then(|(_, names)| names.iter().find(|name| config.variables.iter().any(|known| known == *name)));
    let origin = match (by_variable, &config.origin) {
        (Some(name), _) => Origin::Environment((*name).to_owned()),
        (None, Some(file)) => Origin::File(file.clone()),
        (None, None) => Origin::Nowhere,
    };
    let allowed = match unfit.allowed.as_slice() {
        [] => "a histogram with two finite buckets or more".to_owned(),
        allowed => format!("{}, which are bounds of the histogram's buckets", allowed.join(" or ")),
    };
    Problem {
        origin,
        key: format!("guards[{}].rules.{}.threshold", unfit.guard.name(), unfit.rule),
        found: unfit.threshold.clone(),
        allowed,
        hint: Some(format!("{} (`flipback check {}` lists them all)", unfit.why, unfit.guard)),
    }
}

/// `flipback run`: works until a signal, ends within 5 s of it.
///
/// The daemon watches from the first moment, also while the live Prometheus is still being asked whether the configuration fits it: a
/// restart in the middle of an outage must not wait for the very thing that is out. A contradiction that arrives within
/// [`VETTED_WITHIN`] ends it again.
///
/// # Errors
/// [`StartError`], also when the daemon dies, or when a live Prometheus contradicts the configuration.
pub async fn run(config: Config, sources: Sources) -> Result<(), StartError> {
    let stop = CancellationToken::new();
    let vetting = tokio::spawn(vetted(config.clone()));
    let hash = config.hash.clone();
    let mut running = start(config, stop.clone()).await?;
    let (news, ends) = (running.news.clone(), stop.clone());
    let following = tokio::spawn(async move {
        if let Err(error) = follow::follow(sources, hash, news, ends).await {
            tracing::error!(%error, "The configuration is not followed: restart flipback after changing it");
        }
    });
    let systemd = tokio::spawn(tell_systemd(running.status.clone(), stop.clone()));
    let signal = async {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "Failed to listen for signals: only SIGKILL will end this process");
            std::future::pending::<()>().await;
        }
    };
    let contradiction = async {
        match vetting.await {
            Ok(Some(errors)) => errors,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    };
    let unfit = tokio::select! {
        ended = outlived(&mut running.task, signal) => ended.map(|()| None)?,
        errors = contradiction => Some(errors),
    };
    tracing::info!("Stopping");
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), systemd).await;
    following.abort();
    running.finished().await;
    unfit.map_or(Ok(()), |errors| Err(StartError::Unfit(errors)))
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
