//! `flipback evidence list`.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{Brief, Site, clock, plain, print, size};
use crate::{
    cli::{
        Failure, Form, HEALTHY, Output,
        command::note,
        paint::{self, Cell, columns},
    },
    evidence::stock,
};

/// Arguments of `flipback evidence list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence list
  flipback evidence list --guard shop/web --since 24h
  flipback evidence list --output json | jq -r '.[] | select(.pinned) | .id'")]
pub struct ListArgs {
    /// Only of this guard: its name, or the last part of it
    #[arg(long, value_name = "GUARD")]
    pub guard: Option<String>,
    /// Only newer ones: a time before now such as "24h" or "7d", or a timestamp
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<Since>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(Duration),
    /// A time.
    At(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| Some(day()?.timestamp()))
        .map(Since::At)
        .ok_or_else(|| "expected 24h, 7d, 2026-11-21 or 2026-11-21T04:00:00Z".to_owned())
}

impl Since {
    fn has(self, at: Timestamp, now: Timestamp) -> bool {
        match self {
            Self::Ago(ago) => SignedDuration::try_from(ago).is_ok_and(|ago| now.duration_since(at) <= ago),
            Self::At(since) => at >= since,
        }
    }
}

/// Lists what is kept.
pub(super) fn list(site: &Site, args: &ListArgs) -> Result<u8, Failure> {
    let now = crate::cli::now();
    let all = site.stock()?;
    let of_guard = |guard: &str| args.guard.as_ref().is_none_or(|asked| stock::is_guard(guard, asked));
    let briefs: Vec<Brief> = all
        .iter()
        .rev()
        .filter(|found| of_guard(&found.kept.guard))
        .filter(|found| args.since.is_none_or(|since| since.has(found.kept.at, now)))
        .map(Brief::new)
        .collect();
    if briefs.is_empty() && args.form.output == Output::Table {
        let why = if all.is_empty() {
            "no incident is kept"
        } else {
            "no such incident is kept"
        };
        note(&format!("{why} in {}", site.incidents.display()));
        return Ok(HEALTHY);
    }
    print(args.form, || table(&briefs), &briefs);
    Ok(HEALTHY)
}

fn table(briefs: &[Brief]) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let titles = ["TIME (UTC)", "GUARD", "OUTCOME", "FROM -> TO", "SIZE", "MARKS", "ID"];
    let mut rows = vec![titles.map(title).to_vec()];
    rows.extend(briefs.iter().map(|brief| {
        let marks = if brief.partial { paint::WARN } else { paint::PLAIN };
        vec![
            Cell::plain(clock(brief.at)),
            Cell::new(plain(&brief.guard), paint::BOLD),
            outcome(&brief.outcome),
            Cell::plain(plain(&brief.way())),
            Cell::plain(size(brief.bytes)),
            Cell::new(brief.marks(), marks),
            Cell::new(plain(&brief.id), paint::DIM),
        ]
    }));
    columns(&rows, 0)
}

/// An outcome in its color: green is what flipback is for, red is users on the bad color.
pub(super) fn outcome(word: &str) -> Cell {
    let style = match word {
        "rolled_back" => paint::GOOD,
        "failed" | "blocked" | "withheld" | "unreadable" => paint::BAD,
        _ => paint::WARN,
    };
    Cell::new(word.replace('_', " "), style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_a_day_or_a_time() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().expect("valid");
        let at = |text: &str| text.parse::<Timestamp>().expect("valid");
        assert!(since("7d").expect("valid").has(at("2026-11-15T00:00:00Z"), now));
        assert!(!since("24h").expect("valid").has(at("2026-11-20T11:00:00Z"), now));
        assert!(since("2026-11-20").expect("valid").has(at("2026-11-20T00:00:00Z"), now));
        assert!(!since("2026-11-20T01:00:00Z").expect("valid").has(at("2026-11-20T00:00:00Z"), now));
        assert!(since("yesterday").is_err());
    }
}
