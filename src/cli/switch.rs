//! `flipback switch`: to a named color, now.

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::{Color, Command};

/// Arguments of `flipback switch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  flipback switch web green --reason \"release 2.4\"

The watch after a switch begins as after any other.")]
pub struct SwitchArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// The color that shall serve
    pub color: String,
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

/// Switches; the exit code says whether traffic was moved.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn switch(global: &Global, args: SwitchArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    let to = Color::new(&args.color).map_err(|error| Failure::usage(error.to_string()))?;
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Switch {
            guard,
            to,
            by,
            reason: args.reason.clone(),
            dry_run: args.dry_run,
        })
    })
    .await
}
