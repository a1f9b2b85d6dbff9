//! `flipback pause` and `flipback resume`: written on the guarded object, so that it survives every restart.

use std::time::Duration;

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::Command;

/// Arguments of `flipback pause`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback pause web --reason \"database migration\"
  flipback pause web --for 2h

A paused guard is judged and shown as ever, and flips nothing. The pause stays until `flipback resume`, or for as long as it was asked for.
It is an annotation of the guarded object, so kubectl can write it too: kubectl annotate service web flipback.dev/paused=\"hands off\"")]
pub struct PauseArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// Why, in your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// It ends by itself after so long, such as 2h; without: when it is resumed
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub lasts: Option<Duration>,
    /// What commands share.
    #[command(flatten)]
    pub common: Common,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// Arguments of `flipback resume`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  flipback resume web")]
pub struct ResumeArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// What commands share.
    #[command(flatten)]
    pub common: Common,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// Pauses a guard.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn pause(global: &Global, args: PauseArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    let until = match args.lasts {
        Some(lasts) => Some(
            super::now()
                .checked_add(lasts)
                .map_err(|_| Failure::usage("--for ends beyond the end of time"))?,
        ),
        None => None,
    };
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Pause {
            guard,
            by,
            reason: args.reason.clone(),
            until,
        })
    })
    .await
}

/// Resumes a guard.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn resume(global: &Global, args: ResumeArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Resume { guard, by })
    })
    .await
}
