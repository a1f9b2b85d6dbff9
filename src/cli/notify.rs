//! `flipback notify`: will people hear? `test` sends a sample of each kind of message, `list` says who hears what.
//!
//! A sample is what the daemon would send, on the same road: its words, the chat's own form, the chat's own receipts within
//! a thread. It says that it is one, belongs to a guard that does not exist, and is no louder than "info" where loudness wakes
//! people; what it opens at PagerDuty or Alertmanager it closes again. Only the outbox is left out: what fails is told here
//! and now, and filters do not hold back what somebody asked for.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    BAD, Failure, Form, Global, HEALTHY, Output, chain, command,
    paint::{self, Cell, styled},
};
use crate::{
    config::Flags,
    model::{
        Announcement, GuardId, SAMPLE, Severity, Stage, Topic,
        settings::{Channel, ChatKind, ChatSettings, Filter},
    },
    notify::{self, DeliverError, Draft, Notifier, Parcel, Rehearsal},
    words::Message,
};

mod sample;

/// Attempts at one sample while the chat says "not so fast".
const ATTEMPTS_MAX: usize = 6;
/// Waited when it does not say how long.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that is waited.
const PAUSE_MAX: Duration = Duration::from_secs(30);

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
                Output::Json => command::print_json(&config.chats.iter().map(listed).collect::<Vec<_>>()),
                Output::Table => anstream::print!("{}", list(&config.chats)),
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
        .map(|chat| (*chat, plan(chat.kind(), &args.topics, now, path.as_ref())));
    let lines: Vec<Line> = join_all(plans.map(|(chat, plan)| carry(chat, plan, args.dry_run)))
        .await
        .into_iter()
        .flatten()
        .collect();
    match args.form.output {
        Output::Json => command::print_json(&lines),
        Output::Table => anstream::print!("{}", table(&lines)),
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

/// One incident as it goes well; the other kinds follow in the order of [`Topic::ALL`].
const STORY: [Topic; 5] = [
    Topic::RollbackInitiated,
    Topic::RollbackCompleted,
    Topic::EvidenceReady,
    Topic::Recovered,
    Topic::Resolved,
];

/// One sample of a plan.
struct Planned {
    announcement: Announcement,
    closing: bool,
}

/// Whether a kind of chat keeps a list of what is wrong, and is told only what belongs on it.
fn keeps_a_list(kind: ChatKind) -> bool {
    matches!(kind, ChatKind::PagerDuty | ChatKind::Alertmanager)
}

/// The samples for one chat, in order. Pure.
fn plan(kind: ChatKind, topics: &[Topic], now: Timestamp, picture: Option<&PathBuf>) -> Vec<Planned> {
    let others = Topic::ALL.into_iter().filter(|topic| !STORY.contains(topic));
    let wanted = STORY
        .into_iter()
        .chain(others)
        .filter(|topic| topics.is_empty() || topics.contains(topic));
    let run = format!("{SAMPLE}{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let mut plan: Vec<Planned> = Vec::new();
    // What stands open at the receiver, by thread.
    let mut open: BTreeMap<String, Announcement> = BTreeMap::new();
    for topic in wanted {
        let mut announcement = sample(&run, topic, now);
        announcement.picture = (topic == Topic::EvidenceReady).then(|| picture.cloned()).flatten();
        match topic.stage() {
            Stage::Opens | Stage::Continues => {
                open.insert(announcement.thread.clone(), announcement.clone());
            }
            Stage::Resolves => {
                open.remove(&announcement.thread);
            }
            Stage::Once => {}
        }
        plan.push(Planned {
            announcement,
            closing: false,
        });
    }
    if keeps_a_list(kind) {
        plan.extend(open.into_values().map(|left| Planned {
            announcement: closing(left),
            closing: true,
        }));
    }
    plan
}

/// One sample: the example of its topic, of a guard that does not exist.
fn sample(run: &str, topic: Topic, now: Timestamp) -> Announcement {
    let example = Announcement::example(topic);
    let about = match topic {
        topic if STORY.contains(&topic) => "story",
        Topic::Blind | Topic::Sighted => "blind",
        Topic::UnknownColor | Topic::Unreadable | Topic::Readable => "unreadable",
        Topic::Paused | Topic::Resumed => "paused",
        other => other.as_str(),
    };
    let thread = format!("{run}.{about}");
    // What has no other end is closed as an incident is.
    let incident = example.incident.is_some() || matches!(topic, Topic::FlippedBack | Topic::Disarmed);
    Announcement {
        id: format!("{run}.{}", topic.as_str()),
        guard: GuardId::new("", "flipback-test", "web").expect("a constant"),
        at: now,
        namespace: "flipback-test".to_owned(),
        evidence: example.evidence.as_ref().map(|_| format!("/var/lib/flipback/incidents/{thread}")),
        incident: incident.then(|| thread.clone()),
        thread,
        ..example
    }
}

/// The message that takes an open thread off a receiver's list.
fn closing(left: Announcement) -> Announcement {
    let topic = match left.topic {
        Topic::Blind => Topic::Sighted,
        Topic::UnknownColor | Topic::Unreadable => Topic::Readable,
        _ => Topic::Resolved,
    };
    Announcement {
        id: format!("{}.closed", left.id),
        topic,
        picture: None,
        ..left
    }
}

/// The words of a sample, the chat's own where it has some: nobody reads them and acts.
fn words(announcement: &Announcement, chat: &ChatSettings) -> Message {
    let message = Message::by(announcement, &chat.templates);
    Message {
        title: format!("TEST: {}", message.title),
        sentence: format!("This is a sample, nothing has happened. {}", message.sentence),
        ..message
    }
}

/// Sends one chat its samples, one after another.
async fn carry(chat: &ChatSettings, plan: Vec<Planned>, dry_run: bool) -> Vec<Line> {
    let (notifier, rehearsal) = if dry_run {
        let (notifier, rehearsal) = notify::rehearse(chat);
        (notifier, Some(rehearsal))
    } else {
        (notify::open(chat), None)
    };
    let mut receipts: BTreeMap<String, String> = BTreeMap::new();
    let mut lines: Vec<Line> = Vec::new();
    let mut hopeless = false;
    for Planned { announcement, closing } in plan {
        let mut line = Line {
            chat: chat.name.clone(),
            kind: chat.kind(),
            topic: announcement.topic,
            closing,
            fate: Fate::NotTried,
            why: None,
            todo: None,
            drafts: Vec::new(),
        };
        let once = announcement.topic.stage() == Stage::Once && announcement.topic != Topic::Test;
        if keeps_a_list(chat.kind()) && once {
            line.fate = Fate::Skipped;
            line.why = Some("it has no end that flipback could tell".to_owned());
        } else if !hopeless {
            hopeless = attempt(&mut line, chat, &*notifier, rehearsal.as_ref(), &announcement, &mut receipts).await;
        }
        lines.push(line);
    }
    lines
}

/// Sends one sample and says in its line what came of it; `true` when the others need not be tried.
async fn attempt(
    line: &mut Line,
    chat: &ChatSettings,
    notifier: &dyn Notifier,
    rehearsal: Option<&Rehearsal>,
    announcement: &Announcement,
    receipts: &mut BTreeMap<String, String>,
) -> bool {
    let message = words(announcement, chat);
    let parcel = Parcel {
        announcement,
        message: &message,
        thread: receipts.get(&announcement.thread).map(String::as_str),
    };
    let delivered = patiently(notifier, parcel).await;
    line.drafts = rehearsal.map(Rehearsal::take).unwrap_or_default();
    match delivered {
        Ok(receipt) => {
            line.fate = if rehearsal.is_some() { Fate::Drafted } else { Fate::Sent };
            if let Some(receipt) = receipt {
                receipts.insert(announcement.thread.clone(), receipt);
            }
            false
        }
        Err(error) => {
            line.fate = Fate::Failed;
            line.why = Some(chain(&error));
            line.todo = Some(todo(chat, &error));
            // What a chat says about one message may not hold for the next; a wrong address does.
            !matches!(
                error,
                DeliverError::Refused { .. }
                    | DeliverError::Status {
                        status: 400 | 413 | 422,
                        ..
                    }
            )
        }
    }
}

/// Delivers; waits as long as the chat asks for, since two dozen messages at once are more than most chats like.
async fn patiently(notifier: &dyn Notifier, parcel: Parcel<'_>) -> Result<Option<String>, DeliverError> {
    let mut attempts = 1;
    loop {
        match notifier.deliver(parcel).await {
            Err(error @ DeliverError::Status { status: 429, .. }) if attempts < ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(error.retry_after().unwrap_or(PAUSE).min(PAUSE_MAX)).await;
            }
            ended => return ended,
        }
    }
}

/// What a person can do, in the words of the channel.
fn todo(chat: &ChatSettings, error: &DeliverError) -> String {
    let status = match error {
        DeliverError::Status { status, .. } => Some(*status),
        _ => None,
    };
    match (&chat.channel, status) {
        (Channel::PagerDuty { .. }, Some(400)) => {
            "check that the routing key is the Integration Key of an \"Events API v2\" integration (32 characters)".to_owned()
        }
        (Channel::Alertmanager { .. }, Some(404)) => "set the base URL of an Alertmanager, without /api/v2".to_owned(),
        (Channel::Alertmanager { .. }, Some(401 | 403)) => "check the token, or the user and password in the URL".to_owned(),
        (Channel::Email(_), _) if matches!(error, DeliverError::Refused { said, .. } if said.contains("log in")) => {
            "check the user name and the password".to_owned()
        }
        _ => error.remedy(chat.channel.credential()),
    }
}

fn table(lines: &[Line]) -> String {
    let mut out = String::new();
    let mut chat = "";
    for line in lines {
        if line.chat != chat {
            chat = &line.chat;
            out.push_str(&format!("{} ({})\n", styled(chat, paint::BOLD), line.kind.as_str()));
        }
        let (mark, what) = match line.fate {
            Fate::Sent if line.closing => (styled("✓", paint::GOOD), "closed what was open".to_owned()),
            Fate::Sent => (styled("✓", paint::GOOD), "sent".to_owned()),
            Fate::Drafted => (styled("·", paint::DIM), "would be sent".to_owned()),
            Fate::Skipped => (styled("·", paint::DIM), "not for this kind of chat".to_owned()),
            Fate::Failed => (styled("✗", paint::BAD), "failed".to_owned()),
            Fate::NotTried => (styled("!", paint::WARN), "not tried".to_owned()),
        };
        let why = line.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        out.push_str(&format!("  {mark} {:<20}  {what}{why}\n", line.topic.as_str()));
        if let Some(todo) = &line.todo {
            out.push_str(&format!("      {}\n", styled(&format!("-> {todo}"), paint::DIM)));
        }
        for draft in &line.drafts {
            out.push_str(&drafted(draft));
        }
    }
    let count = |fate| lines.iter().filter(|line| line.fate == fate).count();
    out.push_str(&match (count(Fate::Drafted), count(Fate::Failed) + count(Fate::NotTried)) {
        (0, 0) => format!("\n{} sent, all well\n", count(Fate::Sent)),
        (0, failed) => format!("\n{} sent, {failed} not\n", count(Fate::Sent)),
        (drafted, _) => format!("\n{drafted} would be sent; nothing was\n"),
    });
    out
}

/// A draft as a person reads it, indented.
fn drafted(draft: &Draft) -> String {
    let body = match &draft.body {
        serde_json::Value::String(text) => text.clone(),
        mail if mail["plain"].is_string() => {
            let plain = mail["plain"].as_str().unwrap_or_default();
            let html = mail["html"].as_str().unwrap_or_default().len();
            let picture = mail["picture"].as_str().map_or(String::new(), |name| format!(", with {name}"));
            format!("{plain}\n[and the same as HTML, {html} bytes{picture}]")
        }
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let headers = draft.headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let text: Vec<String> = std::iter::once(draft.to.clone())
        .chain(headers)
        .chain([String::new()])
        .chain(body.lines().map(str::to_owned))
        .collect();
    let indented = |line: &String| {
        if line.is_empty() {
            "\n".to_owned()
        } else {
            format!("      {line}\n")
        }
    };
    text.iter().map(indented).collect::<String>() + "\n"
}

/// One chat of `notify list`.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    kind: ChatKind,
    min_severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<&'static str>>,
    guards: &'a [String],
    quiet_seconds: f64,
    timeout_seconds: f64,
}

fn listed(chat: &ChatSettings) -> Listed<'_> {
    let topics = chat.filter.topics.as_ref();
    Listed {
        name: &chat.name,
        kind: chat.kind(),
        min_severity: chat.filter.min_severity,
        topics: topics.map(|topics| topics.iter().map(|topic| topic.as_str()).collect()),
        guards: &chat.filter.guards,
        quiet_seconds: chat.quiet.as_secs_f64(),
        timeout_seconds: chat.timeout.as_secs_f64(),
    }
}

fn list(chats: &[ChatSettings]) -> String {
    if chats.is_empty() {
        return "there is no chat: add [chats.<name>] or set SLACK_WEBHOOK_URL\n".to_owned();
    }
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![title("CHAT"), title("KIND"), title("HEARS"), title("REPEATS")]];
    rows.extend(chats.iter().map(|chat| {
        let quiet = if chat.quiet.is_zero() {
            "each by itself".to_owned()
        } else {
            format!("one per {}", humantime::format_duration(chat.quiet))
        };
        vec![
            Cell::new(&chat.name, paint::BOLD),
            Cell::plain(chat.kind().as_str()),
            Cell::plain(hears(chat.kind(), &chat.filter)),
            Cell::plain(quiet),
        ]
    }));
    paint::columns(&rows, 0)
}

/// What a chat hears, besides what a guard sends it by name.
fn hears(kind: ChatKind, filter: &Filter) -> String {
    let loud = match filter.min_severity {
        Severity::Info => None,
        Severity::Warning => Some("warning and critical".to_owned()),
        Severity::Critical => Some("critical".to_owned()),
    };
    let topics = filter
        .topics
        .as_ref()
        .map(|topics| topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", "));
    let guards = (!filter.guards.is_empty()).then(|| format!("of {}", filter.guards.join(", ")));
    let lasting = keeps_a_list(kind).then(|| "what lasts".to_owned());
    let parts: Vec<String> = [topics.or(lasting), loud, guards].into_iter().flatten().collect();
    if parts.is_empty() {
        "everything".to_owned()
    } else {
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests;
