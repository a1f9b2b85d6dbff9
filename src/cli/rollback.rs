//! `flipback rollback`: back to the standby color, now.

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::Command;

/// Arguments of `flipback rollback`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback rollback web --reason \"checkout is broken\"
  flipback rollback shop/web --reason drill --dry-run
  flipback rollback web --reason \"daemon is down\" --alone

The color being left may be as broken as it likes; the standby color must be able to serve. Cooldown and pause do not hold a person back.")]
pub struct RollbackArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// Why, in your words; kept in the incident and told to the chats
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Ask the API server without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// What commands share.
    #[command(flatten)]
    pub common: Common,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// Puts traffic back; the exit code says whether it was moved.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn rollback(global: &Global, args: RollbackArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Rollback {
            guard,
            from: None,
            by,
            reason: args.reason.clone(),
            dry_run: args.dry_run,
        })
    })
    .await
}
