//! `flipback evidence`: what rollbacks left behind. Works on the data folder itself, with or without a daemon.
//!
//! The folder is `--data-dir`, or the configuration's. One incident is named by its id, by a beginning that no other id has,
//! by `last`, or by `last GUARD`; a path that ends in an id is taken too, since that is what messages carry.
//!
//! It refuses to delete anything unasked: `prune` shows its plan and asks, and where nobody can be asked it needs `--yes`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{BAD, Failure, Form, Global, HEALTHY, Output, chain, command::print_json};
use crate::{
    config::{Config, Flags},
    evidence::{
        EvidenceError, copy,
        stock::{self, Found},
    },
    model::{IncidentOutcome, settings::EvidenceSettings},
};

mod copies;
mod files;
mod list;
mod open;
mod prune;
mod report;
mod show;

/// Arguments of `flipback evidence`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence list --guard web --since 7d
  flipback evidence show last
  flipback evidence open last web
  flipback evidence export shop.web_20261121T0412 --to /tmp/
  flipback evidence verify
  flipback evidence prune --dry-run

INCIDENT is an id, a beginning that no other id has, or \"last\" (with a guard: \"last web\").")]
pub struct EvidenceArgs {
    /// The folder that holds incidents/ [default: data_dir of the configuration]
    #[arg(long, global = true, env = "FLIPBACK_DATA_DIR", hide_env_values = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What to do with evidence.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// List all incidents, newest first
    List(list::ListArgs),
    /// Tell the story of one incident
    Show(show::ShowArgs),
    /// Open an incident's report in a browser
    Open(OneArgs),
    /// Make an incident's report anew from what was captured
    Report(report::ReportArgs),
    /// Pack an incident into one file (.tar.zst)
    Export(files::ExportArgs),
    /// Check that bundles or archives are what was captured
    Verify(files::VerifyArgs),
    /// Keep an incident, whatever retention says
    Pin(OneArgs),
    /// Leave an incident to retention again
    Unpin(OneArgs),
    /// Delete what exceeds the limits of retention
    Prune(prune::PruneArgs),
    /// Copy incidents to the second place now
    Copy(copies::CopyArgs),
}

/// One incident.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// An id, a beginning that no other id has, or "last"
    #[arg(default_value = "last")]
    pub incident: String,
    /// With "last": of this guard
    pub guard: Option<String>,
}

/// Arguments of the commands that only need an incident.
#[derive(Clone, Debug, Args)]
pub struct OneArgs {
    /// The incident.
    #[command(flatten)]
    pub which: Which,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Does what is asked; answers with the exit code.
///
/// # Errors
/// [`Failure`] when the folder cannot be read, or no such incident is kept.
pub async fn evidence(global: &Global, args: EvidenceArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let site = Site::open(global, args.data_dir)?;
    match args.what {
        What::List(args) => list::list(&site, &args),
        What::Show(args) => show::show(&site, &args),
        What::Open(args) => open::open(&site, &args),
        What::Report(args) => report::report(&site, &args),
        What::Export(args) => files::export(&site, &args),
        What::Verify(args) => files::verify(&site, &args),
        What::Pin(args) => files::pin(&site, &args, files::Pin::On),
        What::Unpin(args) => files::pin(&site, &args, files::Pin::Off),
        What::Prune(args) => prune::prune(&site, &args),
        What::Copy(args) => copies::copy(&site, &args).await,
    }
}

/// Where evidence lies, and what holds for it.
struct Site {
    incidents: PathBuf,
    settings: EvidenceSettings,
    /// Whether the settings are somebody's, not our defaults.
    configured: bool,
}

impl Site {
    fn open(global: &Global, data_dir: Option<PathBuf>) -> Result<Self, Failure> {
        match (global.load(Flags::default()), data_dir) {
            (Ok(config), data_dir) => Ok(Self {
                incidents: stock::incidents_of(&data_dir.unwrap_or(config.data_dir)),
                settings: config.evidence,
                configured: true,
            }),
            // Evidence is looked at on a laptop, too, and when the configuration is what broke.
            (Err(_), data_dir) if global.file().is_none() || global.config.is_none() && data_dir.is_some() => Ok(Self {
                incidents: stock::incidents_of(&data_dir.unwrap_or_else(|| Config::default().data_dir)),
                settings: EvidenceSettings::default(),
                configured: false,
            }),
            (Err(errors), _) => Err(errors.into()),
        }
    }

    /// The configured copy's place.
    fn copied_to(&self) -> Option<String> {
        self.settings.copy.as_ref().map(copy::place)
    }

    /// Everything that is kept, oldest first.
    fn stock(&self) -> Result<Vec<Found>, Failure> {
        stock::stock(&self.incidents, self.copied_to().as_deref()).map_err(|error| failure(&error))
    }

    /// The incident that is meant.
    fn one(&self, which: &Which) -> Result<Found, Failure> {
        let all = self.stock()?;
        let asked = which.incident.trim_end_matches('/');
        let asked = asked.rsplit_once('/').map_or(asked, |(_, id)| id);
        let found = match (asked, &which.guard) {
            ("last", guard) => stock::newest(&all, guard.as_deref(), &self.incidents),
            (_, Some(_)) => {
                return Err(Failure::usage(
                    "a guard is only named after \"last\": flipback evidence show last GUARD",
                ));
            }
            (id, None) => stock::by_id(&all, id),
        };
        found.cloned().map_err(|unclear| Failure::usage(unclear.to_string()))
    }
}

fn failure(error: &EvidenceError) -> Failure {
    Failure {
        code: BAD,
        message: chain(error),
    }
}

/// A bundle in a line, for programs; and what every answer about one begins with.
#[derive(Clone, Debug, Serialize)]
struct Brief {
    id: String,
    guard: String,
    at: jiff::Timestamp,
    /// `rolled_back` and its kind, `unreadable` where `incident.json` is.
    outcome: String,
    from: Option<String>,
    to: Option<String>,
    why: String,
    bytes: u64,
    pinned: bool,
    /// Still being written, or left so by a crash.
    partial: bool,
    /// Parts that could not be captured.
    missing: usize,
    /// The place that holds a copy of it as it is now.
    copied_to: Option<String>,
    folder: PathBuf,
}

impl Brief {
    fn new(found: &Found) -> Self {
        let kept = &found.kept;
        let brief = Self {
            id: kept.id.clone(),
            guard: kept.guard.clone(),
            at: kept.at,
            outcome: "unreadable".to_owned(),
            from: None,
            to: None,
            why: String::new(),
            bytes: kept.bytes,
            pinned: kept.pinned,
            partial: kept.partial,
            missing: 0,
            copied_to: copy::copied_to(&found.folder),
            folder: found.folder.clone(),
        };
        match &found.incident {
            Ok(incident) => Self {
                outcome: outcome(&incident.outcome).to_owned(),
                from: Some(incident.case.from.to_string()),
                to: Some(incident.case.to.to_string()),
                why: incident.case.why.clone(),
                missing: incident.capture_errors.len(),
                ..brief
            },
            Err(why) => Self { why: why.clone(), ..brief },
        }
    }

    /// `pinned, 2 missing, copied`.
    fn marks(&self) -> String {
        let missing = format!("{} missing", self.missing);
        let marks = [
            (self.partial, "partial"),
            (self.pinned, "pinned"),
            (self.missing > 0, missing.as_str()),
            (self.copied_to.is_some(), "copied"),
        ];
        let set: Vec<&str> = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
        set.join(", ")
    }

    /// `green -> blue`.
    fn way(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            _ => String::new(),
        }
    }
}

/// The word of `incident.json`.
fn outcome(outcome: &IncidentOutcome) -> &'static str {
    match outcome {
        IncidentOutcome::Decided => "decided",
        IncidentOutcome::RolledBack { .. } => "rolled_back",
        IncidentOutcome::Withheld => "withheld",
        IncidentOutcome::DryRun => "dry_run",
        IncidentOutcome::Failed { .. } => "failed",
        IncidentOutcome::Blocked { .. } => "blocked",
        IncidentOutcome::Suppressed { .. } => "suppressed",
    }
}

/// Prints an answer in the form that was asked for.
fn print(form: Form, table: impl FnOnce() -> String, json: &impl Serialize) {
    match form.output {
        Output::Table => anstream::print!("{}", table()),
        Output::Json => print_json(json),
    }
}

/// `1.2 MiB`.
fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `1 bundle`, `3 bundles`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// `2026-11-21 04:12:34`, in UTC as everywhere in flipback.
fn clock(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// What came from a cluster, without what would draw on the terminal.
fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':' | '+' | '@');
    if !text.is_empty() && text.chars().all(simple) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether all went well, as an exit code.
fn code(well: bool) -> u8 {
    if well { HEALTHY } else { BAD }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_a_cluster_does_not_draw() {
        assert_eq!(plain("a\u{1b}[2Jb\tü"), "a\\u{1b}[2Jb\\tü");
    }

    #[test]
    fn a_path_can_be_pasted() {
        assert_eq!(quoted(Path::new("/var/lib/x_1.2Z")), "/var/lib/x_1.2Z");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
