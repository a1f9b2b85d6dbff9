//! `flipback clear`: what is held against a guard is held no more.

use clap::Args;

use super::{
    Daemon, Failure, Global,
    command::{self, Common},
};
use crate::model::{Clear, Command};

/// Arguments of `flipback clear`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback clear web --reason \"it was the database\"       (arm it again, end its cooldown)
  flipback clear web --release 9f1c --reason \"a slip\"     (this release is bad no more)
  flipback clear web --all --reason \"new quarter\"

`flipback history web` shows what there is to clear, and who cleared what. The flips themselves stay in the history. A release \
that is forgotten may be rolled back to, and rolled back from, once more.")]
pub struct ClearArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// Forget that this release was bad; where releases cannot be told apart: the color
    #[arg(long, value_name = "RELEASE", conflicts_with = "all")]
    pub release: Option<String>,
    /// Forget every bad release, the count of flips, the cooldown, and a ledger that cannot be understood
    #[arg(long)]
    pub all: bool,
    /// Why, in your words; kept in the ledger and the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// What commands share.
    #[command(flatten)]
    pub common: Common,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// Clears; the exit code says whether there was something to clear.
///
/// # Errors
/// [`Failure`] when it could not be asked for.
pub async fn clear(global: &Global, args: ClearArgs) -> Result<u8, Failure> {
    let by = args.common.by();
    let clear = match &args.release {
        Some(release) => Clear::Release(release.clone()),
        None if args.all => Clear::All,
        None => Clear::Count,
    };
    command::carry(global, args.common.form, &args.daemon, &args.guard, |guard| {
        Ok(Command::Clear {
            guard,
            clear,
            by,
            reason: args.reason.clone(),
        })
    })
    .await
}
