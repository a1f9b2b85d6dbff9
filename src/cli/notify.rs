//! `flipback notify`: will people hear? `test` sends a sample of each kind of message, `list` says who hears what.
//!
//! A sample is what the daemon would send, on the same road: its words, the chat's own form, the chat's own receipts within
//! a thread. It says that it is one, belongs to a guard that does not exist, and is no louder than "info" where loudness wakes
//! people; what it opens at PagerDuty or Alertmanager it closes again. Only the outbox is left out: what fails is told here
//! and now, and filters do not hold back what somebody asked for.

use clap::{Args, Subcommand};
use futures::future::join_all;
use serde::Serialize;

use super::{BAD, Failure, Form, Global, HEALTHY, Output, chain, command, paint};
use crate::{
    config::Flags,
    model::{
        Topic,
        settings::{ChatKind, ChatSettings},
    },
    notify::Draft,
};

mod carry;
mod plan;
mod sample;
mod show;

/// Arguments of `flipback notify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback notify list
  flipback notify test                  (every kind of message to every chat)
  flipback notify test ops --dry-run")]
pub struct NotifyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: NotifyAction,
}

/// What to do about chats.
#[derive(Clone, Debug, Subcommand)]
pub enum NotifyAction {
    /// Send a sample of each kind of message, marked as a test
    Test(TestArgs),
    /// List the chats, and what each of them hears
    List(ListArgs),
}

/// Arguments of `flipback notify test`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The samples belong to a guard that does not exist, begin with TEST, and close what they open: an incident at PagerDuty
is triggered and resolved. The chats' filters are not asked.

Examples:
  flipback notify test                               (every chat)
  flipback notify test ops                           (one)
  flipback notify test pager --topic rollback_failed
  flipback notify test ops --dry-run                 (prints what would be sent; reads no secret)

Exit codes: 0 every chat took everything; 1 something was refused; 64 the command line or the configuration is wrong."
)]
pub struct TestArgs {
    /// The chat: its name in the configuration; all of them when left out
    pub channel: Option<String>,
    /// Only this kind of message; may be given several times
    #[arg(long = "topic", value_name = "TOPIC", value_parser = topic)]
    pub topics: Vec<Topic>,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `flipback notify list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  flipback notify list --output json")]
pub struct ListArgs {
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

fn topic(text: &str) -> Result<Topic, String> {
    let found = Topic::ALL.into_iter().find(|topic| topic.as_str() == text);
    found.ok_or_else(|| format!("expected one of {}", Topic::ALL.map(Topic::as_str).join(", ")))
}

/// What became of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// The chat took it.
    Sent,
    /// It was printed only.
    Drafted,
    /// A chat of this kind is not told such things.
    Skipped,
    /// The chat did not take it.
    Failed,
    /// Another one failed, and this one would have.
    NotTried,
}

/// One sample to one chat.
#[derive(Clone, Debug, Serialize)]
struct Line {
    chat: String,
    kind: ChatKind,
    topic: Topic,
    /// It only closes what an earlier sample opened.
    closing: bool,
    fate: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    drafts: Vec<Draft>,
}

/// Does what is asked for.
///
/// # Errors
/// [`Failure`] when the configuration is wrong, has no chat, or none of the given name.
pub async fn notify(global: &Global, args: &NotifyArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = global.load(Flags::default())?;
    match &args.action {
        NotifyAction::Test(args) => test(&config.chats, args).await,
        NotifyAction::List(args) => {
            match args.form.output {
                Output::Json => command::print_json(&config.chats.iter().map(show::listed).collect::<Vec<_>>()),
                Output::Table => anstream::print!("{}", show::list(&config.chats)),
            }
            Ok(HEALTHY)
        }
    }
}

async fn test(chats: &[ChatSettings], args: &TestArgs) -> Result<u8, Failure> {
    let chats = meant(chats, args.channel.as_deref())?;
    let picture = sample::picture();
    let path = picture.as_ref().map(|file| file.path().to_path_buf());
    let now = super::now();
    let plans = chats
        .iter()
        .map(|chat| (*chat, plan::plan(chat.kind(), &args.topics, now, path.as_ref())));
    let lines: Vec<Line> = join_all(plans.map(|(chat, plan)| carry::carry(chat, plan, args.dry_run)))
        .await
        .into_iter()
        .flatten()
        .collect();
    match args.form.output {
        Output::Json => command::print_json(&lines),
        Output::Table => anstream::print!("{}", show::table(&lines)),
    }
    let failed = lines.iter().any(|line| matches!(line.fate, Fate::Failed | Fate::NotTried));
    Ok(if failed { BAD } else { HEALTHY })
}

fn meant<'a>(chats: &'a [ChatSettings], name: Option<&str>) -> Result<Vec<&'a ChatSettings>, Failure> {
    if chats.is_empty() {
        return Err(Failure::usage("there is no chat: add [chats.<name>] or set SLACK_WEBHOOK_URL"));
    }
    let Some(name) = name else {
        return Ok(chats.iter().collect());
    };
    let found = chats.iter().find(|chat| chat.name == name);
    found.map(|chat| vec![chat]).ok_or_else(|| {
        let names: Vec<&str> = chats.iter().map(|chat| chat.name.as_str()).collect();
        Failure::usage(format!("no chat is called {name:?}; there are: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests;
