//! `flipback demo`: the real daemon in a world of its own, told as it happens.
//!
//! It starts the [sandbox](crate::sandbox), runs the same daemon as `flipback run` against it over real sockets, lets
//! something go wrong (`script`), tells the story (`story`, `print`) and judges the end by the API server's own record
//! (`summary`). It never calls the daemon's rooms: what it knows it learns as anybody could, from the status, the chats
//! and the cluster.

mod print;
mod script;
mod setup;
mod stage;
mod story;
mod summary;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::{print::Printer, setup::Times, stage::Stage};
pub use self::{script::Scenario, setup::SetupError};
use super::run::{StartError, start};
use crate::sandbox::{Sandbox, SandboxError, SandboxOptions};

/// See it work: needs nothing but this program.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// What goes wrong.
    #[arg(long, value_enum, default_value_t)]
    pub scenario: Scenario,
    /// The same seed gives the same users and faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How fast: 2 looks, scrapes and sends users twice as often.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// Leave it running afterwards, with its status page, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Where the evidence goes; left out: a new folder among the system's temporary ones.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// For a person, or one JSON object per line.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// For whom the story is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a program: one JSON object per line.
    Json,
}

/// Ten times as fast is 100 ms between two scrapes: below that the machine is measured, not the release.
fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.2..=10.0).contains(&speed) {
        Ok(speed)
    } else {
        Err(format!("{text} is out of range: 0.2 to 10"))
    }
}

/// Why there was no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The world could not be made.
    #[error("failed to start the demo's world")]
    World(#[source] SandboxError),
    /// The settings could not be made.
    #[error("failed to make the demo's settings")]
    Setup(#[source] SetupError),
    /// No folder for the evidence.
    #[error("failed to make a folder for the demo's evidence")]
    Folder(#[source] io::Error),
    /// The daemon did not start.
    #[error("failed to start the demo's daemon")]
    Daemon(#[source] StartError),
    /// Nobody listens.
    #[error("failed to print the story")]
    Print(#[source] io::Error),
}

/// Plays a scenario to its end; `true` when it ended as it must.
///
/// # Errors
/// [`DemoError`] when it could not be played.
pub async fn run(args: &DemoArgs, out: impl io::Write) -> Result<bool, DemoError> {
    let times = Times::at(args.speed);
    let options = SandboxOptions {
        seed: args.seed,
        speed: args.speed,
        namespace: setup::NAMESPACE.to_owned(),
        service: setup::SERVICE.to_owned(),
        rate: setup::RATE,
        ..SandboxOptions::default()
    };
    let sandbox = Sandbox::start(options).await.map_err(DemoError::World)?;
    let data_dir = folder(args)?;
    let stop = CancellationToken::new();
    // Whatever ends this function ends the daemon.
    let ends = stop.clone().drop_guard();
    let config = setup::config(&sandbox, &times, data_dir.clone()).map_err(DemoError::Setup)?;
    let daemon = start(config, stop).await.map_err(DemoError::Daemon)?;
    let mut printer = Printer::new(out, args.output);
    let title = format!("flipback demo: {}", args.scenario.name());
    printer.opening(&title, &opening(args, &times)).map_err(DemoError::Print)?;

    let mut stage = Stage::new(sandbox, daemon.status.clone(), printer, args.speed);
    let passed = stage.play(args.scenario).await?;
    if args.keep {
        stage.farewell(&data_dir)?;
        let text = format!("It goes on: http://{}/ shows it. Ctrl-C ends it.", daemon.address);
        stage.keep(&text).await?;
    }
    drop(ends);
    daemon.finished().await;
    if !args.keep {
        // Only now the report says all there is to say.
        stage.farewell(&data_dir)?;
    }
    if stage.left_nothing() && args.data_dir.is_none() {
        // Nothing happened, so there is nothing to look at; what cannot be removed is the system's to tidy.
        let _ = std::fs::remove_dir_all(&data_dir);
    }
    Ok(passed)
}

/// Where evidence goes. It outlives the demo: it is there to be looked at.
fn folder(args: &DemoArgs) -> Result<PathBuf, DemoError> {
    match &args.data_dir {
        Some(given) => Ok(given.clone()),
        None => tempfile::Builder::new()
            .prefix("flipback-demo-")
            .tempdir()
            .map(tempfile::TempDir::keep)
            .map_err(DemoError::Folder),
    }
}

/// What the audience must know first.
fn opening(args: &DemoArgs, times: &Times) -> Vec<String> {
    let slow = setup::SLOW.as_millis();
    let (poll, scrape) = (seconds(times.poll), seconds(times.scrape));
    let (down, rate) = (seconds(times.down_for), setup::RATE * args.speed);
    vec![
        "A web shop runs twice, side by side: as blue (release 1.0.0) and as green (release 1.1.0). A Kubernetes Service decides which of the two \
         users reach. flipback watches the one they reach, and when it goes bad it points the Service back to the other."
            .to_owned(),
        "All of it happens now, in this process, over real sockets: an API server, four pods with real metrics, users, a metrics server, chats, and \
         the same daemon that `flipback run` starts."
            .to_owned(),
        format!(
            "Settings: {rate} requests/s; metrics every {scrape} s; a look every {poll} s (5 s by default, outside the demo); traffic goes back after \
             3 bad looks in a row (more than 5 % of requests fail, or more than 5 % take over {slow} ms), or {down} s without a Ready pod. \
             Seed {}, speed {}.",
            args.seed, args.speed
        ),
    ]
}

fn seconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}
