//! Templates tried before any incident does: on an example of every topic, with everything an announcement may have and with
//! nothing it may lack.

use std::{fmt::Write, sync::LazyLock};

use jiff::SignedDuration;
use minijinja::{Error, ErrorKind};

use super::{ENVIRONMENT, PARTS, Problem, context, rendered};
use crate::{
    model::{Announcement, Repeats, Topic, settings::Templates},
    words::Message,
};

/// A template longer than this is no message.
const SOURCE_BYTES_MAX: usize = 16 * 1024;

/// Tries templates on an example of every topic, with everything an announcement may have and with nothing it may lack.
#[must_use]
pub fn check(templates: &Templates) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (part, of) in PARTS {
        if let Some(source) = of(&templates.any) {
            let without_own = |topic: &Topic| templates.by_topic.get(topic).and_then(of).is_none();
            let topics: Vec<Topic> = Topic::ALL.into_iter().filter(without_own).collect();
            problems.extend(fault(source, part, &topics).map(|fault| fault.of(None, part)));
        }
        for (topic, words) in &templates.by_topic {
            if let Some(source) = of(words) {
                problems.extend(fault(source, part, &[*topic]).map(|fault| fault.of(Some(*topic), part)));
            }
        }
    }
    problems
}

/// What is wrong, before it is known with whose template.
struct Fault {
    line: Option<usize>,
    what: String,
    unknown: Option<String>,
    known: Vec<String>,
    hint: Option<String>,
}

impl Fault {
    fn of(self, topic: Option<Topic>, part: &'static str) -> Problem {
        Problem {
            topic,
            part,
            line: self.line,
            what: self.what,
            unknown: self.unknown,
            known: self.known,
            hint: self.hint,
        }
    }

    fn plain(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
            unknown: None,
            known: Vec::new(),
            hint: None,
        }
    }
}

/// The first thing that is wrong with a template, if anything is.
fn fault(source: &str, part: &'static str, topics: &[Topic]) -> Option<Fault> {
    if source.len() > SOURCE_BYTES_MAX {
        return Some(Fault::plain(format!("a template of {} bytes", source.len())));
    }
    let template = match ENVIRONMENT.template_from_named_str(part, source) {
        Ok(template) => template,
        Err(error) => return Some(failed(&error, None)),
    };
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort_unstable();
    if let Some(unknown) = names.iter().find_map(|name| unknown(name, source)) {
        return Some(unknown);
    }
    let tries = topics.iter().flat_map(|topic| examples(*topic).map(|example| (*topic, example)));
    tries.into_iter().find_map(|(topic, (example, bare))| {
        let context = context(&example, &Message::of(&example));
        let error = rendered(source, part, &context).err()?;
        Some(failed(&error, Some((topic, bare))))
    })
}

/// An example with everything an announcement may have, one without anything it may lack (`true`), and the usual one.
fn examples(topic: Topic) -> [(Announcement, bool); 3] {
    let usual = Announcement::example(topic);
    [
        (full(topic), false),
        (
            Announcement {
                from: None,
                to: None,
                from_release: None,
                to_release: None,
                trigger: None,
                incident: None,
                evidence: None,
                took_ms: None,
                decided_at: None,
                switched_at: None,
                ..usual.clone()
            },
            true,
        ),
        (usual, false),
    ]
}

/// Has everything.
fn full(topic: Topic) -> Announcement {
    let usual = Announcement::example(topic);
    let example = Announcement::example(Topic::RollbackCompleted);
    Announcement {
        cluster: "eu".to_owned(),
        from: usual.from.or(example.from),
        to: usual.to.or(example.to),
        from_release: usual.from_release.or(example.from_release),
        to_release: usual.to_release.or(example.to_release),
        trigger: usual.trigger.or(example.trigger),
        link: Some("https://evidence.example/shop.web_20261121T041234Z/report.html".to_owned()),
        picture: Some("plot.png".into()),
        incident: usual.incident.or(example.incident),
        evidence: usual.evidence.or(example.evidence),
        took_ms: usual.took_ms.or(example.took_ms),
        decided_at: usual.decided_at.or(example.decided_at),
        switched_at: usual.switched_at.or(example.switched_at),
        repeats: Some(Repeats {
            count: 5,
            since: usual.at - SignedDuration::from_mins(10),
        }),
        chats: vec!["slack".to_owned()],
        ..usual
    }
}

/// What a dotted name would reach in a message, if it is no name of one.
fn unknown(name: &str, source: &str) -> Option<Fault> {
    static KNOWN: LazyLock<serde_json::Value> = LazyLock::new(|| {
        let full = full(Topic::RollbackCompleted);
        let message = Message::of(&full);
        serde_json::to_value(context(&full, &message)).expect("a message's maps have text keys")
    });
    if ENVIRONMENT.globals().any(|(global, _)| global == name) {
        return None;
    }
    let mut here = &*KNOWN;
    let mut path = String::new();
    for part in name.split('.') {
        let fields = here.as_object();
        match fields.and_then(|fields| fields.get(part)) {
            Some(field) => here = field,
            None => {
                let known = fields.map(|fields| fields.keys().map(|key| format!("{path}{key}")).collect());
                return Some(Fault {
                    line: line_of(name, source),
                    what: format!("{name:?}, which no message has"),
                    unknown: Some(format!("{path}{part}")),
                    known: known.unwrap_or_default(),
                    hint: None,
                });
            }
        }
        // Writing to a text cannot fail.
        let _ = write!(path, "{part}.");
    }
    None
}

/// The line that names a variable first.
fn line_of(name: &str, source: &str) -> Option<usize> {
    let last = name.rsplit('.').next().unwrap_or(name);
    source.lines().position(|line| line.contains(last)).map(|at| at + 1)
}

fn failed(error: &Error, tried: Option<(Topic, bool)>) -> Fault {
    let tried_on = tried.map(|(topic, bare)| {
        let lacks = if bare { " without what a message may lack" } else { "" };
        format!(", tried on {}{lacks}", topic.as_str())
    });
    let lacking = error.kind() == ErrorKind::UndefinedError && tried.is_some_and(|(_, bare)| bare);
    let filter = error.kind() == ErrorKind::UnknownFilter;
    Fault {
        line: error.line(),
        what: format!("{}{}", said(error), tried_on.unwrap_or_default()),
        unknown: filter.then(|| error.detail().and_then(filter_of)).flatten(),
        known: if filter {
            FILTERS.iter().map(|name| (*name).to_owned()).collect()
        } else {
            Vec::new()
        },
        hint: lacking.then(|| "ask first whether it is there, as in {% if to_release %}{{ to_release.id }}{% endif %}".to_owned()),
    }
}

/// The filter's name in minijinja's words, `filter nme is unknown`.
fn filter_of(detail: &str) -> Option<String> {
    let name = detail.strip_prefix("filter ")?.strip_suffix(" is unknown")?;
    Some(name.to_owned())
}

/// Our filters and the ones of minijinja that suit a message.
const FILTERS: [&str; 15] = [
    "time",
    "datetime",
    "since",
    "span",
    "capitalized",
    "join",
    "first",
    "last",
    "length",
    "default",
    "upper",
    "lower",
    "replace",
    "round",
    "trim",
];

/// An error in one line, without its place.
pub(super) fn said(error: &Error) -> String {
    error
        .detail()
        .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}
