//! What is judged of a run, and by which bounds.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::Value;

use super::{
    fit::{Slope, median, slope},
    gauge::Reading,
    story::{BY_HAND, RELEASED, Story},
    support::process::Folder,
};

/// Looks of an hour at the default poll of 5 s.
pub const LOOKS_PER_HOUR: f64 = 720.0;
/// Resident memory may grow by so much in an hour of looks, MiB: a few hundred in a fortnight.
const GROWTH_MAX: f64 = 1.0;
/// The windows of the judgement are full after so many seconds, and the allocator has what it needs for them.
const FILLED: f64 = 330.0;
/// Descriptors in the calm afterwards, beyond those in the calm before: connections that are kept for the next request.
const DESCRIPTORS_KEPT: f64 = 8.0;
/// Threads in the calm afterwards: one that waits for a disk ends after 10 s without work, and a calm daemon has two pieces of such work
/// a second, so that twenty may take turns for ever.
const THREADS_MAX: f64 = 24.0;
/// Series of one guard: 12 phases, 5 outcomes of 5 rules, 10 results of rollbacks, and what each has once.
const SERIES_MAX: f64 = 80.0;

/// The user that the daemon is to the API server.
const USER: &str = "system:serviceaccount:flipback:flipback";

/// One line of the result.
#[derive(Clone, Debug)]
pub struct Line {
    /// What.
    pub name: String,
    /// How much, for people.
    pub value: String,
    /// What it has to be.
    pub bound: String,
    /// Whether it is; `None`: nothing was promised.
    pub met: Option<bool>,
}

impl Line {
    fn told(name: &str, value: String) -> Self {
        Self {
            name: name.to_owned(),
            value,
            bound: String::new(),
            met: None,
        }
    }

    fn judged(name: &str, value: String, bound: String, met: bool) -> Self {
        Self {
            name: name.to_owned(),
            value,
            bound,
            met: Some(met),
        }
    }
}

/// The parts of a run: seconds since its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// When the calm before ended.
    pub begins: f64,
    /// When the last fault was over.
    pub ends: f64,
}

/// Flips that moved a Service, by its name: of the daemon, as the API server's audit log has them.
#[must_use]
pub fn flips(folder: &Folder) -> BTreeMap<String, u64> {
    let mut flips = BTreeMap::new();
    let files = std::fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let logs = files.map(|file| file.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("audit") && path.extension().is_some_and(|end| end == "jsonl")
    });
    logs.for_each(|log| read(&log, &mut flips));
    flips
}

fn read(log: &Path, flips: &mut BTreeMap<String, u64>) {
    let Ok(file) = File::open(log) else { return };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        // Most lines are somebody else's, and need not be understood.
        if !line.contains(USER) || !line.contains(r#""verb":"patch""#) {
            continue;
        }
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let name = event.pointer("/objectRef/name").and_then(Value::as_str).unwrap_or_default();
        let stored = event.pointer("/responseStatus/code").and_then(Value::as_u64) == Some(200);
        let dry = event["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun="));
        let operations = event["requestObject"].as_array();
        let moves = operations.into_iter().flatten().any(|operation| {
            let path = operation["path"].as_str().unwrap_or_default();
            operation["op"] != "test" && path.starts_with("/spec/selector")
        });
        if let Some(shop) = name
            .strip_suffix("-active")
            .filter(|_| stored && moves && !dry && event["user"]["username"] == USER)
        {
            *flips.entry(shop.to_owned()).or_default() += 1;
        }
    }
}

fn between(readings: &[Reading], from: f64, to: f64) -> Vec<&Reading> {
    readings.iter().filter(|one| (from..to).contains(&one.at)).collect()
}

/// A slope as growth in an hour of looks at the default poll.
fn growth(name: &str, unit: &str, points: &[(f64, f64)], looks_per_second: f64, bound: Option<f64>) -> Line {
    let per_hour = LOOKS_PER_HOUR / looks_per_second.max(0.01);
    let Some(Slope { value, least, most }) = slope(points) else {
        return Line::judged(name, "too short a run".to_owned(), String::new(), false);
    };
    let text = format!(
        "{:+.2} {unit} ({:+.2} to {:+.2})",
        value * per_hour,
        least * per_hour,
        most * per_hour
    );
    match bound {
        None => Line::told(name, text),
        Some(bound) => Line::judged(
            name,
            text,
            format!("<= {bound} {unit}, with 95 % confidence"),
            most * per_hour <= bound,
        ),
    }
}

/// Judges a run.
#[must_use]
pub fn judge(story: &Story, parts: Parts, flips: &BTreeMap<String, u64>, ended_well: bool) -> Vec<Line> {
    let readings = &story.readings;
    let (before, during) = (between(readings, 0.0, parts.begins), between(readings, parts.begins, parts.ends));
    // Not before what is kept of the last five minutes is full: a second of it costs as much memory as the one that it pushes out.
    let half = f64::midpoint(parts.begins, parts.ends).max(parts.begins + FILLED);
    let second = between(readings, half, parts.ends);
    // The last half minute: what is kept for the next request is let go after a minute and a half.
    let last = readings.last().map_or(0.0, |one| one.at);
    let after = between(readings, last - 30.0, f64::INFINITY);
    let of = |part: &[&Reading], pick: fn(&Reading) -> f64| median(part.iter().map(|one| pick(one)));
    let rate = match (during.first(), during.last()) {
        (Some(first), Some(last)) => (last.looks - first.looks) / (last.at - first.at).max(1.0),
        _ => 0.0,
    };
    let points = |pick: fn(&Reading) -> f64| -> Vec<(f64, f64)> { second.iter().map(|one| (one.at, pick(one))).collect() };
    let mut lines = told(story, &during, rate);
    lines.push(Line::told(
        "resident memory, begin / end of the faults / calm afterwards",
        format!(
            "{:.1} / {:.1} / {:.1} MiB; most {:.1}",
            of(&before, |one| one.rss),
            of(&second[second.len().saturating_sub(15)..], |one| one.rss),
            of(&after, |one| one.rss),
            readings.iter().map(|one| one.rss).fold(0.0, f64::max)
        ),
    ));
    lines.push(growth(
        "resident memory, growth in 720 looks",
        "MiB",
        &points(|one| one.rss),
        rate,
        Some(GROWTH_MAX),
    ));
    lines.push(growth(
        "descriptors, growth in 720 looks",
        "descriptors",
        &points(Reading::descriptors),
        rate,
        None,
    ));
    for (name, pick, kept) in [
        (
            "descriptors, calm before / calm afterwards",
            Reading::descriptors as fn(&Reading) -> f64,
            DESCRIPTORS_KEPT,
        ),
        ("sockets among them", |one: &Reading| one.sockets, DESCRIPTORS_KEPT),
        ("files among them", |one: &Reading| one.files, 2.0),
    ] {
        let (first, then) = (of(&before, pick), of(&after, pick));
        let bound = format!("at most {kept} more");
        lines.push(Line::judged(name, format!("{first:.0} / {then:.0}"), bound, then <= first + kept));
    }
    let threads = of(&after, |one| one.threads);
    lines.push(Line::judged(
        "threads, calm before / most / calm afterwards",
        format!(
            "{:.0} / {:.0} / {threads:.0}",
            of(&before, |one| one.threads),
            readings.iter().map(|one| one.threads).fold(0.0, f64::max)
        ),
        format!("at most {THREADS_MAX} afterwards"),
        threads <= THREADS_MAX,
    ));
    lines.extend(kept(story, &before, &second, &after));
    lines.extend(right(story, flips));
    let how = if ended_well { "well" } else { "badly" };
    lines.push(Line::judged("its end, on SIGTERM", how.to_owned(), "well".to_owned(), ended_well));
    lines
}

/// What was done, and at what cost.
fn told(story: &Story, during: &[&Reading], rate: f64) -> Vec<Line> {
    let tally = &story.tally;
    let (looks, cpu, seconds) = match (during.first(), during.last()) {
        (Some(first), Some(last)) => (last.looks - first.looks, last.cpu - first.cpu, last.at - first.at),
        _ => (0.0, 0.0, 1.0),
    };
    let (_, gap) = story.prometheus.looks();
    let hands: u64 = tally.moved.values().sum();
    vec![
        Line::told(
            "time of faults",
            format!(
                "{:.1} min: {looks:.0} looks, as many as in {:.1} h at the default poll",
                seconds / 60.0,
                looks / LOOKS_PER_HOUR
            ),
        ),
        Line::told(
            "guards, and names they have had",
            format!("{}, {}", story.shops.len(), tally.names.len()),
        ),
        Line::told(
            "releases, bad ones among them, moves by hand, pauses",
            format!("{}, {}, {hands}, {}", tally.releases, tally.bad, tally.pauses),
        ),
        Line::told("configurations taken, refused", format!("{}, {}", tally.reloads, tally.refusals)),
        Line::told(
            "troubles: Prometheus, road to the API server, API server killed, chats; tokens renewed",
            format!(
                "{}, {}, {}, {}; {}",
                tally.prometheus_faults, tally.cuts, tally.restarts, tally.chat_faults, tally.rotations
            ),
        ),
        Line::told(
            "processor time",
            format!(
                "{:.1} % of one core; {:.3} ms per guard and look",
                cpu / seconds * 100.0,
                cpu * 1000.0 / (looks * story.shops.len() as f64).max(1.0)
            ),
        ),
        Line::told(
            "looks per second; longest time between two while Prometheus was well",
            format!("{rate:.2}; {:.2} s", gap.as_secs_f64()),
        ),
        Line::told(
            "first bad request to a moved Service, as statuses show it: median, longest",
            format!(
                "{:.0} s, {:.0} s",
                median(tally.took.iter().copied()),
                tally.took.iter().copied().fold(0.0, f64::max)
            ),
        ),
    ]
}

/// What is left on disk and in `/metrics`.
fn kept(story: &Story, before: &[&Reading], second: &[&Reading], after: &[&Reading]) -> Vec<Line> {
    let of = |part: &[&Reading], pick: fn(&Reading) -> f64| median(part.iter().map(|one| pick(one)));
    let per_guard = of(after, |one| one.series) / story.shops.len() as f64;
    let strays = story.tally.strays;
    vec![
        Line::judged(
            "series: calm before / afterwards; those of guards that are gone",
            format!("{:.0} / {:.0}; {strays}", of(before, |one| one.series), of(after, |one| one.series)),
            format!("at most {SERIES_MAX} per guard; none"),
            per_guard <= SERIES_MAX && strays == 0,
        ),
        Line::told("on disk, second half: incidents, outbox, journal at most", {
            let most = |pick: fn(&Reading) -> f64| second.iter().map(|one| pick(one)).fold(0.0, f64::max);
            format!(
                "{:.1}, {:.2}, {:.2} MiB",
                most(|one| one.incidents),
                most(|one| one.outbox),
                most(|one| one.audit)
            )
        }),
        Line::told(
            "messages that waited: at most, and in the calm afterwards",
            format!(
                "{:.0}, {:.0}",
                story.readings.iter().map(|one| one.pending).fold(0.0, f64::max),
                of(after, |one| one.pending)
            ),
        ),
    ]
}

/// Whether it did what it had to, and nothing else.
fn right(story: &Story, flips: &BTreeMap<String, u64>) -> Vec<Line> {
    let tally = &story.tally;
    let judgements: u64 = story.models.iter().map(|model| model.judgements).sum();
    let compared: u64 = story.models.iter().map(|model| model.compared).sum();
    let mut lines = vec![Line::judged(
        "streaks compared, judgements told from which seconds they were made, wrong ones",
        format!(
            "{compared}, {judgements}, {}; {} statuses, begun anew {} times",
            story.wrong.len(),
            tally.statuses,
            tally.resyncs
        ),
        "0 wrong".to_owned(),
        story.wrong.is_empty() && judgements > 0 && compared > 0,
    )];
    let of = |by: &BTreeMap<String, u64>, shop: usize| by.get(&story.shops[shop].name).copied().unwrap_or_default();
    // An API server that is killed between writing and telling leaves no line in its log; the object itself tells.
    let made = |shop: usize| of(flips, shop).max(of(&story.ledgers, shop));
    let unlogged: u64 = (0..story.shops.len()).map(|shop| made(shop) - of(flips, shop)).sum();
    let wrong: Vec<String> = (0..story.shops.len())
        .filter(|&shop| {
            let (least, most) = if shop < RELEASED {
                let flipped = tally.flipped.get(&shop).copied().unwrap_or_default();
                (flipped, flipped)
            } else if shop < BY_HAND {
                let of = |by: &BTreeMap<usize, u64>| by.get(&shop).copied().unwrap_or_default();
                (of(&tally.moved), of(&tally.asked))
            } else {
                (0, 0)
            };
            !(least..=most).contains(&made(shop))
        })
        .map(|shop| format!("{} ({})", story.shops[shop].name, made(shop)))
        .collect();
    let flipped: u64 = tally.flipped.values().sum();
    lines.push(Line::judged(
        "bad releases flipped exactly once, good ones never, by audit log and ledgers: wrong shops",
        format!(
            "{flipped} of {}, {unlogged} written by an API server that was killed before its log; {} {}",
            tally.bad,
            wrong.len(),
            wrong.join(", ")
        ),
        "all; none".to_owned(),
        flipped == tally.bad && wrong.is_empty() && flipped > 0,
    ));
    lines
}
