//! What the daemon's streaks have to be, worked out from the script alone and compared to the last one.
//!
//! The status shows of a rule the values it was judged by lately, its streak, and the active color; nothing else of it is believed. A value
//! is a share of bad requests, and a share tells from which seconds of which color it was made ([`Script`]). So it can be said of every
//! single judgement: that it was made of requests that no other judgement was made of, that no request between two of them was left out,
//! that none of them is from before the switch, and how many in a row were bad.

use super::script::{Script, Side, THRESHOLD};

/// Seconds that a judgement may lie behind the one before: the longest silence that is scripted, and some.
const SILENCE_MAX: u64 = 150;
/// Seconds between two statuses of a guard, at most, where all is well.
const APART: u64 = 6;
/// A judgement is of requests up to so many seconds before it, where all is well.
const TOLD_LATE: u64 = 3;
/// Values that a status shows.
const SHOWN: usize = 60;

/// What is known of one guard.
#[derive(Clone, Debug)]
pub struct Model {
    guard: usize,
    /// The active color as last seen, and its release.
    active: Option<(Side, String)>,
    /// The values as last shown.
    shown: Vec<f64>,
    /// The last seconds of all that the newest judgement may have been made of; empty: it is the first on this color.
    ends: Vec<u64>,
    /// No evidence may be from before this second, and what that will be once the next switch is seen.
    floor: u64,
    next_floor: u64,
    streak: u32,
    /// Judgements that were told from which seconds they were made.
    pub judgements: u64,
    /// Streaks that were compared.
    pub compared: u64,
}

/// What a status says of a guard's error rate.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The active color.
    pub active: Side,
    /// What it runs.
    pub release: String,
    /// Newest judged values, oldest first.
    pub history: Vec<f64>,
    /// Breaches in a row.
    pub streak: u32,
    /// The seconds in which it told of switches, newest first.
    pub switches: Vec<u64>,
}

impl Model {
    /// Knows nothing of a guard yet.
    #[must_use]
    pub fn new(guard: usize) -> Self {
        Self {
            guard,
            active: None,
            shown: Vec::new(),
            ends: Vec::new(),
            floor: 0,
            next_floor: 0,
            streak: 0,
            judgements: 0,
            compared: 0,
        }
    }

    /// It is judged anew: its configuration was changed, or it came back.
    pub fn anew(&mut self) {
        let known = Self::new(self.guard);
        *self = Self {
            judgements: self.judgements,
            compared: self.compared,
            next_floor: self.next_floor,
            ..known
        };
    }

    /// Goes on from a status without comparing it: what it shows is none of what is judged from here on.
    pub fn adopt(&mut self, shown: &Shown) {
        self.active = Some((shown.active, shown.release.clone()));
        self.shown.clone_from(&shown.history);
        self.ends.clear();
        self.streak = shown.streak;
    }

    /// Traffic is moved in this second at the earliest: what was counted before is not to be judged.
    pub fn moved(&mut self, second: u64) {
        self.next_floor = second;
    }

    /// Compares a status, fetched in the second `now`, with what it has to be.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn look(&mut self, script: &Script, shown: &Shown, now: u64) -> Result<(), String> {
        let fresh = self.fresh(&shown.history)?;
        let fresh = fresh.as_slice();
        // Another release on the same color is a switch too: of the two watches, that of Services may be the quicker one.
        let active = (shown.active, shown.release.clone());
        // A configuration and a switch between two statuses: nothing tells from which color the values before the switch are.
        if self.active.is_none() && shown.switches.first().is_some_and(|newest| newest + APART >= now) {
            self.adopt(shown);
            self.floor = self.next_floor;
            return Ok(());
        }
        let Some((before, _)) = self.active.take().filter(|before| *before != active) else {
            return self.follow(script, shown, fresh, now);
        };
        // What was judged between the last status and the switch. On the same color, what was made of requests up to about the second of
        // the switch may have been judged before it and after it: the streak tells.
        let newest = shown.switches.first().filter(|_| before == shown.active).copied();
        let (mut least, mut most) = (0, 0);
        let mut former = self.clone();
        while fresh
            .get(most)
            .is_some_and(|value| former.take(script, before, *value, now, 0).is_ok())
        {
            most += 1;
            let surely = newest.is_none_or(|newest| former.ends.iter().all(|end| end + TOLD_LATE < newest));
            least = if surely { most } else { least };
        }
        let mut wrong = None;
        for known in (least..=most).rev() {
            let mut one = self.clone();
            one.judgements += known as u64;
            match one.switched(script, shown, &fresh[known..], now) {
                Ok(()) => {
                    *self = one;
                    return Ok(());
                }
                Err(why) => wrong = wrong.or(Some((one, why))),
            }
        }
        let Some((one, why)) = wrong else { return Ok(()) };
        *self = one;
        Err(why)
    }

    /// Follows what was judged since a switch.
    fn switched(&mut self, script: &Script, shown: &Shown, fresh: &[f64], now: u64) -> Result<(), String> {
        self.ends.clear();
        self.streak = 0;
        self.floor = self.next_floor;
        // Two switches between two statuses, the color's and then its release's: what was judged between them is in no streak.
        // A value of the very second of the second one may be from before it and from after it: the streak tells.
        let between = fresh
            .iter()
            .take_while(|value| self.is_between(script, shown, **value, now))
            .count();
        let mut twice = self.clone();
        if between > 0 && twice.follow(script, shown, &fresh[between..], now).is_ok() {
            *self = twice;
            return Ok(());
        }
        self.follow(script, shown, fresh, now)
    }

    /// Takes what was judged of the color that is live, and compares the streak.
    fn follow(&mut self, script: &Script, shown: &Shown, fresh: &[f64], now: u64) -> Result<(), String> {
        self.active = Some((shown.active, shown.release.clone()));
        for value in fresh {
            self.take(script, shown.active, *value, now, self.floor)?;
        }
        self.shown.clone_from(&shown.history);
        if shown.streak != self.streak {
            return Err(format!(
                "its streak is {} and has to be {}: the last values are {:?}",
                shown.streak,
                self.streak,
                &shown.history[shown.history.len().saturating_sub(8)..]
            ));
        }
        self.compared += 1;
        Ok(())
    }

    /// Whether a value is of the color that is live, from after the traffic was moved there, and from before a second switch that
    /// followed at once.
    fn is_between(&self, script: &Script, shown: &Shown, value: f64, now: u64) -> bool {
        let [newest, before, ..] = shown.switches[..] else { return false };
        if before + APART < now {
            return false;
        }
        let starts: Vec<u64> = (self.floor.max(script.begun())..now).collect();
        let ends = spans(script, (self.guard, shown.active), value, &starts, now);
        !ends.is_empty() && ends.iter().all(|end| *end <= newest)
    }

    /// What was not shown the last time.
    fn fresh(&self, history: &[f64]) -> Result<Vec<f64>, String> {
        let same = |one: &[f64], other: &[f64]| one.iter().zip(other).all(|(one, other)| one.to_bits() == other.to_bits());
        for known in (0..=self.shown.len().min(history.len())).rev() {
            let (end, start) = (&self.shown[self.shown.len() - known..], &history[..known]);
            let new = history.len() - known;
            // What is shown no longer was pushed out by what is new.
            let room = known == self.shown.len() || history.len() == SHOWN;
            if room && same(end, start) && (known > 0 || self.shown.is_empty()) {
                return Ok(history[history.len() - new..].to_vec());
            }
        }
        Err(format!(
            "none of the {} values that it showed is among the {} it shows now: judgements are lost",
            self.shown.len(),
            history.len()
        ))
    }

    fn take(&mut self, script: &Script, side: Side, value: f64, now: u64, floor: u64) -> Result<(), String> {
        let first = self.ends.is_empty();
        let starts: Vec<u64> = if first {
            let earliest = now.saturating_sub(SILENCE_MAX).max(floor).max(script.begun());
            (earliest..now).collect()
        } else {
            self.ends.clone()
        };
        let found = spans(script, (self.guard, side), value, &starts, now);
        if found.is_empty() {
            let what = if first {
                format!("the first value on {} after second {floor}", side.name())
            } else {
                format!("the value on {} after that of second {:?}", side.name(), self.ends)
            };
            return Err(format!(
                "{what}, {value}, is the share of no seconds that follow: requests are left out, or counted twice"
            ));
        }
        self.ends = found;
        self.streak = if value > THRESHOLD { self.streak + 1 } else { 0 };
        self.judgements += 1;
        Ok(())
    }
}

/// The seconds with which a span may end that has this share of bad requests and begins after one of `starts`.
fn spans(script: &Script, (guard, side): (usize, Side), value: f64, starts: &[u64], now: u64) -> Vec<u64> {
    let Some(low) = starts.iter().min().copied() else {
        return Vec::new();
    };
    // Asked for once: there are thousands of spans.
    let bad: Vec<u64> = (low..=now).map(|second| script.bad(guard, side, second)).collect();
    let requests = Script::requests(guard, side);
    let mut ends = Vec::new();
    for after in starts.iter().filter(|after| **after < now) {
        let rest = bad.iter().zip(low..).skip_while(|(_, second)| second <= after);
        let Some(before) = bad.get(usize::try_from(after - low).unwrap_or(usize::MAX)) else {
            continue;
        };
        for (upto, second) in rest.take_while(|(_, second)| second - after <= SILENCE_MAX) {
            let share = (upto - before) as f64 / ((second - after) * requests) as f64;
            if share.to_bits() == value.to_bits() {
                ends.push(second);
            }
        }
    }
    ends
}
