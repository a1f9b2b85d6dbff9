//! `flipback evidence show`: why, what happened, what was captured and what was not.

use std::{collections::BTreeMap, fs, path::Path};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{Brief, Site, Which, clock, counted, list, plain, print, quoted, size};
use crate::{
    cli::{
        Failure, Form, HEALTHY,
        paint::{self, Cell, columns, styled},
        status::ago,
    },
    model::{Incident, IncidentOutcome},
};

/// Arguments of `flipback evidence show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence show
  flipback evidence show last shop/web
  flipback evidence show shop.web_20261121T0412 --files
  flipback evidence show last --output json | jq .incident.case.rules")]
pub struct ShowArgs {
    /// The incident.
    #[command(flatten)]
    pub which: Which,
    /// Name every file, not only their folders
    #[arg(long)]
    pub files: bool,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    brief: Brief,
    /// The files, with their bytes.
    files: BTreeMap<String, u64>,
    /// All of `incident.json`.
    incident: Option<&'a Incident>,
}

/// Tells the story of one incident.
pub(super) fn show(site: &Site, args: &ShowArgs) -> Result<u8, Failure> {
    let found = site.one(&args.which)?;
    let mut files = BTreeMap::new();
    measure(&found.folder, "", &mut files);
    let shown = Shown {
        brief: Brief::new(&found),
        files,
        incident: found.incident.as_ref().ok(),
    };
    let now = crate::cli::now();
    print(args.form, || story(&shown, args.files, now), &shown);
    Ok(HEALTHY)
}

/// Files below a folder with their bytes; marks are no files of the bundle.
fn measure(folder: &Path, above: &str, files: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = entry.metadata() else { continue };
        match above {
            "" if name.starts_with('.') => {}
            _ if meta.is_dir() => measure(&entry.path(), &format!("{above}{name}/"), files),
            _ => {
                files.insert(format!("{above}{name}"), meta.len());
            }
        }
    }
}

fn story(shown: &Shown<'_>, all_files: bool, now: Timestamp) -> String {
    let brief = &shown.brief;
    let mut out = head(brief, now);
    if let Some(incident) = shown.incident {
        out.push_str(&facts(incident, brief));
        out.push_str(&timeline(incident));
    }
    out.push_str(&files(&shown.files, all_files));
    if let Some(incident) = shown.incident
        && !incident.capture_errors.is_empty()
    {
        out.push_str(&format!(
            "\n{}  {}\n",
            styled("MISSING", paint::WARN),
            incident.capture_errors.len()
        ));
        for missing in &incident.capture_errors {
            out.push_str(&format!("  {}\n", plain(missing)));
        }
    }
    out.push('\n');
    let mut next = Vec::new();
    let mut hint = |what: &str, command: String| next.push(vec![Cell::new(what, paint::DIM), Cell::plain(command)]);
    if shown.files.contains_key("report.html") {
        hint("read", format!("flipback evidence open {}", plain(&brief.id)));
    }
    if shown.files.contains_key("decision.jsonl") {
        hint("judge again", format!("flipback replay --explain {}", quoted(&brief.folder)));
    }
    hint("take along", format!("flipback evidence export {}", plain(&brief.id)));
    out.push_str(&columns(&next, 0));
    out
}

fn head(brief: &Brief, now: Timestamp) -> String {
    let outcome = columns(&[vec![list::outcome(&brief.outcome)]], 0);
    let mut out = format!(
        "{}  {}  {}  {} UTC {}\n",
        styled(&plain(&brief.guard), paint::BOLD),
        outcome.trim_end(),
        plain(&brief.way()),
        clock(brief.at),
        styled(&format!("({})", ago(brief.at, now)), paint::DIM),
    );
    if !brief.why.is_empty() {
        out.push_str(&format!("  {}\n", plain(&brief.why)));
    }
    if brief.partial {
        let what = "It is still being written, or flipback ended before it was complete; the next start finishes it.";
        out.push_str(&format!("  {}\n", styled(what, paint::WARN)));
    }
    out
}

fn facts(incident: &Incident, brief: &Brief) -> String {
    let mut rows = Vec::new();
    let mut fact = |name: &str, what: String| {
        if !what.is_empty() {
            rows.push(vec![Cell::new(name, paint::DIM), Cell::plain(plain(&what))]);
        }
    };
    match &incident.outcome {
        IncidentOutcome::RolledBack {
            took_ms, preview_error, ..
        } => {
            let took = if *took_ms > 0.0 {
                format!("in {took_ms:.0} ms")
            } else {
                "while flipback ended".to_owned()
            };
            fact("traffic moved", took);
            fact("but", preview_error.clone().unwrap_or_default());
        }
        IncidentOutcome::Failed { error } => fact("error", error.clone()),
        IncidentOutcome::Blocked { refusal } => fact("refused", refusal.to_string()),
        IncidentOutcome::Suppressed { suppression } => fact("suppressed", suppression.to_string()),
        IncidentOutcome::Decided | IncidentOutcome::Withheld | IncidentOutcome::DryRun => {}
    }
    let cluster = if incident.cluster.is_empty() {
        String::new()
    } else {
        format!(" of {}", incident.cluster)
    };
    fact("object", format!("{} in {}{cluster}", incident.object, incident.namespace));
    for (color, release) in [
        (&incident.case.from, &incident.case.from_release),
        (&incident.case.to, &incident.case.to_release),
    ] {
        if let Some(release) = release {
            fact(color.as_str(), format!("{}  {}", release.id, release.images.join(", ")));
        }
    }
    fact("marks", brief.marks());
    fact("copied to", brief.copied_to.clone().unwrap_or_default());
    fact("folder", brief.folder.display().to_string());
    format!("\n{}", columns(&rows, 2))
}

/// The story with the time that passed since the decision.
fn timeline(incident: &Incident) -> String {
    if incident.timeline.is_empty() {
        return String::new();
    }
    // What is noted last may have happened first.
    let mut entries: Vec<_> = incident.timeline.iter().collect();
    entries.sort_by_key(|entry| entry.at);
    let rows: Vec<Vec<Cell>> = entries
        .into_iter()
        .map(|entry| {
            vec![
                Cell::plain(entry.at.strftime("%H:%M:%S%.3f").to_string()),
                Cell::new(since(entry.at, incident.case.at), paint::DIM),
                Cell::plain(plain(&entry.what)),
            ]
        })
        .collect();
    format!("\n{}  from the decision\n{}", styled("TIMELINE", paint::DIM), columns(&rows, 2))
}

/// `+43ms`, `+8.0s`, `-2m 5s`.
fn since(at: Timestamp, zero: Timestamp) -> String {
    let passed = at.duration_since(zero);
    let sign = if passed.is_negative() { '-' } else { '+' };
    let passed = passed.unsigned_abs();
    match passed.as_secs() {
        0 => format!("{sign}{}ms", passed.as_millis()),
        1..=59 => format!("{sign}{:.1}s", passed.as_secs_f64()),
        seconds => format!("{sign}{}", humantime::format_duration(std::time::Duration::from_secs(seconds))),
    }
}

/// Files at the top by name, folders by what is in them.
fn files(files: &BTreeMap<String, u64>, all: bool) -> String {
    let mut shown: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (name, bytes) in files {
        let name = match name.split_once('/') {
            Some((folder, _)) if !all => format!("{folder}/"),
            _ => name.clone(),
        };
        let entry = shown.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + bytes);
    }
    let rows: Vec<Vec<Cell>> = shown
        .iter()
        .map(|(name, (count, bytes))| {
            let held = if name.ends_with('/') {
                counted(*count, "file")
            } else {
                String::new()
            };
            vec![Cell::plain(plain(name)), Cell::plain(size(*bytes)), Cell::new(held, paint::DIM)]
        })
        .collect();
    let total = format!("{}, {}", counted(files.len(), "file"), size(files.values().sum()));
    format!("\n{}  {total}\n{}", styled("FILES", paint::DIM), columns(&rows, 2))
}
