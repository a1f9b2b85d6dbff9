//! The report as a page: one file, no script, no foreign resource; light, dark and paper.
//!
//! Guards with a story stand first and open, calm ones are folded. Everything from outside enters as escaped text.

use std::fmt::Write as _;

use super::words::{day, minute, second, span};
use super::{
    advice::percent,
    course::Origin,
    rate::Rate,
    report::{Event, GuardReport, Near, Report, What},
};
use crate::plot;

/// Near misses and blind spans in the lists of one guard; the charts have all.
const LISTED_MAX: usize = 12;

const STYLE: &str = include_str!("page.css");

/// Makes the page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = String::with_capacity(1 << 20);
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><meta name="color-scheme" content="light dark"><title>flipback backtest, {}</title><style>{STYLE}{}</style></head><body>"#,
        day(report.from),
        plot::STYLE
    );
    head(report, &mut out);
    legend(&mut out);
    let mut guards: Vec<&GuardReport> = report.guards.iter().collect();
    guards.sort_by_key(|guard| std::cmp::Reverse(weight(guard)));
    for guard in guards {
        of_guard(guard, &mut out);
    }
    for failed in &report.failed {
        let _ = write!(
            out,
            r#"<section class="guard bad"><h2>{}</h2><p class="failed">Not judged: {}</p></section>"#,
            text(failed.guard.as_str()),
            text(&failed.why)
        );
    }
    let _ = write!(
        out,
        r#"<footer>flipback {}. All times are UTC. Traffic was not moved when history was made, so what would have followed a rollback is not known; a fault counts once.</footer></body></html>"#,
        text(&report.version)
    );
    out
}

/// What deserves to be looked at first.
fn weight(guard: &GuardReport) -> u64 {
    let rollbacks = guard.events.iter().filter(|event| event.what == What::Rollback).count() as u64;
    let others = guard.events.len() as u64 - rollbacks;
    rollbacks * 10_000
        + guard.missed.len() as u64 * 10_000
        + others * 1000
        + guard.near_misses.len().min(99) as u64 * 2
        + u64::from(guard.blind_seconds > 0.0)
}

fn head(report: &Report, out: &mut String) {
    let count = |what: What| {
        report
            .guards
            .iter()
            .flat_map(|guard| &guard.events)
            .filter(|event| event.what == what)
            .count()
    };
    let (rollbacks, held) = (count(What::Rollback), count(What::Suppressed) + count(What::Blocked));
    let expected = report
        .guards
        .iter()
        .flat_map(|guard| &guard.events)
        .filter(|event| event.what == What::Rollback && event.expected)
        .count();
    let near: u64 = report.guards.iter().flat_map(|guard| guard.near_total.values()).sum();
    let blind: f64 = report.guards.iter().map(|guard| guard.blind_seconds).sum();
    let _ = write!(
        out,
        r#"<header><p class="brand">flipback backtest</p><h1>{}</h1><p>{} to {}, {} {}</p></header>"#,
        verdict(rollbacks, expected),
        minute(report.from),
        minute(report.until),
        report.guards.len(),
        if report.guards.len() == 1 { "guard" } else { "guards" },
    );
    if !report.complete {
        out.push_str(r#"<p class="failed">Not all of it was judged: it was interrupted, or a guard could not be read.</p>"#);
    }
    out.push_str(r#"<div class="facts">"#);
    fact(
        "rollbacks",
        &rollbacks.to_string(),
        &format!("{expected} of releases named as bad"),
        out,
    );
    fact("held back", &held.to_string(), "confirmed, and not flipped for a reason", out);
    fact("near misses", &near.to_string(), "one breach, or some certainty, was missing", out);
    fact("blind", &span(blind), "of all guards together", out);
    fact("false alarms", &yearly(&report.false_alarms), &between(&report.false_alarms), out);
    out.push_str("</div>");
}

fn verdict(rollbacks: usize, expected: usize) -> String {
    match (rollbacks, rollbacks - expected) {
        (0, _) => "It would not have rolled back".to_owned(),
        (1, 0) => "It would have rolled back once, and rightly".to_owned(),
        (count, 0) => format!("It would have rolled back {count} times, and rightly"),
        (1, _) => "It would have rolled back once".to_owned(),
        (count, _) => format!("It would have rolled back {count} times"),
    }
}

fn fact(name: &str, value: &str, more: &str, out: &mut String) {
    let _ = write!(
        out,
        r#"<div><b>{}</b><span>{}</span><small>{}</small></div>"#,
        text(value),
        text(name),
        text(more)
    );
}

/// What the signs of the charts mean: the same shapes, drawn once.
fn legend(out: &mut String) {
    out.push_str(r#"<ul class="legend plot">"#);
    let sign = |shape: &str, words: &str| {
        format!(r#"<li><svg class="plot" width="26" height="16" viewBox="0 0 26 16" aria-hidden="true">{shape}</svg>{words}</li>"#)
    };
    let shapes = [
        (
            r#"<path class="band a" d="M0 13L8 6L16 11L26 3V16H0z"/><path class="line a" d="M0 13L8 6L16 11L26 3"/>"#,
            "blue",
        ),
        (
            r#"<path class="band b" d="M0 13L8 6L16 11L26 3V16H0z"/><path class="line b" d="M0 13L8 6L16 11L26 3"/>"#,
            "green",
        ),
        (r#"<path class="limit" d="M0 8H26"/>"#, "allowed"),
        (r#"<path class="switch" d="M13 0V16"/>"#, "traffic switched"),
        (
            r#"<path class="decision" d="M7 1V16M7 1h11l-3 4.5l3 4.5H7z"/>"#,
            "would have rolled back",
        ),
        (
            r#"<path class="held" d="M7 1V16M7 1h11l-3 4.5l3 4.5H7z"/>"#,
            "held back, or an alert",
        ),
        (r#"<path class="near" d="M13 4l4 4l-4 4l-4-4z"/>"#, "near miss"),
        (r#"<path class="breach" d="M8 5v6M13 5v6M18 5v6"/>"#, "breaches"),
        (r#"<rect class="span blind" width="26" height="16"/>"#, "blind"),
    ];
    for (shape, words) in shapes {
        out.push_str(&sign(shape, words));
    }
    out.push_str("</ul>");
}

fn of_guard(guard: &GuardReport, out: &mut String) {
    let rollbacks = guard.events.iter().filter(|event| event.what == What::Rollback);
    let tone = match (
        rollbacks.clone().any(|event| !event.expected),
        guard.events.is_empty(),
        guard.missed.is_empty(),
    ) {
        (true, ..) | (_, _, false) => "bad",
        (false, false, true) => "warn",
        (false, true, true) => "calm",
    };
    let open = if tone == "calm" && guard.near_misses.is_empty() && guard.blind.is_empty() {
        ""
    } else {
        " open"
    };
    let _ = write!(
        out,
        r#"<details class="guard {tone}"{open}><summary><h2>{}</h2><span>{}</span></summary>"#,
        text(guard.guard.as_str()),
        text(&outline(guard))
    );
    let _ = write!(out, r#"<p class="course">{}</p>"#, text(&course(guard)));
    events(guard, out);
    for chart in &guard.plots {
        let _ = write!(
            out,
            r#"<figure><figcaption>{}{}</figcaption>"#,
            text(chart.rule.as_str()),
            caption(guard, chart)
        );
        out.push_str(&plot::svg(&chart.plot));
        out.push_str("</figure>");
    }
    lists(guard, out);
    table(guard, out);
    out.push_str("</details>");
}

fn outline(guard: &GuardReport) -> String {
    let rollbacks = guard.events.iter().filter(|event| event.what == What::Rollback).count();
    let others = guard.events.len() - rollbacks;
    let mut parts = Vec::new();
    match rollbacks {
        0 => {}
        1 => parts.push("1 rollback".to_owned()),
        count => parts.push(format!("{count} rollbacks")),
    }
    if others > 0 {
        parts.push(format!("{others} held back or alerted"));
    }
    let near: u64 = guard.near_total.values().sum();
    if near > 0 {
        parts.push(format!("{near} near {}", if near == 1 { "miss" } else { "misses" }));
    }
    if guard.blind_seconds > 0.0 {
        parts.push(format!("blind for {}", span(guard.blind_seconds)));
    }
    if parts.is_empty() { "calm".to_owned() } else { parts.join(", ") }
}

fn course(guard: &GuardReport) -> String {
    let switches = &guard.course.switches;
    let how = match guard.course.origin {
        Origin::File => "as the file says",
        Origin::Flipback => "as flipback saw it",
        Origin::Traffic => "found where requests moved",
        Origin::None => {
            return format!(
                "No switch was found: all of it is judged as one watch of {}, with every path armed.",
                guard.course.first
            );
        }
    };
    let told: Vec<String> = switches
        .iter()
        .take(LISTED_MAX)
        .map(|switch| format!("{} at {}", switch.to, second(switch.at)))
        .collect();
    let more = switches.len().saturating_sub(LISTED_MAX);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!(
        "{} had the traffic, then {}{more} ({how}). Every path was armed for {} after switches; otherwise the slow path was.",
        guard.course.first,
        told.join(", "),
        span(guard.watched_seconds)
    )
}

fn events(guard: &GuardReport, out: &mut String) {
    for event in &guard.events {
        let (tone, word) = match (event.what, event.expected) {
            (What::Rollback, true) => ("good", "would have rolled back, rightly"),
            (What::Rollback, false) => ("bad", "would have rolled back"),
            (What::Suppressed, _) => ("warn", "suppressed"),
            (What::Blocked, _) => ("warn", "blocked"),
            (What::Alert, _) => ("warn", "alert"),
        };
        let _ = write!(
            out,
            r#"<p class="event {tone}"><b>{word}</b> <time>{}</time> {}: {}</p>"#,
            second(event.at),
            text(&way(event)),
            text(&event.why)
        );
    }
    for missed in &guard.missed {
        let _ = write!(
            out,
            r#"<p class="event bad"><b>missed</b> <time>{}</time> a release known to be bad, and nothing would have been flipped</p>"#,
            second(missed.at)
        );
    }
}

fn way(event: &Event) -> String {
    let after = event
        .after_seconds
        .map(|seconds| format!(", {} after the bad release began", span(seconds)));
    let way = match event.what {
        What::Alert => event.from.to_string(),
        _ => format!("{} to {}", event.from, event.to),
    };
    format!("{way}{}", after.unwrap_or_default())
}

fn caption(guard: &GuardReport, chart: &super::report::RulePlot) -> String {
    if let Some(at) = chart.around {
        return format!(" <small>from near, around {}</small>", at.strftime("%b %-d %H:%M"));
    }
    let Some(rule) = guard.rules.iter().find(|rule| rule.rule == chart.rule) else {
        return String::new();
    };
    match (rule.usual_share, rule.p99_share) {
        (Some(usual), Some(p99)) => format!(
            " <small>usually {}, 99 % of five minutes within {}</small>",
            percent(usual),
            percent(p99)
        ),
        _ => String::new(),
    }
}

fn lists(guard: &GuardReport, out: &mut String) {
    let near = guard.near_misses.iter().map(|near| {
        let kind = match near.kind {
            Near::Streak => "streak",
            Near::AfterWatch => "after the watch",
            Near::Slow => "slow path",
            Near::Degraded => "degradation",
        };
        format!(
            "<b>{kind}</b> <time>{}</time> {} on {}: {}",
            second(near.at),
            text(near.rule.as_str()),
            text(near.color.as_str()),
            text(&near.why)
        )
    });
    list(
        "Near misses",
        "near-misses",
        near,
        usize::try_from(guard.near_total.values().sum::<u64>()).unwrap_or(usize::MAX),
        out,
    );
    let blind = guard.blind.iter().map(|blind| {
        format!(
            "<time>{}</time> to <time>{}</time>: {}",
            second(blind.from),
            second(blind.to),
            text(&blind.why)
        )
    });
    list("Blind", "blind-spans", blind, guard.blind.len(), out);
    let left_out = guard
        .left_out
        .iter()
        .map(|left_out| format!("<b>{}</b> {}", text(left_out.rule.as_str()), text(&left_out.why)));
    list("Not judged", "left-out", left_out, guard.left_out.len(), out);
    let suggestions = guard
        .suggestions
        .iter()
        .map(|one| format!("<b>{}</b> {}", text(one.rule.as_str()), text(&one.what)));
    list("Suggestions", "suggestions", suggestions, guard.suggestions.len(), out);
}

fn list(title: &str, class: &str, items: impl Iterator<Item = String>, all: usize, out: &mut String) {
    if all == 0 {
        return;
    }
    let _ = write!(out, r#"<h3>{title}</h3><ul class="{class}">"#);
    let mut shown = 0;
    for item in items.take(LISTED_MAX) {
        shown += 1;
        let _ = write!(out, "<li>{item}</li>");
    }
    if all > shown {
        let _ = write!(out, "<li>and {} more</li>", all - shown);
    }
    out.push_str("</ul>");
}

fn table(guard: &GuardReport, out: &mut String) {
    out.push_str(r#"<div class="scroll"><table><thead><tr><th>rule</th><th>allowed</th><th>usual</th><th>intervals</th><th>breaches</th><th>scraped every</th><th>total outage decided in</th></tr></thead><tbody>"#);
    for rule in &guard.rules {
        let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.0} s"));
        let allowed = match rule.unit.as_str() {
            "share" => share(rule.threshold),
            unit => rule
                .threshold
                .map_or_else(|| "-".to_owned(), |limit| text(format!("{limit} {unit}").trim_end())),
        };
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{allowed}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            text(rule.rule.as_str()),
            share(rule.usual_share),
            grouped(rule.intervals),
            grouped(rule.breaches),
            seconds(rule.spacing_seconds),
            seconds(rule.detect_seconds)
        );
    }
    let _ = write!(
        out,
        r#"</tbody></table></div><p class="rate">False alarms: {} a year, {}.</p>"#,
        yearly(&guard.false_alarms),
        between(&guard.false_alarms)
    );
}

/// `80 634`, with narrow spaces that do not break.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn yearly(rate: &Rate) -> String {
    match rate.high {
        Some(_) if rate.per_year < 10.0 => format!("{:.1}", rate.per_year),
        Some(_) => format!("{:.0}", rate.per_year),
        None => "?".to_owned(),
    }
}

fn between(rate: &Rate) -> String {
    match rate.high {
        Some(high) => format!(
            "95 % sure between {:.1} and {high:.1} per guard and year, from {} in {:.1} days judged",
            rate.low, rate.events, rate.days
        ),
        None => "nothing was judged".to_owned(),
    }
}

/// Text as it may stand in markup.
fn text(raw: &str) -> String {
    plot::escape(raw)
}
