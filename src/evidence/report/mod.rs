//! The report of an incident: what a person opens at 3 am, and what the post-mortem is written from a week later.
//!
//! From the files of a bundle it makes `report.html` (one file, no script, no foreign resource, light, dark and paper),
//! `report.md` for tickets, `plot.png` for chats and `timeline.json` for programs.
//!
//! - It reads the folder and nothing else, so that it can be made anew at any time, by any version, from any bundle: one
//!   that a crash left, one without logs, one of years ago. What is missing or broken becomes a sentence of the report.
//! - Everything in a bundle is hostile: logs, manifests and people write what they like. Templates escape by themselves
//!   ([`render`]); controls, escape sequences and signs that turn text around are gone before ([`words`]).
//! - It runs inside the daemon. Logs are streamed and only kinds of lines are kept ([`lines`]); files, bytes, lines,
//!   groups, rows and time are bounded ([`folder`]).
//! - It judges nothing. What led to the decision is derived from the record by simple means ([`bar`], [`course`]) and
//!   marked as derived; `flipback replay` gives the verdict again.
//!
//! Reading order: [`folder`] (what is there), [`trace`], [`bar`], [`course`] (what happened), [`change`], [`pods`], [`lines`]
//! (what it looked like), [`chart`], [`told`] and [`page`] (in words), [`render`] (as files).

mod bar;
mod change;
mod chart;
mod course;
mod folder;
mod lines;
mod page;
mod pods;
mod render;
mod told;
mod trace;
mod words;

#[cfg(test)]
mod tests;

use std::{
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use self::{
    bar::Bar,
    course::Timeline,
    folder::Folder,
    lines::Finds,
    page::{Material, Page},
};
use super::{EvidenceError, disk};
use crate::plot;

/// The page.
pub(super) const HTML: &str = "report.html";
/// The ticket.
const MARKDOWN: &str = "report.md";
/// Bytes of the page in which it says of which incident it is.
const HEAD_BYTES: u64 = 2048;
/// The plot of the rule that decided.
pub(super) const PICTURE: &str = "plot.png";
/// The story for programs.
const TIMELINE: &str = "timeline.json";
/// Where the second pass lies.
const AFTER: &str = "after";

/// Draws a chart as the picture of a bundle. A simulation, whose pictures nobody looks at, brings a quicker one.
pub type Pen = fn(&plot::Plot, plot::Theme) -> Result<Vec<u8>, plot::PlotError>;

/// The one that draws what people see.
pub const PEN: Pen = plot::png;

/// Writes `report.html`, `report.md`, `plot.png` and `timeline.json` into a bundle's folder, from what lies there; each
/// is replaced whole or not at all. Blocks, for at most some seconds of looking through logs.
///
/// # Errors
/// [`EvidenceError`] when `incident.json` cannot be read or the disk refuses a file. What else is missing in the folder, or
/// broken, is no error: the report says so.
pub fn write(folder: &Path) -> Result<(), EvidenceError> {
    write_with(folder, PEN)
}

/// [`write`], with who draws the picture.
pub(super) fn write_with(folder: &Path, pen: Pen) -> Result<(), EvidenceError> {
    // First: where the incident changes in between, the report says that it is not of it.
    let of = disk::incident_hash(folder)?;
    let incident = disk::read(folder)?;
    let mut material = gather(folder, incident);
    let picture = picture(&material, pen);
    let has_picture = matches!(picture, Some(Ok(_)));
    if let Some(Err(error)) = &picture {
        material.problems.push(format!("{PICTURE}: {error}"));
    }
    let page = Page::of(&material, has_picture);
    let mut timeline = serde_json::to_vec_pretty(&Timeline::of(&material.incident, &material.course)).map_err(io::Error::from);
    if let Ok(timeline) = &mut timeline {
        timeline.push(b'\n');
    }
    let files = [
        (TIMELINE, timeline),
        (HTML, render::html(&page, &of).map(String::into_bytes).map_err(io::Error::other)),
        (MARKDOWN, render::markdown(&page).map(String::into_bytes).map_err(io::Error::other)),
    ];
    let mut first_failure = None;
    for (name, bytes) in files
        .into_iter()
        .chain(picture.and_then(Result::ok).map(|bytes| (PICTURE, Ok(bytes))))
    {
        let path = folder.join(name);
        let written = bytes.and_then(|bytes| replace(&path, &bytes));
        if let Err(source) = written {
            let attempted = "write";
            first_failure.get_or_insert(EvidenceError::Disk { attempted, path, source });
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Whether a bundle's report is of the incident as it stands there now. One that an older flipback made does not say: it is
/// left alone.
pub(super) fn is_current(folder: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(folder.join(HTML)).and_then(|page| page.take(HEAD_BYTES).read_to_end(&mut head));
    if read.is_err() {
        return false;
    }
    let head = String::from_utf8_lossy(&head);
    let said = head.split_once(render::OF_INCIDENT).and_then(|(_, rest)| rest.split_once('"'));
    said.is_none_or(|(of, _)| disk::incident_hash(folder).is_ok_and(|hash| hash == of))
}

/// The plot of the rule that decided, as a picture. One at a time: it takes some 20 MiB for a moment, and many guards may
/// flip at once.
fn picture(material: &Material, pen: Pen) -> Option<Result<Vec<u8>, plot::PlotError>> {
    static ONE: Mutex<()> = Mutex::new(());
    let chart = material.charts.iter().find(|chart| chart.deciding).or(material.charts.first())?;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some(pen(&chart.plot, plot::Theme::Light))
}

/// Reads everything and works out what happened.
fn gather(root: &Path, incident: crate::model::Incident) -> Material {
    let mut folder = Folder::new(root);
    let has_record = folder.has("decision.jsonl");
    let trace = folder.trace();
    let series = folder.series();
    let rules = if incident.rules.is_empty() {
        trace.rules.clone()
    } else {
        incident.rules.clone()
    };
    let bars: Vec<Bar> = if rules.is_empty() {
        incident.case.rules.iter().map(Bar::told).collect()
    } else {
        rules.iter().map(|rule| Bar::of(rule, &incident.policy)).collect()
    };
    let course = course::course(&incident, &bars, &trace, &series);
    let charts = chart::charts(&incident, &bars, &trace, &series, &course);
    let (from, to) = (&incident.case.from, &incident.case.to);
    let sides = (folder.side("", from), folder.side("", to));
    let after = folder
        .has(AFTER)
        .then(|| (folder.side(&format!("{AFTER}/"), from), folder.side(&format!("{AFTER}/"), to)));
    let events = folder.events();
    let begun = course.first_bad.as_ref().map_or(incident.case.at, |first| first.at);
    let near = lines::around(begun, course.moved.unwrap_or(incident.case.at));
    let logs = folder.logs(Finds::new(near, incident.switched_at), from);
    let problems = folder.problems;
    Material {
        rules,
        course,
        charts,
        sides,
        after,
        events,
        logs,
        problems,
        has_record,
        incident,
    }
}

/// Replaces a file whole or not at all: a report that is read while it is made anew is the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    let mode = Permissions::from_mode(disk::FILE_MODE);
    let mut part = builder.prefix(".part-").permissions(mode).tempfile_in(folder)?;
    part.write_all(bytes)?;
    part.persist(path)?;
    Ok(())
}
