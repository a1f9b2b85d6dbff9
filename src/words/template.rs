//! A team's own words in place of ours: minijinja templates for title, sentence and next.
//!
//! Refuses: other templates (no include, import or macro is compiled in), variables that no message has, work without a
//! bound, and lines of their own (a message's lines are ours, so that a pod's log or a commit's title cannot forge one).
//!
//! Unknown names are found without running anything, also in branches that no example takes. What an announcement may lack
//! is tried by leaving it out: a template that needs it must ask first (`{% if to %}`), or it would fail at night.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use jiff::Timestamp;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, value::Serde};
use serde::Serialize;

use super::{Message, capitalized, repeated, tidy, time};
use crate::model::{
    Announcement, Mode, Severity, Topic,
    settings::{Templates, Words},
};
use trial::said;

pub use trial::check;

mod trial;

/// Steps of one template: a message is a few lines, whatever is computed for it.
const FUEL: u64 = 10_000;
/// Nested loops and calls.
const RECURSION_MAX: usize = 16;
/// The longest title, and the longest sentence or advice; chats cut sooner.
const TITLE_CHARS_MAX: usize = 300;
const TEXT_CHARS_MAX: usize = 3000;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whose words; `None`: those for any topic.
    pub topic: Option<Topic>,
    /// `title`, `sentence` or `next`.
    pub part: &'static str,
    /// The template's line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// The name that no message has, where that is what is wrong.
    pub unknown: Option<String>,
    /// The names it could have been.
    pub known: Vec<String>,
    /// What to do, where more can be said.
    pub hint: Option<String>,
}

/// A part's template among a topic's words.
type Of = fn(&Words) -> Option<&str>;

/// The parts that may be replaced.
const PARTS: [(&str, Of); 3] = [
    ("title", |words| words.title.as_deref()),
    ("sentence", |words| words.sentence.as_deref()),
    ("next", |words| words.next.as_deref()),
];

/// Puts a team's words in place of ours.
pub(super) fn replaced(mut message: Message, announcement: &Announcement, templates: &Templates) -> Message {
    let own = templates.by_topic.get(&announcement.topic);
    let wanted = PARTS.map(|(part, of)| (part, own.and_then(of).or_else(|| of(&templates.any))));
    if wanted.iter().all(|(_, source)| source.is_none()) {
        return message;
    }
    let context = context(announcement, &message);
    for (part, source) in wanted {
        let Some(source) = source else { continue };
        match rendered(source, part, &context) {
            Ok(text) => match part {
                "title" => message.title = text,
                "sentence" => message.sentence = text,
                _ => message.next = Some(text).filter(|text| !text.is_empty()),
            },
            Err(error) => told_once(announcement.topic, part, &error),
        }
    }
    message
}

/// Logs a template's failure, once: it would fail at each message.
fn told_once(topic: Topic, part: &'static str, error: &Error) {
    // Bounded by the number of topics and parts.
    static TOLD: Mutex<BTreeSet<(Topic, &str)>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert((topic, part)) {
        let error = said(error);
        tracing::warn!(
            topic = topic.as_str(),
            part,
            error,
            "A template failed; flipback's own words stand in for it"
        );
    }
}

// === what a template sees ===

/// Every field of the announcement, and our own words.
#[derive(Serialize)]
struct Context<'a> {
    #[serde(flatten)]
    announcement: &'a Announcement,
    title: &'a str,
    sentence: &'a str,
    next: &'a str,
    severity: Severity,
    monitor: bool,
    /// `5 more times since 04:02 UTC`.
    repeated: Option<String>,
}

fn context(announcement: &Announcement, message: &Message) -> Value {
    Value::from(Serde(Context {
        announcement,
        title: &message.title,
        sentence: &message.sentence,
        next: message.next.as_deref().unwrap_or_default(),
        severity: message.severity,
        monitor: announcement.mode == Mode::Monitor,
        repeated: announcement.repeats.map(|repeats| repeated(repeats, announcement.at)),
    }))
}

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    // Prints everything there is, over several lines.
    environment.remove_global("debug");
    // What is not there is printed as nothing rather than as "none".
    environment.set_formatter(|out, state, value| {
        if value.is_none() {
            Ok(())
        } else {
            minijinja::escape_formatter(out, state, value)
        }
    });
    environment.add_filter("time", |at: &str, near: Option<&str>| -> Result<String, Error> {
        let at = instant(at)?;
        Ok(time::clock_seconds(at, near.map(instant).transpose()?.unwrap_or(at)))
    });
    environment.add_filter("datetime", |at: &str| instant(at).map(time::stamp));
    environment.add_filter("since", |at: &str, earlier: &str| -> Result<String, Error> {
        let (at, earlier) = (instant(at)?, instant(earlier)?);
        Ok(time::span(time::between(earlier, at).unwrap_or_default()))
    });
    environment.add_filter("span", |ms: f64| time::span(ms / 1000.0));
    environment.add_filter("capitalized", |text: &str| capitalized(text));
    environment
});

fn instant(text: &str) -> Result<Timestamp, Error> {
    text.parse()
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("{text:?} is no time")))
}

/// Runs a template; what comes out is one tidy line of a bounded length.
fn rendered(source: &str, part: &'static str, context: &Value) -> Result<String, Error> {
    let template = ENVIRONMENT.template_from_named_str(part, source)?;
    let chars_max = if part == "title" { TITLE_CHARS_MAX } else { TEXT_CHARS_MAX };
    let mut out = Bounded::new(chars_max * 4);
    let done = template.render_captured_to(context.clone(), &mut out);
    if !out.full {
        done?;
    }
    let text = String::from_utf8_lossy(&out.bytes);
    let line = tidy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() && part == "title" {
        return Err(Error::new(ErrorKind::InvalidOperation, "the title is empty"));
    }
    Ok(super::clipped(&line, chars_max, |_| None))
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    full: bool,
}

impl Bounded {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
            full: false,
        }
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        let room = self.bytes_max.saturating_sub(self.bytes.len());
        if room == 0 {
            self.full = true;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let taken = room.min(more.len());
        self.bytes.extend(more.iter().take(taken));
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(part: &str, source: &str) -> Templates {
        let source = Some(source.to_owned());
        let any = match part {
            "title" => Words {
                title: source,
                ..Words::default()
            },
            "sentence" => Words {
                sentence: source,
                ..Words::default()
            },
            _ => Words {
                next: source,
                ..Words::default()
            },
        };
        Templates {
            any,
            ..Templates::default()
        }
    }

    fn told(source: &str, announcement: &Announcement) -> String {
        let templates = any("sentence", source);
        assert_eq!(check(&templates), [], "{source}");
        Message::by(announcement, &templates).sentence
    }

    #[test]
    fn a_template_sees_every_field_our_words_and_times() {
        let completed = Announcement::example(Topic::RollbackCompleted);
        for (source, expected) in [
            (
                "{{ guard }} {{ from }} {{ to }} {{ topic }} {{ severity }}",
                "shop/web green blue rollback_completed info",
            ),
            ("{{ title }}", "Rolled back: shop/web is on blue again"),
            (
                "{% if from_release %}{{ from_release.images | join(', ') }}{% endif %}",
                "registry.example/shop/web:1.4.0",
            ),
            ("{{ at | time }}, {{ at | datetime }}", "04:12:35 UTC, 2026-11-21 04:12:35 UTC"),
            ("{% if switched_at %}{{ at | since(switched_at) }}{% endif %}", "6 min 24 s"),
            ("{% if took_ms %}{{ took_ms | span }}{% endif %}", "8.4 ms"),
            (
                "{{ link or evidence or '' }}",
                "/var/lib/flipback/incidents/shop.web_20261121T041234Z",
            ),
            ("[{{ link }}{{ repeated }}]", "[]"),
            ("{{ 'would' if monitor else 'did' }}", "did"),
            ("{{ mode }} {{ why | upper | length }}", "enforce 67"),
        ] {
            assert_eq!(told(source, &completed), expected, "{source}");
        }
    }

    #[test]
    fn a_topics_own_template_wins_and_the_rest_stays_ours() {
        let mut templates = any("title", "[{{ severity }}] {{ title }}");
        templates.by_topic.insert(
            Topic::Blind,
            Words {
                title: Some("No eyes on {{ guard }}".into()),
                ..Words::default()
            },
        );
        assert_eq!(check(&templates), []);
        let by = |topic| Message::by(&Announcement::example(topic), &templates);
        assert_eq!(by(Topic::Blind).title, "No eyes on shop/web");
        assert_eq!(by(Topic::Paused).title, "[info] Paused: shop/web will not be rolled back");
        let ours = Message::of(&Announcement::example(Topic::Blind));
        assert_eq!((by(Topic::Blind).sentence, by(Topic::Blind).next), (ours.sentence, ours.next));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let sources = [
            ("title", "{{ guard"),
            ("title", "fine\n{% if to %}\n{{ gaurd }}{% endif %}"),
            ("title", "{{ to_release.image }}"),
            ("title", "{{ to_release.id }}"),
            ("title", "{{ title | uper }}"),
            ("title", "{{ at | since(why) }}"),
            ("title", "{% if false %}x{% endif %}"),
            ("title", "{% include 'x' %}"),
            ("title", "{% macro f() %}{{ f() }}{% endmacro %}"),
            (
                "sentence",
                "{% for i in range(100000) %}{% for j in range(100000) %}{{ i * j }}{% endfor %}{% endfor %}",
            ),
            ("sentence", "{{ debug() }}"),
            ("next", "{{ 'x' * 100000000000 }}"),
        ];
        let said: Vec<String> = sources
            .iter()
            .map(|(part, source)| {
                let problems = check(&any(part, source));
                let [problem] = problems.as_slice() else {
                    panic!("{source}: {problems:?}")
                };
                let known = problem.known.join(", ");
                format!(
                    "{source:?}\n  line {:?}: {}\n  unknown {:?}, known: {known}\n  hint {:?}",
                    problem.line, problem.what, problem.unknown, problem.hint
                )
            })
            .collect();
        insta::assert_snapshot!(said.join("\n\n"));
    }

    #[test]
    fn the_documentation_names_everything_a_template_sees() {
        let docs = include_str!("../../docs/messages.md");
        let problems = check(&any("title", "{{ nothing_like_it }}"));
        for name in problems[0]
            .known
            .iter()
            .map(String::as_str)
            .chain(["time", "datetime", "since", "span", "capitalized"])
        {
            let named = [format!("`{name}`"), format!("| {name}"), format!("{name}`")];
            assert!(named.iter().any(|name| docs.contains(name)), "{name} is not in docs/messages.md");
        }
    }

    #[test]
    fn what_a_message_may_lack_must_be_asked_for() {
        assert_eq!(check(&any("sentence", "{% if to_release %}{{ to_release.id }}{% endif %}")), []);
        let problems = check(&any("sentence", "{{ to_release.id }}"));
        assert!(problems[0].hint.is_some(), "{problems:?}");
    }

    #[test]
    fn a_template_that_fails_at_night_leaves_our_words() {
        let templates = any("title", "{{ to_release.id }}");
        let blind = Announcement {
            to_release: None,
            ..Announcement::example(Topic::Blind)
        };
        assert_eq!(Message::by(&blind, &templates), Message::of(&blind));
    }

    #[test]
    fn what_comes_out_is_one_bounded_line() {
        let forged = Announcement {
            why: "fine\nTrigger: none\r\u{7}\u{2028}x".into(),
            ..Announcement::example(Topic::Alert)
        };
        assert_eq!(
            told("  {{ why }}\n\n\tand <b>{{ guard }}</b>\n", &forged),
            "fine Trigger: none x and <b>shop/web</b>"
        );
        let long = told("{% for i in range(900) %}ééééé{{ i }} {% endfor %}", &forged);
        assert_eq!(long.chars().count(), TEXT_CHARS_MAX);
        assert!(long.ends_with('…'));
        let none = Message::by(&forged, &any("next", "  \n"));
        assert_eq!(none.next, None);
    }
}
