//! The parts of a report, each in words. Pure.

use jiff::{SignedDuration, Timestamp};
use minijinja::Value;

use super::{ChartRow, Fact, Figure, GroupOf, Link, LogsOf, Material, PodsOf, Sign, StoryRow};
use crate::{
    evidence::report::{
        change::{self, Changes},
        chart::Chart,
        course::{self, Course},
        folder::{LogFile, Side},
        lines::GroupRow,
        told, words,
    },
    model::{Incident, Mode, Moment},
    plot::{self, MarkKind},
};

/// Log files linked to.
const LINKS_MAX: usize = 600;

/// The guard, with its cluster where its name does not begin with it.
pub(super) fn whose(incident: &Incident) -> String {
    let (guard, cluster) = (&incident.case.guard, words::line(&incident.cluster, 200));
    if cluster.is_empty() || guard.names_cluster() {
        guard.to_string()
    } else {
        format!("{guard} ({cluster})")
    }
}

pub(super) fn facts(incident: &Incident) -> Vec<Fact> {
    let case = &incident.case;
    let mut facts = Vec::new();
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push(Fact {
                name: name.to_owned(),
                value,
            });
        }
    };
    put("Guard", case.guard.to_string());
    put("Cluster", words::line(&incident.cluster, 200));
    put("Namespace", words::line(&incident.namespace, 200));
    put("Object", words::line(&incident.object, 200));
    put("From", format!("{}: {}", case.from, told::release(case.from_release.as_ref())));
    put("To", format!("{}: {}", case.to, told::release(case.to_release.as_ref())));
    put("Triggered by", told::triggered(&case.trigger, &incident.policy));
    put("Decided", words::instant(case.at));
    put("Switched", incident.switched_at.map(words::instant).unwrap_or_default());
    put(
        "Ready endpoints",
        format!("{} on {}, {} on {}", case.from_ready, case.from, case.to_ready, case.to),
    );
    put(
        "Mode",
        match incident.mode {
            Mode::Enforce => "enforce",
            Mode::Monitor => "monitor only",
        }
        .to_owned(),
    );
    put("Incident", words::line(&incident.id, 300));
    facts
}

fn span(seconds: f64) -> String {
    words::span(SignedDuration::try_from_secs_f64(seconds).unwrap_or_default())
}

pub(super) fn figures(incident: &Incident, course: &Course) -> Vec<Figure> {
    let durations = &course.durations;
    let mut figures = Vec::new();
    let mut put = |value: Option<String>, label: &str| {
        if let Some(value) = value {
            figures.push(Figure {
                value,
                label: label.to_owned(),
            });
        }
    };
    let about = |seconds: f64| course::about(seconds, durations.detect_uncertainty_seconds);
    let (suffered, detected) = (durations.suffering_seconds.map(about), durations.detect_seconds.map(about));
    // Where the flip took no time that people notice, one figure says both.
    let same = suffered == detected;
    put(suffered, "users met bad requests, until traffic had moved");
    put(detected.filter(|_| !same), "from the first bad request to the decision");
    let hit = course
        .hit
        .map(|(bad, total)| format!("{} of {}", words::plain(bad), words::plain(total)));
    put(hit, "requests bad, as measured until the decision");
    put(durations.patch_seconds.map(span), "from the decision to the accepted patch");
    put(durations.endpoints_seconds.map(span), "from the patch until the endpoints followed");
    put(
        durations.recovery_seconds.map(span),
        &format!("from the patch until {} was known to be well", incident.case.to),
    );
    put(
        durations.switch_to_decision_seconds.map(span),
        &format!("{} had been live when it was decided", incident.case.from),
    );
    figures
}

pub(super) fn story(course: &Course, day: Timestamp) -> Vec<StoryRow> {
    let mut before: Option<Timestamp> = None;
    let first = course.first_bad.as_ref().map(|first| first.at);
    let row = |step: &course::Step| {
        let since_before = before.replace(step.at).map(|before| step.at.duration_since(before));
        let since_first = first
            .map(|first| step.at.duration_since(first))
            .filter(|since| !since.is_negative());
        let (kind, tone) = kind(step.moment);
        StoryRow {
            time: words::clock(step.at, day),
            iso: step.at.to_string(),
            step: since_before
                .filter(|since| !since.is_zero())
                .map(|since| format!("+{}", words::span(since)))
                .unwrap_or_default(),
            since: since_first.map(words::span).unwrap_or_default(),
            what: step.what.clone(),
            kind,
            tone,
            derived: step.derived,
        }
    };
    // How to replay it stands at the end of the report.
    let told = course
        .steps
        .iter()
        .filter(|step| step.moment.is_some() || !step.what.starts_with("Recorded in "));
    told.map(row).collect()
}

/// A moment in a word, and its tone.
fn kind(moment: Option<Moment>) -> (&'static str, &'static str) {
    match moment {
        None => ("note", "plain"),
        Some(Moment::Switched) => ("switch", "plain"),
        Some(Moment::FirstBad) => ("first bad", "bad"),
        Some(Moment::Breach) => ("breach", "bad"),
        Some(Moment::Decided) => ("decision", "act"),
        Some(Moment::Patched) => ("patch", "act"),
        Some(Moment::PatchFailed) => ("patch failed", "bad"),
        Some(Moment::Arrived) => ("arrived", "good"),
        Some(Moment::NotArrived) => ("not arrived", "bad"),
        Some(Moment::Recovered) => ("recovered", "good"),
        Some(Moment::DidNotHelp) => ("did not help", "bad"),
        Some(Moment::FlippedBack) => ("moved back", "bad"),
        Some(Moment::MadeAgain) => ("made again", "act"),
        Some(Moment::Resolved) => ("over", "good"),
        Some(Moment::FollowedUp) => ("second pass", "plain"),
        Some(Moment::ScaledUp) => ("scaled up", "good"),
        Some(Moment::NotScaled) => ("not scaled", "bad"),
        Some(Moment::Relieved) => ("out of service", "good"),
        Some(Moment::NotRelieved) => ("left in service", "bad"),
        Some(Moment::NotTold) => ("not told", "bad"),
    }
}

pub(super) fn chart(chart: &Chart) -> ChartRow {
    let line = |line: &plot::Line| Sign {
        class: line.class.clone(),
        text: line.name.clone(),
    };
    ChartRow {
        rule: chart.rule.clone(),
        caption: chart.caption.clone(),
        svg: Value::from_safe_string(plot::svg(&chart.plot)),
        lines: chart.plot.lines.iter().map(line).collect(),
        limit: chart
            .plot
            .limit
            .map(|limit| words::value(&chart.plot.unit, limit))
            .unwrap_or_default(),
        drawn: [(chart.plot.has_band(), plot::BAND), (chart.plot.is_root(), plot::ROOT)]
            .into_iter()
            .filter_map(|(is, word)| is.then_some(word))
            .collect(),
    }
}

/// What the marks of the plots mean, those that there are.
pub(super) fn signs(material: &Material) -> Vec<Sign> {
    let marks = || material.charts.iter().flat_map(|chart| &chart.plot.marks);
    let kinds = [
        (MarkKind::Switch, "switch", format!("{} became active", material.incident.case.from)),
        (MarkKind::Breach, "breach", "a look past the limit".to_owned()),
        (MarkKind::Decision, "decision", format!("flipped to {}", material.incident.case.to)),
        (MarkKind::Held, "held", "decided, traffic was not moved".to_owned()),
    ];
    let there = kinds.into_iter().filter(|(kind, ..)| marks().any(|mark| mark.kind == *kind));
    let sign = |(_, class, text): (MarkKind, &str, String)| Sign {
        class: class.to_owned(),
        text,
    };
    there.map(sign).collect()
}

pub(super) fn changes(material: &Material) -> (Option<Changes>, String, Vec<Link>) {
    let case = &material.incident.case;
    let link = |side: &Side| {
        side.workload.as_ref().map(|workload| Link {
            href: LogFile::href(&workload.file),
            text: workload.file.clone(),
            note: String::new(),
        })
    };
    let (left, right) = &material.sides;
    let files = [link(left), link(right)].into_iter().flatten().collect();
    match (&left.workload, &right.workload) {
        (Some(from), Some(to)) => {
            let changes = change::compare((case.from.as_str(), from), (case.to.as_str(), to));
            (Some(changes), String::new(), files)
        }
        (from, _) => {
            let color = if from.is_none() { &case.from } else { &case.to };
            (None, format!("what {color} runs is not in this bundle"), files)
        }
    }
}

pub(super) fn both_pods(material: &Material, roles: [&str; 2]) -> (Vec<PodsOf>, Vec<PodsOf>) {
    let case = &material.incident.case;
    let rows = |side: &Side, now: Timestamp| {
        side.pods
            .as_ref()
            .map(|pods| pods.iter().map(|pod| pod.row(now)).collect::<Vec<_>>())
    };
    let of = |(left, right): &(Side, Side), now: Timestamp| {
        let color = |color: &crate::model::Color, role: &str, side: &Side| PodsOf {
            color: color.to_string(),
            role: role.to_owned(),
            rows: rows(side, now).map(|mut rows| {
                rows.sort_by(|a, b| {
                    (!a.sick, std::cmp::Reverse(a.restarts), &a.name).cmp(&(!b.sick, std::cmp::Reverse(b.restarts), &b.name))
                });
                rows
            }),
        };
        vec![color(&case.from, roles[0], left), color(&case.to, roles[1], right)]
    };
    let after = material
        .after
        .as_ref()
        .map(|after| of(after, material.incident.followed_up_at.unwrap_or(case.at)));
    (of(&material.sides, case.at), after.unwrap_or_default())
}

/// A group with links to the files that it was found in.
pub(super) fn group(row: GroupRow) -> GroupOf {
    let link = |path: &String| Link {
        href: LogFile::href(path),
        // The color stands beside it: `logs/<color>/<pod>/<container>.log`.
        text: words::line(path.splitn(3, '/').nth(2).unwrap_or(path), 350),
        note: String::new(),
    };
    GroupOf {
        links: row.files.iter().map(link).collect(),
        row,
    }
}

pub(super) fn logs_of(files: &[LogFile]) -> (Vec<LogsOf>, usize) {
    let mut list: Vec<LogsOf> = Vec::new();
    for file in files.iter().take(LINKS_MAX) {
        let link = Link {
            href: LogFile::href(&file.path),
            text: words::line(&file.name, 200),
            note: file.size.clone(),
        };
        match list.last_mut().filter(|of| of.color == file.color && of.pod == file.pod) {
            Some(of) => of.files.push(link),
            None => list.push(LogsOf {
                color: words::line(&file.color, 80),
                pod: words::line(&file.pod, 253),
                files: vec![link],
            }),
        }
    }
    (list, files.len().saturating_sub(LINKS_MAX))
}

/// When the color that is left first logged an error after it had become active.
pub(super) fn first_error(material: &Material) -> String {
    let case = &material.incident.case;
    let at = material.logs.finds.first_error(&crate::model::file_segment(case.from.as_str()));
    at.map(|at| words::clock(at, case.at)).unwrap_or_default()
}

pub(super) fn knobs(incident: &Incident) -> Vec<Fact> {
    let policy = serde_json::to_value(&incident.policy).unwrap_or_default();
    let knob = |(name, value): (&String, &serde_json::Value)| Fact {
        name: name.clone(),
        value: match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "by the limit".to_owned(),
            other => other.to_string(),
        },
    };
    policy.as_object().into_iter().flatten().map(knob).collect()
}
