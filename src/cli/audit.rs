//! `flipback audit`: whether the journal is what it was, and what it says. Reads the data folder; asks no daemon and needs none.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    ops::ControlFlow,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    BAD, Failure, Form, Global, HEALTHY, Output,
    command::note,
    paint::{self, Cell, columns, styled},
};
use crate::{
    audit::{self, Anchor, Anchored, AuditError, Broken, Line, Told, Verified},
    config::Flags,
    model::Actor,
};

/// Entries that a person is shown, the newest.
const SHOWN_MAX: usize = 1000;

/// What to do with the audit journal.
#[derive(Clone, Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no line of the journal was changed, removed or inserted
    Verify(VerifyArgs),
    /// Show who did, decided or refused what
    Show(ShowArgs),
}

/// Examples of both.
pub const HELP: &str = "Examples:
  flipback audit verify
  flipback audit show --guard web --since 24h

The journal lies in <data_dir>/audit; docs/audit.md explains its format, and how to check it without flipback.";

/// Arguments of `flipback audit verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback audit verify
  flipback audit verify --data-dir /var/lib/flipback
  flipback audit verify --anchor \"$(cat /elsewhere/anchor)\"
  flipback audit verify --output json | jq -r .anchor > /elsewhere/anchor

A chain of hashes shows every change within it, not that its end is missing: keep the anchor
that this prints in another place, and give it to the next check.

Exit codes: 0 whole, 1 broken, 2 no journal or not readable, 64 usage")]
pub struct VerifyArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub place: Place,
    /// An entry known from an earlier check: it must still be there
    #[arg(long, value_name = "SEQ:HASH")]
    pub anchor: Option<Anchor>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `flipback audit show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback audit show
  flipback audit show --guard shop/web --since 24h
  flipback audit show --incident shop.web_20261121T050042.123Z
  flipback audit show --output json | jq -r 'select(.actor.kind == \"person\") | .why'

Exit codes: 0 shown, 1 some lines cannot be read, 2 no journal or not readable, 64 usage")]
pub struct ShowArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub place: Place,
    /// Of this guard only: its name, or its last part
    #[arg(long, value_name = "GUARD")]
    pub guard: Option<String>,
    /// Not older than this, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Of this incident only
    #[arg(long, value_name = "ID")]
    pub incident: Option<String>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Where the journal lies.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// The data folder [default: data_dir of the configuration]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

impl Place {
    fn folder(&self, global: &Global) -> Result<PathBuf, Failure> {
        let data_dir = match &self.data_dir {
            Some(data_dir) => data_dir.clone(),
            None => global.load(Flags::default())?.data_dir,
        };
        Ok(data_dir.join(audit::FOLDER))
    }
}

/// Checks or shows the journal; the exit code says what it came to.
///
/// # Errors
/// [`Failure`] where there is no journal, or it cannot be read.
pub fn audit(global: &Global, command: &AuditCommand) -> Result<u8, Failure> {
    super::quiet_log(global);
    match command {
        AuditCommand::Verify(args) => verify(global, args),
        AuditCommand::Show(args) => show(global, args),
    }
}

fn verify(global: &Global, args: &VerifyArgs) -> Result<u8, Failure> {
    let folder = args.place.folder(global)?;
    match audit::verify_against(&folder, args.anchor.as_ref()) {
        Ok(verified) => {
            match args.form.output {
                Output::Json => super::command::print_json(&whole_json(&verified)),
                Output::Table => anstream::print!("{}", whole(&verified)),
            }
            Ok(HEALTHY)
        }
        Err(AuditError::Broken(broken)) => {
            match args.form.output {
                Output::Json => super::command::print_json(&serde_json::json!({ "whole": false, "broken": broken })),
                Output::Table => anstream::print!("{}", not_whole(&broken)),
            }
            Ok(BAD)
        }
        Err(error) => Err(Failure::unknown(super::chain(&error))),
    }
}

fn whole_json(verified: &Verified) -> serde_json::Value {
    let mut json = serde_json::json!({ "whole": true });
    if let (Some(json), Ok(serde_json::Value::Object(more))) = (json.as_object_mut(), serde_json::to_value(verified)) {
        json.extend(more);
    }
    json
}

/// What people read of a whole journal.
fn whole(verified: &Verified) -> String {
    let several = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let mut out = format!(
        "{}  {}, {} to {}, in {}\n",
        styled("whole", paint::GOOD),
        several(verified.entries, "entry", "entries"),
        verified.first,
        verified.anchor.seq,
        several(verified.files, "file", "files"),
    );
    let mut rows = vec![vec![
        Cell::new("time", paint::DIM),
        Cell::plain(format!("{:.0} to {:.0}", verified.since, verified.until)),
    ]];
    let mut row = |name: &str, text: String| rows.push(vec![Cell::new(name, paint::DIM), Cell::plain(text)]);
    if verified.pruned_through > 0 {
        row(
            "removed",
            format!("entries up to {} made room for newer ones", verified.pruned_through),
        );
    }
    if verified.lost > 0 {
        row(
            "lost",
            format!("{} that the disk did not take in time", several(verified.lost, "entry", "entries")),
        );
    }
    if verified.cuts > 0 {
        row(
            "cut",
            format!("{} after a crash", several(verified.cuts, "unfinished line", "unfinished lines")),
        );
    }
    if let Some(torn) = &verified.torn {
        let text = format!(
            "{} of an unfinished line end {}: flipback is writing, or had ended while it was; its next start cuts them off",
            several(torn.bytes, "byte", "bytes"),
            torn.file
        );
        row("torn", text);
    }
    match verified.anchored {
        Some(Anchored::Holds) => row("anchored", "the anchor's entry is still there".to_owned()),
        Some(Anchored::TooOld) => row(
            "anchored",
            "no: the anchor's entry was removed to make room, it tells nothing any more".to_owned(),
        ),
        None => {}
    }
    row("anchor", verified.anchor.to_string());
    out.push_str(&columns(&rows, 2));
    out
}

fn not_whole(broken: &Broken) -> String {
    let row = |name: &str, text: &str| vec![Cell::new(name, paint::DIM), Cell::plain(text)];
    let rows = [
        row("where", &format!("{}, line {}", broken.file, broken.line)),
        row("expected", &broken.expected),
        row("found", &clean(&broken.found)),
    ];
    format!("{}  {}\n{}", styled("broken", paint::BAD), broken.fault, columns(&rows, 2))
}

fn show(global: &Global, args: &ShowArgs) -> Result<u8, Failure> {
    let folder = args.place.folder(global)?;
    let since = match args.since {
        Some(since) => Some(
            super::now()
                .saturating_sub(since)
                .map_err(|error| Failure::usage(format!("--since: {error}")))?,
        ),
        None => None,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut kept: VecDeque<Line> = VecDeque::new();
    let (mut left_out, mut unreadable) = (0_u64, 0_u64);
    let read = audit::entries(&folder, |told| {
        let (line, raw) = match told {
            Told::Line(line, raw) if wanted(args, since, &line) => (line, raw),
            Told::Line(..) => return ControlFlow::Continue(()),
            Told::Unreadable(file, number) => {
                unreadable += 1;
                note(&format!("{file}:{number} is no line of a journal: run `flipback audit verify`"));
                return ControlFlow::Continue(());
            }
        };
        if args.form.output == Output::Json {
            // Whoever reads may go away (`| head`).
            return match writeln!(out, "{raw}") {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
        }
        kept.push_back(*line);
        if kept.len() > SHOWN_MAX {
            kept.pop_front();
            left_out += 1;
        }
        ControlFlow::Continue(())
    });
    read.map_err(|error| Failure::unknown(super::chain(&error)))?;
    let _ = out.flush();
    if args.form.output == Output::Table {
        if left_out > 0 {
            note(&format!(
                "{left_out} older entries are left out: use --since, or --output json for all"
            ));
        }
        anstream::print!("{}", table(&kept));
    }
    Ok(if unreadable > 0 { BAD } else { HEALTHY })
}

fn wanted(args: &ShowArgs, since: Option<Timestamp>, line: &Line) -> bool {
    let entry = &line.entry;
    let guard = args.guard.as_ref().is_none_or(|wanted| {
        let guard = entry.guard.as_ref().map(ToString::to_string);
        guard.is_some_and(|guard| guard == *wanted || guard.rsplit('/').next() == Some(wanted))
    });
    let incident = args.incident.as_ref().is_none_or(|wanted| entry.incident.as_ref() == Some(wanted));
    guard && incident && since.is_none_or(|since| entry.at >= since)
}

fn table(lines: &VecDeque<Line>) -> String {
    if lines.is_empty() {
        return "no entries\n".to_owned();
    }
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![title("WHEN"), title("WHO"), title("GUARD"), title("ACTION"), title("WHY")]];
    rows.extend(lines.iter().map(|line| {
        let entry = &line.entry;
        vec![
            Cell::new(format!("{:.0}", entry.at), paint::DIM),
            Cell::plain(who(&entry.actor)),
            Cell::plain(entry.guard.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Cell::new(clean(&entry.action), paint::BOLD),
            Cell::plain(clean(&entry.why)),
        ]
    }));
    columns(&rows, 0)
}

fn who(actor: &Actor) -> String {
    match actor {
        Actor::Flipback => "flipback".to_owned(),
        Actor::Person { name } => clean(name),
        Actor::FieldManager { name } => format!("{} (other)", clean(name)),
    }
}

/// Text without what would move the cursor or the colors of a terminal: names come from anywhere.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::Fault, model::AuditEntry};

    fn verified() -> Verified {
        Verified {
            files: 2,
            entries: 1204,
            first: 501,
            since: "2026-11-21T05:00:42Z".parse().expect("a time"),
            until: "2026-11-22T05:00:42Z".parse().expect("a time"),
            anchor: Anchor {
                seq: 1704,
                hash: "ab".repeat(32),
            },
            pruned_through: 500,
            lost: 3,
            cuts: 1,
            torn: Some(audit::Torn {
                file: "audit-00000000000000000501.jsonl".into(),
                bytes: 17,
            }),
            anchored: Some(Anchored::Holds),
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_whole_and_a_broken_journal_are_what_people_read() {
        let broken = Broken {
            file: "audit-00000000000000000001.jsonl".into(),
            line: 7,
            fault: Fault::Removed,
            expected: "entry 7".into(),
            found: "entry 9\u{1b}[2J".into(),
        };
        insta::assert_snapshot!(plain(&format!("{}\n{}", whole(&verified()), not_whole(&broken))));
        insta::assert_snapshot!("as_json", serde_json::to_string_pretty(&whole_json(&verified())).expect("JSON"));
    }

    #[test]
    fn entries_are_what_people_read() {
        let line = |actor: Actor, guard: Option<&str>, action: &str| Line {
            seq: 1,
            entry: AuditEntry {
                at: "2026-11-21T05:00:42.123Z".parse().expect("a time"),
                actor,
                guard: guard.map(|guard| serde_json::from_value(guard.into()).expect("a guard")),
                action: action.into(),
                why: "error-rate was 8.1 % of 1204 requests,\n5 % allowed".into(),
                incident: None,
            },
            journal: None,
            prev: String::new(),
            hash: String::new(),
        };
        let person = |name: &str| Actor::Person { name: name.into() };
        let other = Actor::FieldManager { name: "argocd".into() };
        let lines = [
            line(Actor::Flipback, None, "started"),
            line(Actor::Flipback, Some("shop/web"), "flipped"),
            line(person("ann\u{1b}[31m"), Some("shop/web"), "paused"),
            line(other, Some("prod/shop/cart"), "flipped_back"),
        ];
        insta::assert_snapshot!(plain(&table(&lines.into())));
    }

    #[test]
    fn both_commands_explain_themselves() {
        use clap::CommandFactory as _;
        let mut cli = super::super::Cli::command().term_width(100);
        let audit = cli.find_subcommand_mut("audit").expect("a command");
        let helps: Vec<String> = audit
            .get_subcommands_mut()
            .map(|command| command.render_long_help().to_string())
            .collect();
        assert!(helps.iter().filter(|help| help.contains("Examples:")).count() >= 2);
        let lines: Vec<String> = helps.join("\n=====\n").lines().map(|line| line.trim_end().to_owned()).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
