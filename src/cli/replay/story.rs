//! A trace as a story for a person: what was live, what each rule saw, how streaks grew, what was decided.
//!
//! Looks that say the same are one line. A rule that waits, or saw no newer sample, says nothing new.

use std::io::Write;

use anstyle::Style;
use jiff::{SignedDuration, Timestamp, Unit};

use super::Teller;
use crate::{
    cli::paint::{BAD, BOLD, DIM, GOOD, WARN, styled},
    decide::trace::{Exit, Header},
    model::{Decision, Note, Observation, Outcome, RuleState, Traffic, Verdict, View},
    monitor::tell,
};

/// Where a line's text begins: after the time.
const INDENT: usize = 18;

/// Tells the story as it goes on.
pub(super) struct Story<W> {
    out: W,
    /// Width of the rules' names.
    width: usize,
    /// The newest conclusive outcome of each rule, and its sentence.
    stand: Vec<Stand>,
    /// Looks that say the same.
    block: Option<Block>,
    looks: usize,
    first_breach: Option<Timestamp>,
    /// What was decided at the last look.
    telling: Exit,
    /// The gravest that was decided, and how long after its streak began.
    gravest: (Exit, Option<SignedDuration>),
}

/// Where a rule stands, as far as a story is concerned.
#[derive(Clone, Debug, PartialEq)]
struct Stand {
    name: String,
    word: &'static str,
    streak: u32,
    of: u32,
    why: String,
}

struct Block {
    from: Timestamp,
    to: Timestamp,
    stand: Vec<Stand>,
}

impl<W: Write> Story<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            width: 0,
            stand: Vec::new(),
            block: None,
            looks: 0,
            first_breach: None,
            telling: Exit::Held,
            gravest: (Exit::Held, None),
        }
    }

    /// A line; nobody may be reading any more.
    fn say(&mut self, time: &str, text: &str) {
        let time = styled(&format!("{time:>width$}", width = INDENT - 3), DIM);
        let _ = writeln!(self.out, "{time}   {}", text.trim_end());
    }

    /// Tells the looks that said the same.
    fn flush(&mut self, zero: Timestamp) {
        let Some(block) = self.block.take() else { return };
        let mut time = if block.from == block.to {
            clock(block.from, zero)
        } else {
            format!("{} – {}", clock(block.from, zero), clock(block.to, zero))
        };
        let calm = |stand: &&Stand| stand.streak == 0 && matches!(stand.word, "pass" | "waiting");
        let (quiet, loud): (Vec<&Stand>, Vec<&Stand>) = block.stand.iter().partition(calm);
        for stand in &loud {
            let (word, style) = spoken(stand);
            let why = stand.why.strip_prefix("no verdict: ").unwrap_or(&stand.why);
            let text = self.row(&stand.name, &word, style, why);
            self.say(&std::mem::take(&mut time), &text);
        }
        for (word, style) in [("pass", GOOD), ("waiting", DIM)] {
            let of: Vec<&&Stand> = quiet.iter().filter(|stand| stand.word == word).collect();
            let names: Vec<&str> = of.iter().map(|stand| stand.name.as_str()).collect();
            let why = match of[..] {
                [] => continue,
                [one] => one.why.as_str(),
                _ => "",
            };
            let text = self.row(&names.join(", "), word, style, &styled(why, DIM));
            self.say(&std::mem::take(&mut time), &text);
        }
    }

    /// Who, what, why.
    fn row(&self, name: &str, word: &str, style: Style, why: &str) -> String {
        format!(
            "{name:width$}  {}  {why}",
            styled(&format!("{word:<11}"), style),
            width = self.width
        )
    }

    /// The verdict, without what a rule has just said of it.
    fn decide(&mut self, at: Timestamp, zero: Timestamp, decision: &Decision) {
        let (word, style) = match &decision.verdict {
            Verdict::Rollback(case) => (format!("ROLLBACK {} → {}", case.from, case.to), BAD),
            Verdict::Suppressed(..) => ("SUPPRESSED".to_owned(), WARN),
            Verdict::Blocked(..) => ("BLOCKED".to_owned(), BAD),
            Verdict::Hold => return,
        };
        let told = self.stand.iter().find_map(|stand| decision.why.strip_prefix(stand.why.as_str()));
        let why = told.unwrap_or(&decision.why).trim_start_matches("; ").to_owned();
        self.say(&clock(at, zero), &format!("{}  {why}", styled(&word, style)));
    }

    /// Takes what the rules said; a rule with nothing new stands where it stood.
    fn update(&mut self, decision: &Decision) {
        let old = std::mem::take(&mut self.stand);
        let stand = |state: &RuleState| {
            let known = old.iter().find(|stand| stand.name == state.rule.as_str());
            let settled = known.filter(|known| {
                let new = !matches!(state.outcome, Outcome::Nothing | Outcome::Waiting);
                !new && known.word != "waiting" && known.streak == state.streak
            });
            settled.cloned().unwrap_or_else(|| Stand {
                name: state.rule.to_string(),
                word: match state.outcome.word() {
                    "nothing" => "waiting",
                    word => word,
                },
                streak: state.streak,
                of: state.of,
                why: state.why.clone(),
            })
        };
        self.stand = decision.rules.iter().map(stand).collect();
    }

    fn note(&mut self, note: &Note, traffic: Option<&Traffic>, time: &str) {
        let (_, words) = tell::words(note, traffic);
        let style = match note {
            Note::Blind { .. } | Note::Unreadable { .. } | Note::UnknownColor { .. } | Note::Degraded { .. } | Note::Alert { .. } => WARN,
            Note::DidNotHelp { .. } | Note::Disarmed { .. } => BAD,
            Note::Recovered | Note::Sighted { .. } | Note::Readable | Note::Rearmed { .. } => GOOD,
            _ => BOLD,
        };
        self.say(time, &styled(&words, style));
    }
}

impl<W: Write> Teller for Story<W> {
    fn begin(&mut self, header: &Header) {
        self.width = header.rules().iter().map(|rule| rule.name.as_str().len()).max().unwrap_or(0);
        let guard = header.guard.as_ref().map_or("a trace", |guard| guard.as_str());
        let rules: Vec<&str> = header.rules().iter().map(|rule| rule.name.as_str()).collect();
        let _ = writeln!(self.out, "{}, judged by {}", styled(guard, BOLD), rules.join(", "));
        if let Some(epoch) = header.epoch {
            let zero = epoch.round(Unit::Second).unwrap_or(epoch);
            let by = header
                .flipback
                .as_deref()
                .map(|by| format!(", recorded by flipback {by}"))
                .unwrap_or_default();
            let text = format!("0:00 is {}{by}", zero.strftime("%Y-%m-%d %H:%M:%S UTC"));
            let _ = writeln!(self.out, "{}", styled(&text, DIM));
        }
        let _ = writeln!(self.out);
    }

    fn look(&mut self, header: &Header, seen: &Observation, decision: &Decision) {
        let zero = header.zero();
        self.looks += 1;
        self.update(decision);
        if self.first_breach.is_none() || self.stand.iter().all(|stand| stand.streak == 0) {
            self.first_breach = self.stand.iter().any(|stand| stand.streak > 0).then_some(seen.at);
        }
        let same = |block: &Block| {
            let alike = |(a, b): (&Stand, &Stand)| (a.word, a.streak.min(a.of)) == (b.word, b.streak.min(b.of));
            block.stand.len() == self.stand.len() && block.stand.iter().zip(&self.stand).all(alike)
        };
        let exit = Exit::of(decision);
        let told = std::mem::replace(&mut self.telling, exit) == exit;
        if exit > self.gravest.0 {
            self.gravest = (exit, self.first_breach.map(|first| seen.at.duration_since(first)));
        }
        let frozen = !matches!(seen.view, View::Known(_));
        if decision.notes.is_empty() && told && (frozen || self.block.as_ref().is_some_and(same)) {
            if let Some(block) = &mut self.block {
                block.to = seen.at;
            }
            return;
        }
        self.flush(zero);
        let traffic = match &seen.view {
            View::Known(traffic) => Some(traffic.as_ref()),
            _ => None,
        };
        for note in &decision.notes {
            self.note(note, traffic, &clock(seen.at, zero));
        }
        if frozen {
            return;
        }
        self.block = Some(Block {
            from: seen.at,
            to: seen.at,
            stand: self.stand.clone(),
        });
        if exit != Exit::Held && !told {
            self.flush(zero);
            self.decide(seen.at, zero, decision);
        }
    }

    fn end(&mut self, header: &Header, exit: Exit) {
        self.flush(header.zero());
        let word = match exit {
            Exit::Held => styled("no rollback", GOOD),
            Exit::Refused => styled("no rollback, although one was called for", WARN),
            Exit::RolledBack => styled("a rollback", BAD),
        };
        let took = match self.gravest.1 {
            Some(took) if took.is_positive() => format!(", {:.0} s after its first breach", took.as_secs_f64()),
            _ => String::new(),
        };
        let looks = if self.looks == 1 { "look" } else { "looks" };
        let _ = writeln!(self.out, "\n{} {looks}: {word}{took}", self.looks);
        let _ = self.out.flush();
    }
}

/// What a rule says, and how it looks.
fn spoken(stand: &Stand) -> (String, Style) {
    // Beyond what it takes, only the number grows.
    let held = if stand.streak > stand.of {
        stand.streak.to_string()
    } else {
        format!("{}/{}", stand.streak, stand.of)
    };
    match stand.word {
        "breach" => (format!("breach {held}"), BAD),
        "inconclusive" if stand.streak > 0 => (format!("held {held}"), WARN),
        "inconclusive" => ("no verdict".to_owned(), WARN),
        "pass" => ("pass".to_owned(), GOOD),
        word if stand.streak > 0 => (format!("{word} {held}"), DIM),
        word => (word.to_owned(), DIM),
    }
}

/// `-0:05`, `1:30`, `2:00:05` from the switch.
fn clock(at: Timestamp, zero: Timestamp) -> String {
    let offset = at.duration_since(zero);
    let seconds = (offset.abs().as_secs_f64().round()) as u64;
    let sign = if offset.is_negative() && seconds > 0 { "-" } else { "" };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{sign}{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{sign}{minutes}:{seconds:02}")
    }
}
