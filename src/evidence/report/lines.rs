//! Which log lines matter: recognized, folded to their pattern, grouped and counted. Pure; a line comes in as bytes.
//!
//! Bounded in everything: signs per line, groups, files named per group. Lines that tell of nothing wrong cost one pass of
//! a pattern over their bytes and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use jiff::{SignedDuration, Timestamp};
use regex::bytes::Regex;
use serde::Serialize;

use super::words;

/// Bytes of a line that are looked at; what follows says nothing new.
pub(super) const LINE_BYTES_MAX: usize = 4096;
/// Groups kept; further kinds of lines are counted.
const GROUPS_MAX: usize = 2000;
/// Groups shown.
const SHOWN_MAX: usize = 40;
/// Signs of a pattern.
const PATTERN_CHARS_MAX: usize = 240;
/// Signs of a shown line.
const SAMPLE_CHARS_MAX: usize = 1000;
/// Lines of a stack trace that are shown.
const TRACE_LINES_MAX: usize = 8;
/// Files named per group.
const FILES_MAX: usize = 3;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is constant, and a test uses it")
}

/// What may be wrong: everything else is passed over at once.
static SUSPECT: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?i-u)warn|err|fatal|crit|panic|sever|emerg|alert|exception|traceback|fail|refused|timed? ?out|denied|killed|oom|out of memory|segfault|sigsegv|deadlock|unavailable|abort|[ =":]5\d\d\b|"level" ?: ?[45]0"#,
    )
});
/// A level as loggers write it, near the beginning of a line.
static LEVEL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?i-u)(?:\b(?:level|lvl|severity|loglevel|log\.level)["']?\s*[=:]\s*["']?)([a-z]+|[1-6]0\b)|(?:^|[\s\[|(<])(trace|debug|info|information|notice|warn|warning|error|err|fatal|critical|crit|panic|severe|emerg|emergency|alert|dbug|fail)(?:[\s\]|)>:,]|$)|^([IWEF])\d{4} "#,
    )
});
/// What is wrong whatever the level says.
static DIRE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i-u)\bpanic(ked)?( at)?\b|\bfatal error\b|traceback \(most recent|out of memory|oomkilled|segmentation fault|segfault|sigsegv|sigabrt|core dumped|deadlock|\bunhandled (exception|rejection|error)",
    )
});
/// An exception by its name, or words of failure, in a line without a level.
static WRONG: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i-u)\b[a-z0-9_$.]*(exception|error)\b|\bfail(ed|ure)\b|\brefused\b|\btimed? ?out\b|\bpermission denied\b|\bkilled\b|\bunavailable\b|\baborted\b",
    )
});
/// The answer of a server that failed: `status=503`, `" 502 `.
static ANSWERED: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?i-u)(?:\bstatus(?:_?code)?["']?\s*[=:]\s*["']?|" )(5\d\d)\b"#));
/// A line that belongs to the one before it.
static CONTINUES: LazyLock<Regex> = LazyLock::new(|| {
    regex(r#"(?-u)^(?:\s+\S|at |Caused by|\.\.\. \d+ more|goroutine \d|stack backtrace|note: run with|\d+: 0x|File "|Suppressed:)"#)
});

/// How bad a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Weight {
    /// A panic, a lack of memory, the head of a stack trace.
    Fatal,
    /// An error.
    Error,
    /// A warning.
    Warning,
}

/// Lines that say the same.
#[derive(Debug)]
struct Group {
    weight: Weight,
    counts: BTreeMap<String, u64>,
    near: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    sample: String,
    trace: Vec<String>,
    files: Vec<String>,
}

/// A group as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct GroupRow {
    /// `fatal`, `error`, `warning`.
    pub(super) weight: Weight,
    /// A line as it was written.
    pub(super) sample: String,
    /// The lines after it that belong to it.
    pub(super) trace: Vec<String>,
    /// How often, by color.
    pub(super) counts: BTreeMap<String, u64>,
    /// How often in all.
    pub(super) count: u64,
    /// The one color that says it, if it is one.
    pub(super) only: Option<String>,
    /// How often between the first bad request and the flip.
    pub(super) near: u64,
    /// When first.
    pub(super) first: String,
    /// When last.
    pub(super) last: String,
    /// Files that hold it.
    pub(super) files: Vec<String>,
}

/// What is being found.
#[derive(Debug)]
pub(super) struct Finds {
    near: (Timestamp, Timestamp),
    groups: HashMap<(Weight, String), Group>,
    /// Lines looked at.
    pub(super) lines: u64,
    /// Lines that matter and belong to no group, since there were too many kinds.
    pub(super) beyond: u64,
    /// The earliest error of each color since the switch.
    since: Option<Timestamp>,
    first_error: BTreeMap<String, Timestamp>,
}

/// Where lines come from: one file, read from its beginning.
#[derive(Debug)]
pub(super) struct Source {
    color: String,
    file: String,
    /// The time of the newest line that had one.
    at: Option<Timestamp>,
    /// The group of the last line, while lines belong to it, and whether they are the first to be shown.
    open: Option<((Weight, String), bool)>,
}

impl Source {
    /// A file of a color.
    pub(super) fn new(color: &str, file: &str) -> Self {
        Self {
            color: color.to_owned(),
            file: file.to_owned(),
            at: None,
            open: None,
        }
    }
}

impl Finds {
    /// Nothing yet; lines between the two instants are near, and errors since the switch may be the first.
    pub(super) fn new(near: (Timestamp, Timestamp), since: Option<Timestamp>) -> Self {
        Self {
            near,
            groups: HashMap::new(),
            lines: 0,
            beyond: 0,
            since,
            first_error: BTreeMap::new(),
        }
    }

    /// Takes a line without its end.
    pub(super) fn line(&mut self, source: &mut Source, line: &[u8]) {
        self.lines += 1;
        let bytes = line.get(..LINE_BYTES_MAX).unwrap_or(line);
        let (at, rest) = stamped(bytes);
        if at.is_some() {
            source.at = at;
        }
        if source.open.is_some() && CONTINUES.is_match(rest) {
            self.belongs(source, rest);
            return;
        }
        source.open = None;
        if !SUSPECT.is_match(rest) {
            return;
        }
        let text = String::from_utf8_lossy(rest);
        let bare = words::line(&text, SAMPLE_CHARS_MAX);
        let Some(weight) = weigh(&bare) else { return };
        let key = (weight, folded(&bare));
        self.put(source, key, &bare);
    }

    fn put(&mut self, source: &mut Source, key: (Weight, String), bare: &str) {
        let at = source.at;
        if let Some(at) = at
            && key.0 != Weight::Warning
            && self.since.is_none_or(|since| at >= since)
        {
            let first = self.first_error.entry(source.color.clone()).or_insert(at);
            *first = at.min(*first);
        }
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            self.beyond += 1;
            return;
        }
        let is_new = !self.groups.contains_key(&key);
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group {
            weight: key.0,
            counts: BTreeMap::new(),
            near: 0,
            first: at,
            last: at,
            sample: bare.to_owned(),
            trace: Vec::new(),
            files: Vec::new(),
        });
        *group.counts.entry(source.color.clone()).or_default() += 1;
        if let Some(at) = at {
            group.near += u64::from(at >= self.near.0 && at <= self.near.1);
            group.first = Some(group.first.map_or(at, |first| first.min(at)));
            group.last = group.last.max(Some(at));
        }
        if group.files.len() < FILES_MAX && !group.files.contains(&source.file) {
            group.files.push(source.file.clone());
        }
        source.open = Some((key, is_new));
    }

    /// A line of a stack trace: shown beneath the first of its kind, and no finding of its own.
    fn belongs(&mut self, source: &Source, line: &[u8]) {
        if let Some((key, true)) = &source.open
            && let Some(group) = self.groups.get_mut(key)
            && group.trace.len() < TRACE_LINES_MAX
        {
            let text = words::shown(&String::from_utf8_lossy(line), 300);
            group.trace.push(text.replace('\t', "    ").replace('\n', " "));
        }
    }

    /// The earliest error of a color since the switch.
    pub(super) fn first_error(&self, color: &str) -> Option<Timestamp> {
        self.first_error.get(color).copied()
    }

    /// Kinds of lines found.
    pub(super) fn kinds(&self) -> usize {
        self.groups.len()
    }

    /// The groups, the most telling first: what only `bad` says, then what it says most of, near the breach before else.
    pub(super) fn rows(&self, bad: &str, day: Timestamp) -> Vec<GroupRow> {
        let count_of = |group: &Group| group.counts.get(bad).copied().unwrap_or(0);
        let total = |group: &Group| group.counts.values().sum::<u64>();
        let rank = |group: &Group| {
            let (own, all) = (count_of(group), total(group));
            let only = own == all;
            let mostly = own * 2 > all;
            // Near the breach, then by weight, then by how often.
            (!only, !mostly, group.near == 0, group.weight, std::cmp::Reverse(all))
        };
        let mut groups: Vec<(&(Weight, String), &Group)> = self.groups.iter().collect();
        groups.sort_by(|(a_key, a), (b_key, b)| rank(a).cmp(&rank(b)).then_with(|| a_key.1.cmp(&b_key.1)));
        let clock = |at: Option<Timestamp>| at.map(|at| words::clock(at, day)).unwrap_or_default();
        let row = |group: &Group| {
            let colors: BTreeSet<&String> = group.counts.keys().collect();
            GroupRow {
                weight: group.weight,
                sample: group.sample.clone(),
                trace: group.trace.clone(),
                counts: group.counts.clone(),
                count: total(group),
                only: colors.iter().next().filter(|_| colors.len() == 1).map(ToString::to_string),
                near: group.near,
                first: clock(group.first),
                last: clock(group.last),
                files: group.files.clone(),
            }
        };
        groups.into_iter().take(SHOWN_MAX).map(|(_, group)| row(group)).collect()
    }
}

/// The span around an episode that counts as near.
pub(super) fn around(first_bad: Timestamp, moved: Timestamp) -> (Timestamp, Timestamp) {
    let slack = SignedDuration::from_secs(15);
    (
        first_bad.checked_sub(slack).unwrap_or(first_bad),
        moved.checked_add(slack).unwrap_or(moved),
    )
}

/// The timestamp that the kubelet put before a line, and the line.
fn stamped(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let Some(end) = line.iter().take(40).position(|byte| *byte == b' ') else {
        return (None, line);
    };
    let (head, rest) = line.split_at(end);
    // Cheaper than to try: a date has its dashes there.
    if head.len() < 20 || head.get(4) != Some(&b'-') || head.get(10) != Some(&b'T') {
        return (None, line);
    }
    match std::str::from_utf8(head).ok().and_then(|head| head.parse().ok()) {
        Some(at) => (Some(at), rest.get(1..).unwrap_or_default()),
        None => (None, line),
    }
}

/// How bad a line is; `None`: not at all.
fn weigh(line: &str) -> Option<Weight> {
    let bytes = line.as_bytes();
    if DIRE.is_match(bytes) {
        return Some(Weight::Fatal);
    }
    let answered = ANSWERED.is_match(bytes).then_some(Weight::Error);
    // A level stands near the beginning; further on it is a word like others.
    let head = bytes.get(..200).unwrap_or(bytes);
    let level = LEVEL.captures(head).and_then(|found| (1..=3).find_map(|n| found.get(n)));
    let Some(level) = level else {
        return answered.or_else(|| WRONG.is_match(bytes).then_some(Weight::Error));
    };
    match level.as_bytes().to_ascii_lowercase().as_slice() {
        b"fatal" | b"critical" | b"crit" | b"panic" | b"emerg" | b"emergency" | b"alert" | b"f" | b"60" => Some(Weight::Fatal),
        b"error" | b"err" | b"severe" | b"fail" | b"e" | b"50" | b"dpanic" => Some(Weight::Error),
        b"warn" | b"warning" | b"w" | b"40" => answered.or(Some(Weight::Warning)),
        _ => answered,
    }
}

/// Answers that are worth telling apart, though they are numbers.
const STATUS: [&str; 14] = [
    "400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "501", "502", "503", "504",
];

/// Whether what stands before a number says that it is an answer's.
fn answers(before: &str) -> bool {
    let tail: String = before.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
    let tail = tail.to_ascii_lowercase();
    tail.contains("status") || tail.contains("code") || tail.ends_with("\" ")
}

/// A line's pattern: numbers, ids, addresses and times become `#`, so that lines that say the same are the same.
pub(super) fn folded(line: &str) -> String {
    let mut out = String::with_capacity(line.len().min(PATTERN_CHARS_MAX));
    let mut length = 0;
    for word in line.split_inclusive(|c: char| !c.is_alphanumeric()) {
        let ends = word.chars().next_back().filter(|c| !c.is_alphanumeric());
        let core = ends.map_or(word, |_| word.strip_suffix(|c: char| !c.is_alphanumeric()).unwrap_or(word));
        let is_id = core.bytes().any(|byte| byte.is_ascii_digit()) && !(STATUS.contains(&core) && answers(&out));
        let is_hex = core.bytes().all(|byte| byte.is_ascii_hexdigit()) && (core.len() >= 8 || (core.len() == 4 && out.ends_with("#-")));
        if is_id || is_hex {
            // A date, an address and an id of several parts are one thing.
            let before = out.trim_end_matches(['-', ':', '.', '/', '_']).len();
            if out.get(..before).is_some_and(|before| before.ends_with('#')) {
                out.truncate(before);
            } else {
                out.push('#');
            }
        } else {
            out.push_str(core);
        }
        out.extend(ends);
        length += word.len();
        if length >= PATTERN_CHARS_MAX {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::fixture::at;

    fn finds(lines: &[(&str, &str)]) -> Finds {
        let near = (at("2026-11-21T04:12:00Z"), at("2026-11-21T04:12:40Z"));
        let mut finds = Finds::new(near, None);
        let mut sources: BTreeMap<String, Source> = BTreeMap::new();
        for (color, line) in lines {
            let file = format!("logs/{color}/pod/app.log");
            let source = sources.entry((*color).to_owned()).or_insert_with(|| Source::new(color, &file));
            finds.line(source, line.as_bytes());
        }
        finds
    }

    #[test]
    fn levels_of_the_usual_loggers_are_understood() {
        let weights = [
            r#"level=error method=GET path=/work status=500 msg="query failed""#,
            r#"{"level":"error","ts":1732.5,"msg":"dial tcp: connection refused"}"#,
            r#"{"level":50,"msg":"boom"}"#,
            r#"{"level":"info","errors":0,"msg":"no error"}"#,
            "INFO no errors found, failed=0",
            "2026-11-21 04:12:33,123 [http-1] ERROR c.e.Shop - NullPointerException",
            "[Warning] slow query",
            "E1121 04:12:33.123456       1 controller.go:114] sync failed",
            "I1121 04:12:33.123456       1 controller.go:114] error rate fine",
            "thread 'main' panicked at src/main.rs:4:5:",
            "panic: runtime error: invalid memory address",
            "java.lang.IllegalStateException: pool exhausted",
            "Traceback (most recent call last):",
            r#"10.0.0.1 - - [21/Nov/2026:04:12:33 +0000] "GET /cart HTTP/1.1" 502 157"#,
            "listening on :8080",
            "took 512 ms",
            "INFO status=503 path=/cart",
        ]
        .map(|line| weigh(line).map(|weight| format!("{weight:?}")).unwrap_or_default());
        insta::assert_snapshot!(weights.join("\n"));
    }

    #[test]
    fn numbers_ids_addresses_and_times_are_folded_and_answers_are_not() {
        let folded = [
            "order 8123 of user 77 failed",
            "id 6f9b1c2d-33aa-4bcd-9eef-0123456789ab gone",
            "dial tcp 10.244.0.12:5432: connect refused",
            "at 2026-11-21T04:12:33.123Z status=503 took=17ms",
            "commit deadbeefcafe is bad food",
            "GET /v1/items/99/x HTTP/1.1\" 404 17",
            "cache miss key=user:408",
        ]
        .map(folded);
        insta::assert_snapshot!(folded.join("\n"));
    }

    #[test]
    fn what_only_the_bad_color_says_comes_first_counted_with_its_times() {
        let finds = finds(&[
            ("blue", "2026-11-21T04:00:00Z level=warn msg=\"cache miss 1\""),
            ("green", "2026-11-21T04:00:01Z level=warn msg=\"cache miss 2\""),
            (
                "green",
                "2026-11-21T04:12:10Z level=error msg=\"order 17 failed: column total_cents does not exist\"",
            ),
            (
                "green",
                "2026-11-21T04:12:20Z level=error msg=\"order 18 failed: column total_cents does not exist\"",
            ),
            ("green", "2026-11-21T03:00:00Z level=error msg=\"long ago\""),
            ("blue", "2026-11-21T04:12:20Z level=info msg=\"fine\""),
        ]);
        let rows = finds.rows("green", at("2026-11-21T04:12:34Z"));
        insta::assert_json_snapshot!(rows);
        assert_eq!(
            finds.first_error("green").map(|at| at.to_string()).as_deref(),
            Some("2026-11-21T03:00:00Z")
        );
        assert_eq!(finds.lines, 6);
    }

    #[test]
    fn a_stack_trace_stands_beneath_its_head_and_is_counted_once() {
        let finds = finds(&[
            ("green", "2026-11-21T04:12:10Z java.lang.IllegalStateException: pool exhausted"),
            ("green", "2026-11-21T04:12:10Z \tat com.example.Pool.take(Pool.java:17)"),
            ("green", "2026-11-21T04:12:10Z Caused by: java.io.IOException: refused"),
            ("green", "2026-11-21T04:12:11Z java.lang.IllegalStateException: pool exhausted"),
            ("green", "2026-11-21T04:12:11Z \tat com.example.Pool.take(Pool.java:17)"),
        ]);
        let rows = finds.rows("green", at("2026-11-21T04:12:34Z"));
        assert_eq!((rows.len(), rows[0].count), (1, 2));
        assert_eq!(
            rows[0].trace,
            [
                "    at com.example.Pool.take(Pool.java:17)",
                "Caused by: java.io.IOException: refused"
            ]
        );
    }

    #[test]
    fn hostile_lines_are_bounded_and_shown_harmless() {
        let huge = format!(
            "2026-11-21T04:12:10Z ERROR <script>alert(1)</script> \u{1b}[31m{}",
            "x".repeat(1_000_000)
        );
        let mut finds = finds(&[("green", &huge)]);
        let mut source = Source::new("green", "f");
        finds.line(&mut source, b"ERROR \xff\xfe\x00 broken");
        for n in 0..GROUPS_MAX * 2 {
            let word: String = n.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            finds.line(&mut source, format!("ERROR kind {word}").as_bytes());
        }
        let rows = finds.rows("green", at("2026-11-21T04:12:34Z"));
        assert_eq!((rows.len(), finds.kinds()), (SHOWN_MAX, GROUPS_MAX));
        assert!(finds.beyond > 0);
        assert!(
            rows.iter()
                .all(|row| row.sample.chars().count() <= SAMPLE_CHARS_MAX && !row.sample.contains('\u{1b}'))
        );
    }
}
