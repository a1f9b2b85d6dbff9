//! `flipback override`: lets any number of guards flip for a while, past the blast radius.

use std::time::Duration;

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::Command;

/// Arguments of `flipback override`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  flipback override --for 10m --reason \"the release train is to blame, not the database\"

Only guards that fail are flipped, each by its own rules; what is lifted is how many may at once ([blast_radius]). It takes a running \
daemon and its token. It ends by itself; until then it survives restarts, and replicas tell each other of it.")]
pub struct OverrideArgs {
    /// For how long, at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub lasts: Duration,
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

/// Lifts the blast radius.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn lift(global: &Global, args: OverrideArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    let asked = Command::Override {
        lasts: args.lasts,
        by,
        reason: args.reason,
    };
    command::tell(global, args.common.form, &args.daemon, &asked).await
}
