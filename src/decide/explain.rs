//! Sentences with numbers. What a person reads in the chat at three in the morning is written here and nowhere else.

use std::time::Duration;

mod figure;

use crate::model::{RuleKind, RuleSpec};

use super::{bound::Share, limits::Limits};

pub(super) use figure::{beyond, few, nearly, number, within};

/// What is added to a breach of a critical rule.
pub(super) const ENOUGH: &str = ", and one breach of a critical rule is enough";

/// `12.4 %`, `5 %`, `0.25 %`, `99.95 %`: as many digits as matter, which close to 100 % is what is missing from it.
pub(super) fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    let missing = 100.0 - percent;
    let decimals = match percent.abs() {
        _ if missing > 1e-7 && missing < 0.95 => places(missing, 1),
        p if p >= 10.0 => 1,
        p if p >= 0.1 => 2,
        _ => 4,
    };
    format!("{} %", trimmed(percent, decimals))
}

/// Decimals that show so many digits of a number.
fn places(number: f64, digits: i32) -> usize {
    // Saturating by definition of `as`; a number beyond all digits shows none.
    let magnitude = number.abs().log10().floor() as i32;
    usize::try_from(digits.saturating_sub(1).saturating_sub(magnitude)).unwrap_or(0)
}

/// A count without a needless `.0`.
pub(super) fn count(number: f64) -> String {
    trimmed(number, 1)
}

/// `500 ms`, `1.5 s`, `2 min`, `1 h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let hours = time.as_secs() >= 3600 && time.as_secs().is_multiple_of(3600);
    if hours || seconds >= 7200.0 {
        format!("{} h", trimmed(seconds / 3600.0, 1))
    } else if seconds >= 120.0 {
        format!("{} min", trimmed(seconds / 60.0, 1))
    } else if seconds >= 1.0 || time.is_zero() {
        format!("{} s", trimmed(seconds, 1))
    } else {
        format!("{} ms", trimmed(seconds * 1000.0, 1))
    }
}

fn trimmed(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `first` .. `tenth`, `11th`, `22nd`.
fn ordinal(n: u32) -> String {
    const WORDS: [&str; 10] = [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    ];
    if let Some(word) = n.checked_sub(1).and_then(|index| WORDS.get(index as usize)) {
        return (*word).to_owned();
    }
    let suffix = match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// The measured share of a rule, `error rate 12.4 % (62 of 500)`.
pub(super) fn measured(rule: &RuleSpec, share: Share) -> String {
    let part = share.value().map_or_else(|| "nothing".to_owned(), percent);
    let (bad, total) = (count(share.bad), count(share.total));
    match &rule.kind {
        RuleKind::ErrorRate(_) => format!("error rate {part} ({bad} of {total})"),
        RuleKind::Availability(_) => {
            let part = share.value().map_or_else(|| "nothing".to_owned(), |bad| percent(1.0 - bad));
            format!("availability {part} ({} of {total})", count(share.total - share.bad))
        }
        RuleKind::Latency(latency) => format!("{part} of requests slower than {} ({bad} of {total})", span(latency.threshold)),
        RuleKind::Probe(probe) => format!("{part} of probes of {} failed ({bad} of {total})", probe.path),
        // One number is told by `figure`; it has no share.
        RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) => rule.name.to_string(),
        RuleKind::Endpoints(_) => format!("{total} Ready endpoints"),
    }
}

/// Whether people are shown the good share of a rule, and are told that it is under its threshold.
pub(super) fn complement(rule: &RuleSpec) -> bool {
    matches!(rule.kind, RuleKind::Availability(_))
}

/// The threshold of a share as people are shown it.
pub(super) fn threshold(rule: &RuleSpec, limits: &Limits) -> String {
    percent(if complement(rule) {
        1.0 - limits.threshold
    } else {
        limits.threshold
    })
}

fn over(rule: &RuleSpec, limits: &Limits) -> String {
    let threshold = threshold(rule, limits);
    match &rule.kind {
        RuleKind::Availability(_) => format!(" under {threshold}"),
        RuleKind::Latency(latency) => format!(", over the {threshold} that {} allows", quantile(latency.quantile)),
        _ => format!(" over {threshold}"),
    }
}

/// `p95`, `p99.9`.
fn quantile(quantile: f64) -> String {
    format!("p{}", trimmed(quantile * 100.0, 3))
}

/// A closed interval within the threshold.
pub(super) fn pass(rule: &RuleSpec, limits: &Limits, share: Share) -> String {
    let within = match &rule.kind {
        RuleKind::Latency(latency) => format!("the {} that {} allows", percent(limits.threshold), quantile(latency.quantile)),
        _ => threshold(rule, limits),
    };
    let within = if complement(rule) {
        format!("not under {within}")
    } else {
        format!("within {within}")
    };
    format!("{}, {within}", measured(rule, share))
}

/// A closed interval over the threshold.
pub(super) fn breach(rule: &RuleSpec, limits: &Limits, share: Share, streak: u32, sure: bool) -> String {
    let mut text = format!("{}{}", measured(rule, share), over(rule, limits));
    if limits.critical {
        return text + ENOUGH;
    }
    text += &in_a_row(streak, "breach");
    if matches!(rule.kind, RuleKind::Probe(_)) {
        return text;
    }
    if sure && streak >= limits.consecutive {
        text += &format!(", {}", surely(rule, limits));
    } else if streak >= limits.consecutive {
        text += &format!(", not yet {}", surely(rule, limits));
    }
    text
}

/// A severe interval.
pub(super) fn severe(rule: &RuleSpec, limits: &Limits, share: Share, in_a_row: u32) -> String {
    let share = measured(rule, share);
    let order = ordinal(in_a_row);
    let bad = if complement(rule) { " bad" } else { "" };
    format!(
        "{share}, {order} interval in a row at {}{bad} or more",
        percent(limits.severe_share)
    )
}

/// The slow path.
pub(super) fn slow(rule: &RuleSpec, limits: &Limits, share: Share) -> String {
    format!(
        "{}{} in the last {}, {}, and so for {}",
        measured(rule, share),
        over(rule, limits),
        span(limits.slow_window),
        surely(rule, limits),
        span(limits.slow_hold)
    )
}

fn surely(rule: &RuleSpec, limits: &Limits) -> String {
    let side = if complement(rule) { "below" } else { "above" };
    format!("{} sure {side} {}", percent(limits.sureness.confidence), threshold(rule, limits))
}

/// `, third breach in a row`.
pub(super) fn in_a_row(times: u32, what: &str) -> String {
    let row = if times > 1 { " in a row" } else { "" };
    format!(", {} {what}{row}", ordinal(times))
}

/// That a rule's own two windows are over the threshold as well; nothing for a rule that has none.
pub(super) fn agreed(limits: &Limits) -> String {
    limits.windows.map_or_else(String::new, |windows| {
        format!(", and so over the last {} and the last {}", span(windows.short), span(windows.long))
    })
}

/// Which of a rule's windows holds a streak back.
pub(super) fn dissent(rule: &RuleSpec, span_of: Duration, share: Share) -> String {
    let span = span(span_of);
    match share.value() {
        Some(bad) if complement(rule) => format!(", but {} over the last {span}", percent(1.0 - bad)),
        Some(bad) => format!(", but {} over the last {span}", percent(bad)),
        None => format!(", but nothing is known of the last {span}"),
    }
}

/// An interval that is still open.
pub(super) fn waiting(limits: &Limits, share: Share) -> String {
    let requests = count(limits.min_requests);
    format!(
        "collecting: {} bad of {} requests; a verdict takes {} bad or {requests} requests or {}",
        count(share.bad),
        count(share.total),
        count(limits.min_bad),
        span(limits.stretch)
    )
}

/// A poll without anything usable.
pub(super) fn inconclusive(limits: &Limits, why: &str, streak: u32) -> String {
    if streak == 0 {
        format!("no verdict: {why}")
    } else {
        format!("no verdict: {why}; the streak is held at {streak} of {}", limits.of_streak())
    }
}

/// No Ready endpoint.
pub(super) fn down(held: Duration, needed: Duration) -> String {
    format!("0 Ready endpoints for {} (a verdict takes {})", span(held), span(needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_the_digits_that_matter() {
        assert_eq!(
            [0.124, 0.05, 1.0 - 0.95, 0.0025, 1.0, 0.00012].map(percent).join(" "),
            "12.4 % 5 % 5 % 0.25 % 100 % 0.012 %"
        );
        assert_eq!(
            [0.99, 0.992, 0.9995, 0.999_999, 0.999_98, 1.0 - (1.0 - 0.999)]
                .map(percent)
                .join(" "),
            "99 % 99.2 % 99.95 % 99.9999 % 99.998 % 99.9 %"
        );
        assert_eq!(
            [0.0, 62.0, 2.5, 9_007_199_254_740_992.0].map(count).join(" "),
            "0 62 2.5 9007199254740992"
        );
    }

    #[test]
    fn spans_read_as_people_write_them() {
        let spans = [0, 250, 1000, 1500, 120_000, 3_600_000, 5_400_000, 7_200_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(spans.join(", "), "0 s, 250 ms, 1 s, 1.5 s, 2 min, 1 h, 90 min, 2 h");
    }

    #[test]
    fn ordinals_end_as_they_are_spoken() {
        assert_eq!(
            [1, 3, 10, 11, 12, 21, 22, 113].map(ordinal).join(" "),
            "first third tenth 11th 12th 21st 22nd 113th"
        );
    }
}
