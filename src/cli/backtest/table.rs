//! The answer for people, in 80 columns.

use crate::{
    backtest::{
        GuardReport, Origin, Rate, Report,
        report::{Event, What},
        words::{minute, second, span},
    },
    cli::paint::{self, Cell, columns, styled},
};

/// Columns of a line.
const WIDE: usize = 80;

/// Near misses told per guard; the report has all.
const NEAR_MAX: usize = 5;

/// Blind spans told per guard.
const BLIND_MAX: usize = 3;

/// The whole answer.
pub(super) fn table(report: &Report) -> String {
    let mut out = head(report);
    out.push_str(&list(report));
    for guard in report.guards.iter().filter(|guard| has_story(guard)) {
        out.push('\n');
        out.push_str(&story(guard));
    }
    for failed in &report.failed {
        out.push('\n');
        out.push_str(&line(&failed.guard.to_string(), paint::BAD, &format!("not judged: {}", failed.why)));
    }
    out.push('\n');
    out.push_str(&wrapped(&summary(report), 0));
    out
}

fn head(report: &Report) -> String {
    let guards = report.guards.len();
    let plural = if guards == 1 { "guard" } else { "guards" };
    let mut out = format!(
        "{}  {} to {} UTC, {guards} {plural}\n\n",
        styled("flipback backtest", paint::BOLD),
        minute(report.from),
        minute(report.until)
    );
    if !report.complete {
        out.push_str(&wrapped(
            "Not all of it was judged: it was interrupted, or a guard could not be read.",
            0,
        ));
        out.push('\n');
    }
    out
}

fn list(report: &Report) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![
        title("GUARD"),
        title("ROLLBACKS"),
        title("HELD"),
        title("NEAR"),
        title("BLIND"),
        title("DETECTS IN"),
        title("FALSE ALARMS/YEAR"),
    ]];
    rows.extend(report.guards.iter().map(row));
    columns(&rows, 0)
}

fn row(guard: &GuardReport) -> Vec<Cell> {
    let count = |what: What| guard.events.iter().filter(|event| event.what == what).count();
    let (flips, held) = (count(What::Rollback), count(What::Suppressed) + count(What::Blocked));
    let near: u64 = guard.near_total.values().sum();
    let or_calm = |count: usize, style| Cell::new(count.to_string(), if count > 0 { style } else { paint::DIM });
    let detect = guard.rules.iter().filter_map(|rule| rule.detect_seconds).reduce(f64::max);
    vec![
        Cell::new(guard.guard.as_str(), paint::BOLD),
        or_calm(flips, paint::BAD),
        or_calm(held, paint::WARN),
        or_calm(usize::try_from(near).unwrap_or(usize::MAX), paint::WARN),
        Cell::new(
            span(guard.blind_seconds),
            if guard.blind_seconds > 0.0 { paint::WARN } else { paint::DIM },
        ),
        Cell::plain(detect.map_or_else(|| "?".to_owned(), span)),
        Cell::plain(yearly(&guard.false_alarms)),
    ]
}

fn yearly(rate: &Rate) -> String {
    match rate.high {
        Some(high) => format!("{:.0} ({:.0} to {high:.0})", rate.per_year, rate.low),
        None => "unknown".to_owned(),
    }
}

fn has_story(guard: &GuardReport) -> bool {
    let quiet = guard.events.is_empty() && guard.near_misses.is_empty() && guard.blind.is_empty();
    !quiet || !guard.suggestions.is_empty() || !guard.left_out.is_empty() || !guard.missed.is_empty()
}

fn story(guard: &GuardReport) -> String {
    let mut out = format!(
        "{}  {}\n",
        styled(guard.guard.as_str(), paint::BOLD),
        styled(&course(guard), paint::DIM)
    );
    for event in &guard.events {
        out.push_str(&told(event));
    }
    for missed in &guard.missed {
        let text = format!(
            "the release known to be bad from {} on would not have been flipped",
            minute(missed.at)
        );
        out.push_str(&line("missed", paint::BAD, &text));
    }
    for near in guard.near_misses.iter().take(NEAR_MAX) {
        let text = format!("{} {} on {}: {}", minute(near.at), near.rule, near.color, near.why);
        out.push_str(&line("nearly", paint::WARN, &text));
    }
    let more = guard.near_misses.len().saturating_sub(NEAR_MAX);
    if more > 0 {
        out.push_str(&line(
            "",
            paint::DIM,
            &format!("and {more} more, which --html and --output json show"),
        ));
    }
    for blind in guard.blind.iter().take(BLIND_MAX) {
        let text = format!("{} to {}: {}", minute(blind.from), minute(blind.to), blind.why);
        out.push_str(&line("blind", paint::WARN, &text));
    }
    let more = guard.blind.len().saturating_sub(BLIND_MAX);
    if more > 0 {
        out.push_str(&line(
            "",
            paint::DIM,
            &format!("and {more} more blind spans, {} in all", span(guard.blind_seconds)),
        ));
    }
    for left_out in &guard.left_out {
        out.push_str(&line("not judged", paint::DIM, &format!("{}: {}", left_out.rule, left_out.why)));
    }
    for suggestion in &guard.suggestions {
        out.push_str(&line(
            "suggestion",
            paint::GOOD,
            &format!("{}: {}", suggestion.rule, suggestion.what),
        ));
    }
    out
}

/// How the switches are known, in few words.
fn course(guard: &GuardReport) -> String {
    let count = guard.course.switches.len();
    let plural = if count == 1 { "switch" } else { "switches" };
    match guard.course.origin {
        Origin::File => format!("{count} {plural} from the file"),
        Origin::Flipback => format!("{count} {plural}, as flipback saw them"),
        Origin::Traffic => format!("{count} {plural}, found where traffic moved"),
        Origin::None => format!("no switch found: all of it is one watch of {}", guard.course.first),
    }
}

fn told(event: &Event) -> String {
    let (word, style) = match (event.what, event.expected) {
        (What::Rollback, true) => ("rollback", paint::GOOD),
        (What::Rollback, false) => ("rollback", paint::BAD),
        (What::Suppressed, _) => ("suppressed", paint::WARN),
        (What::Blocked, _) => ("blocked", paint::WARN),
        (What::Alert, _) => ("alert", paint::WARN),
    };
    let after = event
        .after_seconds
        .map(|seconds| format!(", {} after the bad release began", span(seconds)))
        .unwrap_or_default();
    let way = match event.what {
        What::Alert => format!("on {}", event.from),
        _ => format!("{} -> {}", event.from, event.to),
    };
    line(word, style, &format!("{} {way}{after}: {}", second(event.at), event.why))
}

fn summary(report: &Report) -> String {
    let rate = &report.false_alarms;
    let known = report.guards.iter().flat_map(|guard| &guard.events).any(|event| event.expected);
    let judged = format!("{:.1} guard-days with data were judged.", rate.days);
    let plural = if rate.events == 1 { "rollback" } else { "rollbacks" };
    let counted = match (rate.events, known) {
        (0, _) => "No rollback would have been a false alarm".to_owned(),
        (count, true) => format!("{count} {plural} would have been of no release named as bad"),
        (count, false) => format!(
            "{count} rollbacks would have been made, all counted as false alarms since no release was named as bad (--bad-release, --expected)"
        ),
    };
    match rate.high {
        Some(high) => format!(
            "{judged} {counted}: {:.1} per guard and year, with 95 % confidence between {:.1} and {high:.1}.",
            rate.per_year, rate.low
        ),
        None => format!("{judged} Nothing can be said of false alarms."),
    }
}

/// A word, and a text beside it that keeps to its column.
fn line(word: &str, style: anstyle::Style, text: &str) -> String {
    const COLUMN: usize = 14;
    let body = wrapped(text, COLUMN);
    let body = body.trim_start_matches(' ');
    format!(
        "  {}{}{body}",
        styled(word, style),
        " ".repeat(COLUMN.saturating_sub(word.chars().count() + 2))
    )
}

/// A text in lines of [`WIDE`] columns, indented.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    let mut flush = |line: &mut String| {
        out.push_str(&" ".repeat(indent));
        out.push_str(line);
        out.push('\n');
        line.clear();
    };
    // A number and its percent sign belong together.
    let text = text.replace(" %", "\u{a0}%");
    for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDE {
            flush(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    flush(&mut line);
    out.replace('\u{a0}', " ")
}
