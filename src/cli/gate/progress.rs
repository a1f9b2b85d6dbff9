//! How far the gate is, on standard error: a table that is drawn anew at a terminal; lines elsewhere, one per change and one every half
//! minute, for the logs of pipelines, which end a job that says nothing for too long.

use std::{io::IsTerminal as _, io::Write as _, time::Duration};

use tokio::time::Instant;

use super::trial::{Tally, Trial};
use crate::{
    cli::paint::{self, Cell, columns, figure, limit, styled},
    model::{Action, GuardId, Outcome},
};

/// A line comes at least so often.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// Cells of the bar.
const BAR: u32 = 24;
/// Lines neither break nor wrap while they are drawn: a broken one would throw off the count of what is drawn over.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Tells how far the gate is.
#[derive(Debug)]
pub struct Progress {
    guard: GuardId,
    terminal: bool,
    /// Lines that stand on the terminal and are drawn over next.
    drawn: usize,
    said: Option<(Instant, String)>,
}

impl Progress {
    /// For a guard, on this process's standard error.
    #[must_use]
    pub fn new(guard: &GuardId) -> Self {
        Self {
            guard: guard.clone(),
            terminal: std::io::stderr().is_terminal(),
            drawn: 0,
            said: None,
        }
    }

    /// Whether somebody watches, and a clock that stands still would look like a hang.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.terminal
    }

    /// Something is waited for.
    pub fn waits(&mut self, what: &str) {
        let line = format!("gate {}: {what}", self.guard);
        if self.terminal {
            self.draw(&styled(&line, paint::DIM));
        } else {
            // Seconds that count down are no news.
            let key: String = what.chars().filter(|letter| !letter.is_ascii_digit()).collect();
            self.say(&key, &line);
        }
    }

    /// Where the trial stands.
    pub fn shows(&mut self, trial: &Trial, elapsed: Duration, span: Duration) {
        if self.terminal {
            let frame = frame(&self.guard, trial, elapsed, span);
            self.draw(&frame);
        } else {
            let key: Vec<String> = trial.tallies.iter().map(standing).collect();
            let line = line(&self.guard, trial, elapsed, span);
            self.say(&key.join(","), &line);
        }
    }

    /// Removes what was drawn: the result stands in its place.
    pub fn end(&mut self) {
        if self.terminal {
            self.draw("");
        }
    }

    fn say(&mut self, key: &str, line: &str) {
        let news = self.said.as_ref().is_none_or(|(at, said)| said != key || at.elapsed() >= SAY_AGAIN);
        if news {
            self.said = Some((Instant::now(), key.to_owned()));
            anstream::eprintln!("{line}");
        }
    }

    fn draw(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let mut out = anstream::stderr().lock();
        let up = match self.drawn {
            0 => "\r\x1b[J".to_owned(),
            drawn => format!("\r\x1b[{drawn}A\x1b[J"),
        };
        let body: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        // A terminal that went away is no reason to stop judging.
        let _ = write!(out, "{up}{NO_WRAP}{body}{WRAP}").and_then(|()| out.flush());
        self.drawn = lines.len();
    }
}

/// `1m 5s`, in whole seconds.
fn span_text(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// What of a rule is news when it changes.
fn standing(tally: &Tally) -> String {
    let blind = matches!(tally.state.as_ref().map(|state| &state.outcome), Some(Outcome::Inconclusive(_)));
    let passes = tally.passes > 0;
    format!("{} {passes} {blind}", tally.streak())
}

/// A rule in few words: `error_rate 0.4 %, 12 passes`.
fn brief(tally: &Tally) -> String {
    let name = &tally.spec.name;
    let value = tally
        .value
        .map(|value| format!(" {}", figure(tally.unit.as_deref(), value)))
        .unwrap_or_default();
    match tally.state.as_ref() {
        Some(state) if state.streak > 0 => {
            let limit = limit(tally.unit.as_deref(), state.threshold, state.below);
            format!("{name}{value} is {limit}, {} of {}", state.streak, state.of)
        }
        Some(state) if matches!(state.outcome, Outcome::Inconclusive(_)) => format!("{name}: {}", state.why),
        _ if tally.passes == 0 => format!("{name}: {}", tally.said()),
        _ if tally.passes == 1 => format!("{name}{value}, 1 pass"),
        _ => format!("{name}{value}, {} passes", tally.passes),
    }
}

fn line(guard: &GuardId, trial: &Trial, elapsed: Duration, span: Duration) -> String {
    let rules: Vec<String> = trial.tallies.iter().map(brief).collect();
    format!(
        "gate {guard} {}: {} of {}; {}",
        trial.subject.color,
        span_text(elapsed.min(span)),
        span_text(span),
        rules.join("; ")
    )
}

fn frame(guard: &GuardId, trial: &Trial, elapsed: Duration, span: Duration) -> String {
    let elapsed = elapsed.min(span);
    let part = elapsed.as_secs_f64() / span.as_secs_f64().max(0.001);
    let full = (part * f64::from(BAR)).round().clamp(0.0, f64::from(BAR)) as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR as usize - full));
    let subject = &trial.subject;
    let mut out = format!(
        "{}  {} ({})  {bar}  {} of {}, {} left\n",
        styled(guard.as_str(), paint::BOLD),
        subject.color,
        subject.position.as_str(),
        span_text(elapsed),
        span_text(span),
        span_text(span.saturating_sub(elapsed)),
    );
    let titles = ["RULE", "", "STREAK", "PASSES", "NOW", "LIMIT", "WHY"];
    let mut rows = vec![titles.map(|title| Cell::new(title, paint::DIM)).to_vec()];
    rows.extend(trial.tallies.iter().map(|tally| row(tally, trial.needed())));
    out.push_str(&columns(&rows, 2));
    out
}

fn row(tally: &Tally, needed: u32) -> Vec<Cell> {
    let state = tally.state.as_ref();
    let outcome = state.map(|state| &state.outcome);
    let (word, style) = match outcome {
        Some(Outcome::Breach) => ("breach", paint::BAD),
        Some(Outcome::Inconclusive(_)) => ("no usable data", paint::WARN),
        _ if tally.streak() > 0 => ("held", paint::WARN),
        Some(Outcome::Pass | Outcome::Waiting | Outcome::Nothing) if tally.passes > 0 => ("pass", paint::GOOD),
        _ => ("collecting", paint::DIM),
    };
    let word = match tally.spec.action {
        Action::Rollback => word.to_owned(),
        Action::Alert => format!("{word} (alert)"),
    };
    let unit = tally.unit.as_deref();
    let enough = if tally.in_a_row >= needed { paint::GOOD } else { paint::PLAIN };
    vec![
        Cell::plain(tally.spec.name.as_str()),
        Cell::new(word, style),
        Cell::new(
            state.map_or_else(|| "-".to_owned(), |state| format!("{}/{}", state.streak, state.of)),
            if tally.streak() > 0 { paint::WARN } else { paint::DIM },
        ),
        Cell::new(tally.in_a_row.to_string(), enough),
        Cell::new(tally.value.map_or_else(|| "-".to_owned(), |value| figure(unit, value)), style),
        Cell::plain(state.map_or_else(|| "-".to_owned(), |state| limit(unit, state.threshold, state.below))),
        Cell::new(tally.said(), paint::DIM),
    ]
}
