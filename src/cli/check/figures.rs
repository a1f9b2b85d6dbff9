//! What the queries answer, and whether a threshold can be judged by it.

use super::{Findings, Level};
use crate::{
    cli::paint::percent,
    model::{Absence, Color, RuleSpec, ScalarRule},
    observe::{Buckets, QueryReport, figure},
};

pub(super) fn query(findings: &mut Findings, about: &str, report: &QueryReport, rule: Option<&RuleSpec>, is_active: bool) {
    let subject = format!("{} on {}", report.rule, report.color);
    let refused = report.buckets.as_ref().filter(|buckets| buckets.refusal.is_some());
    match (&report.value, &report.absent) {
        // Told below, with what to do.
        (_, Some(_)) if refused.is_some() => {}
        (_, Some(absence)) => {
            // A standby color without users has no requests, and that is as it should be.
            let level = if is_active { Level::Wrong } else { Level::Warning };
            let finding = findings.add(about, level, format!("{subject}: {absence}"));
            // A Prometheus that does not answer at all says itself what to do.
            if !matches!(absence, Absence::Error(_) | Absence::Timeout) {
                finding.todo(format!("ask Prometheus: {}", report.query));
            }
        }
        (Some(value), None) => {
            let mut what = format!("{subject}: {value}");
            if let Some(scalar) = rule.and_then(|rule| rule.kind.scalar()) {
                what.push_str(&limits(scalar));
            } else if let Some(share) = report.bad_share {
                what.push_str(&format!("; {} bad in the last 5 minutes", percent(share)));
            }
            if let Some(spacing) = report.scrape_spacing {
                what.push_str(&format!("; scraped every {}", humantime::format_duration(round(spacing))));
            }
            if let Some(time) = report.time_to_detect {
                what.push_str(&format!(
                    "; a total outage is decided in about {}",
                    humantime::format_duration(round(time))
                ));
            }
            findings.add(about, Level::Ok, what);
        }
        (None, None) => {}
    }
    if let Some((buckets, why)) = refused.and_then(|buckets| Some((buckets, buckets.refusal.as_ref()?))) {
        let finding = findings.add(about, Level::Wrong, format!("{subject}: {why}"));
        if !buckets.is_bound {
            finding.todo(format!("use {}", neighbours(buckets)));
        }
    }
    for warning in &report.warnings {
        findings.add(about, Level::Warning, format!("{subject}: {warning}"));
    }
}

/// `; at most 0.8`.
fn limits(rule: &ScalarRule) -> String {
    let unit = rule.unit.as_deref();
    let mut all = Vec::new();
    all.extend(rule.max.map(|max| format!("at most {}", figure(max, unit))));
    all.extend(rule.min.map(|min| format!("at least {}", figure(min, unit))));
    all.extend(
        rule.max_ratio_to_standby
            .map(|ratio| format!("at most {} times the standby's", figure(ratio, None))),
    );
    all.extend(
        rule.max_ratio_to_before
            .map(|ratio| format!("at most {} times what it was before the switch", figure(ratio, None))),
    );
    if all.is_empty() {
        String::new()
    } else {
        format!("; {}", all.join(", "))
    }
}

/// How the active color stands to the standby, of rules that compare the two.
pub(super) fn ratios(findings: &mut Findings, about: &str, rules: &[RuleSpec], reports: &[QueryReport], active: &Color, standby: &Color) {
    for rule in rules {
        let Some((scalar, allowed)) = rule.kind.scalar().and_then(|scalar| Some((scalar, scalar.max_ratio_to_standby?))) else {
            continue;
        };
        let of = |color: &Color| {
            let report = reports.iter().find(|report| report.rule == rule.name && report.color == *color);
            report.filter(|report| report.absent.is_none()).and_then(|report| report.number)
        };
        let (Some(here), Some(there)) = (of(active), of(standby)) else {
            findings
                .add(
                    about,
                    Level::Warning,
                    format!(
                        "{}: there is no number on both colors to compare, so it gives no verdict",
                        rule.name
                    ),
                )
                .todo("keep traffic or a probe on the standby, or use max_ratio_to_before");
            continue;
        };
        let unit = scalar.unit.as_deref();
        let what = format!(
            "{}: {} on {active}, {} on {standby}; at most {} times as much is allowed",
            rule.name,
            figure(here, unit),
            figure(there, unit),
            figure(allowed, None)
        );
        if there <= 0.0 {
            findings
                .add(about, Level::Warning, what)
                .todo("a ratio to nothing says nothing: keep traffic on the standby, or use max_ratio_to_before");
        } else if here > allowed * there {
            findings
                .add(about, Level::Warning, format!("{what}: it would breach right now"))
                .todo("leave more room, or look at what is live");
        } else {
            findings.add(about, Level::Ok, what);
        }
    }
}

fn neighbours(buckets: &Buckets) -> String {
    // The highest finite bucket would be refused again.
    let above = buckets.above.filter(|above| buckets.bounds.iter().any(|bound| bound > above));
    match (buckets.below, above) {
        (Some(below), Some(above)) => format!("{below} or {above}, or add a bucket at {}", buckets.threshold),
        (Some(below), None) => format!("{below}, or add a bucket at {} and one above it", buckets.threshold),
        (None, Some(above)) => format!("{above}, or add a bucket at {}", buckets.threshold),
        (None, None) => "a histogram with finite buckets".to_owned(),
    }
}

/// Whole seconds: nobody plans by milliseconds.
fn round(duration: std::time::Duration) -> std::time::Duration {
    std::time::Duration::from_secs_f64(duration.as_secs_f64().round())
}
