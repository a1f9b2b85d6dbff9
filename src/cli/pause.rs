//! `flipback pause` and `flipback resume`: written on the guarded object, so that it survives every restart.

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::Command;

/// Arguments of `flipback pause`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  flipback pause web --reason \"database migration until noon\"

A paused guard is judged and shown as ever, and flips nothing. The pause stays until `flipback resume`.")]
pub struct PauseArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// Why, in your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
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
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Pause {
            guard,
            by,
            reason: args.reason.clone(),
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
