//! Everything a report says, put together once: the page and the ticket are two forms of it. Pure.

use jiff::SignedDuration;
use minijinja::Value;
use serde::Serialize;

use super::{
    change::Changes,
    chart::Chart,
    course::Course,
    folder::{Logs, Side},
    lines::GroupRow,
    pods::{self, EventRow, PodRow},
    told::{self, Outcome, RuleRow},
    words,
};
use crate::{
    model::{Incident, RuleSpec},
    plot,
};

mod parts;

use parts::{both_pods, changes, chart, facts, figures, first_error, group, knobs, logs_of, signs, story, whose};

/// Events within so much of the decision matter though they are no warnings.
const NEAR: SignedDuration = SignedDuration::from_mins(15);
/// Things that could not be captured, listed.
const MISSING_MAX: usize = 120;
/// What was read, before it is put into words.
pub(super) struct Material {
    pub(super) incident: Incident,
    pub(super) rules: Vec<RuleSpec>,
    pub(super) course: Course,
    pub(super) charts: Vec<Chart>,
    /// The color that is left, and the one that takes over.
    pub(super) sides: (Side, Side),
    /// The same after the incident, where there was a second pass.
    pub(super) after: Option<(Side, Side)>,
    pub(super) events: Option<Vec<pods::Event>>,
    pub(super) logs: Logs,
    pub(super) problems: Vec<String>,
    /// What has no place in the report but lies in the folder.
    pub(super) has_record: bool,
}

/// A report.
#[derive(Serialize)]
pub(super) struct Page {
    style: Value,
    pub(super) title: String,
    id: String,
    guard: String,
    from: String,
    to: String,
    from_version: String,
    to_version: String,
    /// What became of each color, as far as the bundle tells.
    from_role: String,
    to_role: String,
    outcome: Outcome,
    facts: Vec<Fact>,
    figures: Vec<Figure>,
    story: Vec<StoryRow>,
    first_bad_known: bool,
    charts: Vec<ChartRow>,
    signs: Vec<Sign>,
    changes: Option<Changes>,
    changes_missing: String,
    change_files: Vec<Link>,
    pods: Vec<PodsOf>,
    pods_after: Vec<PodsOf>,
    events: Vec<EventRow>,
    events_total: usize,
    events_known: bool,
    groups: Vec<GroupOf>,
    groups_more: usize,
    lines: u64,
    first_error: String,
    skipped: String,
    logs: Vec<LogsOf>,
    logs_after: Vec<LogsOf>,
    logs_more: usize,
    partial: bool,
    rules: Vec<RuleRow>,
    policy: Vec<String>,
    knobs: Vec<Fact>,
    config_hash: String,
    missing: Vec<String>,
    missing_more: usize,
    has_record: bool,
    has_picture: bool,
    followed_up: String,
    version: String,
}

/// A name and what it is.
#[derive(Serialize)]
struct Fact {
    name: String,
    value: String,
}

/// A figure and what it counts.
#[derive(Serialize)]
struct Figure {
    value: String,
    label: String,
}

/// A line of the story.
#[derive(Serialize)]
struct StoryRow {
    time: String,
    iso: String,
    /// Since the line before.
    step: String,
    /// Since the first bad request.
    since: String,
    what: String,
    /// A word for what kind of moment it is.
    kind: &'static str,
    tone: &'static str,
    derived: bool,
}

/// A plot.
#[derive(Serialize)]
struct ChartRow {
    rule: String,
    caption: String,
    svg: Value,
    lines: Vec<Sign>,
    limit: String,
    /// How it is drawn, where that is not plain.
    drawn: Vec<&'static str>,
}

/// A sign of a legend.
#[derive(Serialize)]
struct Sign {
    class: String,
    text: String,
}

/// The pods of one color.
#[derive(Serialize)]
struct PodsOf {
    color: String,
    role: String,
    rows: Option<Vec<PodRow>>,
}

/// The logs of one pod.
#[derive(Serialize)]
struct LogsOf {
    color: String,
    pod: String,
    files: Vec<Link>,
}

/// Log lines that say the same, and where to read on.
#[derive(Serialize)]
struct GroupOf {
    #[serde(flatten)]
    row: GroupRow,
    links: Vec<Link>,
}

/// A link to a file of the bundle.
#[derive(Serialize)]
struct Link {
    href: String,
    text: String,
    note: String,
}

impl Page {
    /// Puts everything into words.
    pub(super) fn of(material: &Material, has_picture: bool) -> Self {
        let Material {
            incident, course, logs, ..
        } = material;
        let case = &incident.case;
        let outcome = told::outcome(incident, course);
        let (from_role, to_role) = told::roles(incident, course);
        let (events, events_total) = pods::events(material.events.as_deref().unwrap_or_default(), case.at, NEAR);
        let (changes, changes_missing, change_files) = changes(material);
        let groups = logs.finds.rows(&crate::model::file_segment(case.from.as_str()), case.at);
        let mut missing: Vec<String> = incident.capture_errors.iter().map(|line| words::line(line, 500)).collect();
        missing.extend(material.problems.iter().cloned());
        let missing_more = missing.len().saturating_sub(MISSING_MAX);
        missing.truncate(MISSING_MAX);
        let (pods, pods_after) = both_pods(material, [&from_role, &to_role]);
        let (log_list, logs_more) = logs_of(&logs.files);
        Self {
            style: Value::from_safe_string(format!("{}{}", include_str!("report.css"), plot::STYLE)),
            title: format!("{}: {} from {} to {}", case.guard, outcome.word, case.from, case.to),
            id: incident.id.clone(),
            guard: whose(incident),
            from: case.from.to_string(),
            to: case.to.to_string(),
            from_version: told::version(case.from_release.as_ref()),
            to_version: told::version(case.to_release.as_ref()),
            facts: facts(incident),
            figures: figures(incident, course),
            story: story(course, case.at),
            first_bad_known: course.first_bad.is_some(),
            charts: material.charts.iter().map(chart).collect(),
            signs: signs(material),
            changes,
            changes_missing,
            change_files,
            pods,
            pods_after,
            events,
            events_total,
            events_known: material.events.is_some(),
            groups_more: logs.finds.kinds().saturating_sub(groups.len()),
            groups: groups.into_iter().map(group).collect(),
            lines: logs.finds.lines,
            first_error: first_error(material),
            skipped: logs.skipped.clone(),
            logs: log_list,
            logs_after: logs_of(&logs.after).0,
            partial: incident.partial,
            logs_more,
            rules: material.rules.iter().map(told::rule).collect(),
            policy: told::policy(&incident.policy, incident.mode),
            knobs: knobs(incident),
            config_hash: words::line(&case.config_hash, 100),
            missing,
            missing_more,
            has_record: material.has_record,
            has_picture,
            followed_up: incident.followed_up_at.map(words::instant).unwrap_or_default(),
            version: words::line(&incident.flipback, 40),
            outcome,
            from_role,
            to_role,
        }
    }
}
