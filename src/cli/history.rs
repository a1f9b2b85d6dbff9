//! `flipback history`: what was done to a guard, by whom and why, and what follows from it now.
//!
//! Read from the ledger on the guarded object: from a running daemon, which has it at hand, or from the cluster where none runs.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::{
    Daemon as DaemonArgs, Failure, Form, Global, HEALTHY, Output, UNKNOWN,
    command::{self, note},
    paint::{self, Cell, columns, styled},
    standalone::Rooms,
};
use crate::{
    config::Config,
    decide,
    model::{Clearance, FlipHistory, FlipRecord, GuardSpec, View},
};

/// Arguments of `flipback history`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback history web
  flipback history web --output json | jq '.bad[].release'

The history lies on the guarded object itself, so it is the same wherever it is asked for; docs/ledger.md describes its format.")]
pub struct HistoryArgs {
    /// The guard: its name, or its last part where only one guard has it
    pub guard: String,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// Shows the history of a guard.
///
/// # Errors
/// [`Failure`] when there is no such guard, or the guarded object cannot be read.
pub async fn history(global: &Global, args: HistoryArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = command::load(global, &args.daemon)?;
    let asked = if args.daemon.alone {
        None
    } else {
        command::reach(&args.daemon, config.as_ref()).await?
    };
    let history = match (asked, config) {
        (Some((daemon, status)), config) => {
            let id = command::resolve(status.guards.iter().map(|guard| &guard.guard), &args.guard).map_err(Failure::usage)?;
            match (daemon.history(&id).await, config) {
                (Ok(history), _) => history,
                (Err(error), Some(config)) => {
                    note(&format!("{error}; going past it."));
                    read(&config, &args.guard).await?
                }
                (Err(error), None) => return Err(Failure::unknown(error.to_string())),
            }
        }
        (None, Some(config)) => read(&config, &args.guard).await?,
        (None, None) => return Err(Failure::usage("no configuration to stand alone with")),
    };
    match args.form.output {
        Output::Json => command::print_json(&history),
        Output::Table => anstream::print!("{}", table(&history)),
    }
    Ok(HEALTHY)
}

/// Reads it from the cluster.
async fn read(config: &Config, guard: &str) -> Result<FlipHistory, Failure> {
    let id = command::resolve(config.guards.iter().map(|guard| &guard.id), guard).map_err(Failure::usage)?;
    let meant: Vec<Arc<GuardSpec>> = config.guards.iter().filter(|guard| guard.id == id).map(Arc::clone).collect();
    let rooms = Rooms::open(config, &meant).await?;
    let (spec, router) = rooms.guards.first().expect("one guard was asked for");
    match router.view() {
        View::Known(traffic) => Ok(decide::flip_history(spec, Some(&traffic), super::now())),
        View::Unreadable(why) => Err(Failure {
            code: UNKNOWN,
            message: why,
        }),
        View::UnknownColor { found, known } => Err(Failure {
            code: UNKNOWN,
            message: format!(
                "the selector says {:?}, which is none of this guard's colors ({})",
                found.unwrap_or_default(),
                known.join(", ")
            ),
        }),
    }
}

// === what people read ===

/// Where it stands, what is bad, and the flips, newest first.
fn table(history: &FlipHistory) -> String {
    let mut out = format!(
        "{} ({})\n",
        styled(&plain(history.guard.as_str()), paint::BOLD),
        plain(&history.object)
    );
    out.push_str(&columns(&standing(history), 2));
    if !history.bad.is_empty() {
        out.push_str("\nBad releases\n");
        out.push_str(&columns(&bad(history), 2));
    }
    if history.flips.is_empty() {
        out.push_str("\nflipback has never flipped it.\n");
        return out;
    }
    out.push_str("\nFlips, newest first\n");
    out.push_str(&flips(history));
    if history.unread > 0 {
        out.push_str(&format!(
            "\n{}\n",
            styled(
                &format!(
                    "{} more are not understood by this version (ledger version {}); they are kept.",
                    history.unread, history.version
                ),
                paint::WARN
            )
        ));
    }
    out
}

fn standing(history: &FlipHistory) -> Vec<Vec<Cell>> {
    let row = |name: &str, cell: Cell| vec![Cell::new(name, paint::DIM), cell];
    let left = format!(
        "{} of {} automatic flips in the last 24 h, {} left",
        history.flips_today, history.flips_per_day, history.flips_left
    );
    let mut rows = vec![if history.disarmed {
        row("today", Cell::new(format!("{left}: disarmed"), paint::BAD))
    } else {
        row("today", Cell::plain(left))
    }];
    rows.push(match history.cooldown_until {
        Some(until) => row("cooldown", Cell::new(format!("until {}", clock(until)), paint::WARN)),
        None => row("cooldown", Cell::plain("none")),
    });
    if let Some(owner) = &history.owner {
        rows.push(row("owner", Cell::plain(plain(owner))));
    }
    rows
}

fn bad(history: &FlipHistory) -> Vec<Vec<Cell>> {
    let rows = history.bad.iter().map(|bad| {
        let colors: Vec<&str> = bad.colors.iter().map(|color| color.as_str()).collect();
        let runs = if colors.is_empty() {
            "runs nowhere now".to_owned()
        } else {
            format!("runs on {}", colors.join(", "))
        };
        vec![
            Cell::new(plain(&bad.release), paint::BAD),
            Cell::plain(clock(bad.since)),
            Cell::plain(runs),
            Cell::new(plain(&bad.images.join(", ")), paint::DIM),
        ]
    });
    rows.collect()
}

fn flips(history: &FlipHistory) -> String {
    let mut out = String::new();
    for flip in &history.flips {
        let left = flip
            .from_release
            .as_ref()
            .map(|release| format!(" ({release})"))
            .unwrap_or_default();
        out.push_str(&columns(
            &[vec![
                Cell::new(clock(flip.at), paint::BOLD),
                Cell::plain(plain(&format!("{}{left} -> {}", flip.from, flip.to))),
                who(flip),
                Cell::new(plain(&flip.incident), paint::DIM),
            ]],
            2,
        ));
        out.push_str(&format!("      {}\n", plain(&flip.why)));
        let words = [
            (&flip.forgotten, "forgotten: its release is bad no more"),
            (&flip.discounted, "counts no more"),
        ];
        for (word, what) in words.into_iter().filter_map(|(word, what)| Some((word.as_ref()?, what))) {
            out.push_str(&format!("      {}\n", styled(&plain(&said(word, what)), paint::GOOD)));
        }
    }
    out
}

fn who(flip: &FlipRecord) -> Cell {
    let text = match (&flip.by, flip.reassert) {
        (Some(by), _) if flip.bad => format!("rollback by {by}"),
        (Some(by), _) => format!("switch by {by}"),
        (None, Some(attempt)) => format!("made again, {attempt}"),
        (None, None) if flip.automatic => format!("rollback by {}", flip.trigger),
        (None, None) => "by a person".to_owned(),
    };
    Cell::plain(plain(&text))
}

fn said(word: &Clearance, what: &str) -> String {
    let reason = if word.reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", word.reason)
    };
    format!("{what}, says {} on {}{reason}", word.by, clock(word.at))
}

fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A text from the cluster on one line and without what a terminal would obey.
fn plain(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::BadRelease;

    fn seen() -> FlipHistory {
        let flip = |value| serde_json::from_value::<FlipRecord>(value).expect("a flip");
        FlipHistory {
            guard: crate::model::GuardId::new("", "shop", "web").expect("valid"),
            object: "Service/web".into(),
            at: "2026-11-21T04:40:00Z".parse().expect("valid"),
            version: 2,
            unread: 0,
            flips: vec![
                flip(
                    json!({"at": "2026-11-21T04:38:00Z", "from": "green", "to": "blue", "from_release": "9f1c", "automatic": true, "bad": true,
                    "trigger": "reassert", "why": "argocd-controller undid the rollback after 6 s (error_rate 12.4 % is over 5 %)", "reassert": 1,
                    "incident": "shop.web_20261121T043800Z"}),
                ),
                flip(
                    json!({"at": "2026-11-21T04:37:40Z", "from": "green", "to": "blue", "from_release": "9f1c", "automatic": true, "bad": true,
                    "from_images": ["registry.example/shop/web@sha256:77aa"], "trigger": "error_rate", "why": "error_rate 12.4 % is over 5 %",
                    "incident": "shop.web_20261121T043740Z"}),
                ),
                flip(
                    json!({"at": "2026-11-20T10:00:00Z", "from": "blue", "to": "green", "automatic": false, "bad": false, "trigger": "manual",
                    "by": "ann@ops-1", "why": "ann@ops-1: release 1.4", "incident": "shop.web_20261120T100000Z"}),
                ),
                flip(
                    json!({"at": "2026-11-18T10:00:00Z", "from": "green", "to": "blue", "from_release": "51aa", "automatic": false, "bad": true,
                    "trigger": "manual", "by": "ann@ops-1", "why": "ann@ops-1: checkout is \u{1b}[31mbroken", "incident": "shop.web_20261118T100000Z",
                    "forgotten": {"by": "bob@ops-1", "at": "2026-11-18T12:00:00Z", "reason": "the database was it"},
                    "discounted": {"by": "bob@ops-1", "at": "2026-11-18T12:00:00Z"}}),
                ),
            ],
            bad: vec![BadRelease {
                release: "9f1c".into(),
                images: vec!["registry.example/shop/web@sha256:77aa".into()],
                since: "2026-11-21T04:38:00Z".parse().expect("valid"),
                incident: "shop.web_20261121T043800Z".into(),
                colors: vec![crate::model::Color::new("green").expect("valid")],
            }],
            cooldown_until: Some("2026-11-21T04:48:00Z".parse().expect("valid")),
            flips_today: 2,
            flips_per_day: 3,
            flips_left: 1,
            disarmed: false,
            owner: Some("Argo CD's Application shop".into()),
        }
    }

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_history_tells_what_when_by_whom_and_why() {
        insta::assert_snapshot!(bare(&table(&seen())));
    }

    #[test]
    fn a_guard_that_was_never_flipped_and_one_that_is_disarmed() {
        let never = FlipHistory {
            flips: vec![],
            bad: vec![],
            version: 0,
            flips_today: 0,
            flips_left: 3,
            cooldown_until: None,
            owner: None,
            ..seen()
        };
        let disarmed = FlipHistory {
            disarmed: true,
            flips_today: 3,
            flips_left: 0,
            unread: 2,
            version: 7,
            ..seen()
        };
        insta::assert_snapshot!(format!("{}---\n{}", bare(&table(&never)), bare(&table(&disarmed))));
    }

    #[test]
    fn programs_get_the_same_as_json() {
        insta::assert_json_snapshot!(seen());
    }
}
