//! A past becomes observations, poll by poll, as a daemon would have made them.
//!
//! A look that shows nothing new is left out where it cannot matter, at most for [`QUIET_MAX`]: time passes for the engine all the
//! same, and a week of three polls per scrape becomes one of them. What is new is shown at the very poll that would have seen it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::course::Course;
use crate::model::{
    Absence, Color, Counter, Evaluation, GuardSpec, Ledger, Observation, Past, Reading, Release, RuleKind, RuleName, RuleSpec, Seen, Side,
    Survey, Track, Traffic, View,
};

/// The longest time between two looks. A quarter of the time after which a guard calls itself blind.
const QUIET_MAX: Duration = Duration::from_secs(15);

/// Samples are never stale before this age; the same as live.
const STALE_FLOOR: Duration = Duration::from_secs(30);

/// Spacing assumed where it could not be measured; the same as live.
const SPACING_ASSUMED: Duration = Duration::from_secs(60);

/// For so long Prometheus itself shows a sample of a target that died without a word.
const LOOKBACK: Duration = Duration::from_secs(300);

/// The observations of one guard.
#[derive(Debug)]
pub(super) struct Reel {
    spec: Arc<GuardSpec>,
    course: VecDeque<(Timestamp, Color, Option<String>)>,
    seen: Observation,
    plays: BTreeMap<Color, BTreeMap<RuleName, Play>>,
    ready: BTreeMap<Color, Queue<u32>>,
    traffic: Traffic,
    next: Timestamp,
    loaded_to: Timestamp,
    looked: Option<Timestamp>,
}

/// Samples that are still to come, and the newest that has.
#[derive(Debug)]
struct Queue<T> {
    coming: VecDeque<(Timestamp, T)>,
    newest: Option<(Timestamp, T)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            coming: VecDeque::new(),
            newest: None,
        }
    }
}

impl<T: Copy> Queue<T> {
    fn load(&mut self, samples: impl IntoIterator<Item = (Timestamp, T)>) {
        let last = self.coming.back().map(|(at, _)| *at).or(self.newest.map(|(at, _)| at));
        let newer = samples.into_iter().filter(|(at, _)| last.is_none_or(|last| *at > last));
        self.coming.extend(newer);
    }

    /// Takes what has come by `now`; tells whether there was anything.
    fn advance(&mut self, now: Timestamp) -> bool {
        let mut moved = false;
        while self.coming.front().is_some_and(|(at, _)| *at <= now) {
            self.newest = self.coming.pop_front();
            moved = true;
        }
        moved
    }
}

/// One rule on one color.
#[derive(Debug)]
struct Play {
    counts_endpoints: bool,
    stale_after: Duration,
    /// An evaluation is as old as the poll it was made for, and no older.
    number_lasts: Duration,
    targets: BTreeMap<String, Queue<Counter>>,
    scalars: Queue<Scalar>,
    before: Option<f64>,
    absent: Option<Absence>,
}

#[derive(Clone, Copy, Debug)]
struct Scalar {
    value: f64,
    long: Option<f64>,
    requests: Option<f64>,
}

impl Reel {
    pub(super) fn new(spec: Arc<GuardSpec>, course: &Course, surveys: &[Survey], from: Timestamp) -> Self {
        let play = |color: &Color, rule: &RuleSpec| {
            let survey = surveys.iter().find(|survey| survey.color == *color && survey.rule == rule.name);
            let spacing = survey.and_then(|survey| survey.spacing).unwrap_or(SPACING_ASSUMED);
            Play {
                counts_endpoints: matches!(rule.kind, RuleKind::Endpoints(_)),
                stale_after: (spacing * 3).max(STALE_FLOOR),
                number_lasts: spec.policy.poll + Duration::from_secs(1),
                targets: BTreeMap::new(),
                scalars: Queue::default(),
                before: None,
                absent: survey.and_then(|survey| survey.objection.clone()).map(Absence::NoBucket),
            }
        };
        let plays: BTreeMap<Color, BTreeMap<RuleName, Play>> = spec
            .colors
            .keys()
            .map(|color| {
                let rules = spec.rules.iter().map(|rule| (rule.name.clone(), play(color, rule)));
                (color.clone(), rules.collect())
            })
            .collect();
        let empty = |rules: &BTreeMap<RuleName, Play>| rules.keys().map(|rule| (rule.clone(), Reading::Absent(Absence::Empty))).collect();
        let readings = plays.iter().map(|(color, rules)| (color.clone(), empty(rules))).collect();
        let traffic = traffic(&spec, course, from);
        let switches = course.switches.iter();
        Self {
            course: switches
                .map(|switch| (switch.at, switch.to.clone(), switch.release.clone()))
                .collect(),
            seen: Observation {
                at: from,
                view: View::Known(Box::new(traffic.clone())),
                readings,
                hold: None,
            },
            plays,
            ready: BTreeMap::new(),
            traffic,
            next: from,
            loaded_to: from,
            looked: None,
            spec,
        }
    }

    /// Takes the next stretch.
    pub(super) fn load(&mut self, past: &Past) {
        for (color, rules) in &mut self.plays {
            for (rule, play) in rules {
                match past.tracks.get(color).and_then(|tracks| tracks.get(rule)) {
                    Some(Track::Counters(targets)) => {
                        for (target, samples) in targets {
                            play.targets.entry(target.clone()).or_default().load(samples.iter().copied());
                        }
                    }
                    Some(Track::Scalars(samples)) => play.scalars.load(samples.iter().map(scalar)),
                    // A threshold that is no bound is known with its neighbours already.
                    Some(Track::Absent(why)) if !matches!(play.absent, Some(Absence::NoBucket(_))) => play.absent = Some(why.clone()),
                    Some(Track::Absent(_)) | None => {}
                }
                if let Some(Track::Counters(_) | Track::Scalars(_)) = past.tracks.get(color).and_then(|tracks| tracks.get(rule))
                    && !matches!(play.absent, Some(Absence::NoBucket(_)))
                {
                    play.absent = None;
                }
            }
        }
        for (color, points) in &past.ready {
            self.ready.entry(color.clone()).or_default().load(points.iter().copied());
        }
        self.loaded_to = past.to;
    }

    /// The next look that shows something, or that is due; `None` when the next stretch is needed.
    pub(super) fn next(&mut self) -> Option<&Observation> {
        while self.next <= self.loaded_to {
            let now = self.next;
            self.next = now.saturating_add(self.spec.policy.poll).unwrap_or(Timestamp::MAX);
            let moved = self.route(now);
            let newer = self.read(now);
            let quiet = self.looked.map(|looked| now.duration_since(looked).unsigned_abs());
            if moved || newer || quiet.is_none_or(|quiet| quiet >= QUIET_MAX) {
                self.looked = Some(now);
                self.seen.at = now;
                return Some(&self.seen);
            }
        }
        None
    }

    /// Follows switches and Ready endpoints; tells whether anything changed.
    fn route(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        while self.course.front().is_some_and(|(at, ..)| *at <= now) {
            if let Some((at, to, release)) = self.course.pop_front() {
                self.switch(at, to, release);
                changed = true;
            }
        }
        for (color, queue) in &mut self.ready {
            if queue.advance(now)
                && let (Some((_, ready)), Some(side)) = (queue.newest, self.traffic.sides.get_mut(color))
                && side.ready != ready
            {
                side.ready = ready;
                changed = true;
            }
        }
        if changed {
            self.seen.view = View::Known(Box::new(self.traffic.clone()));
        }
        changed
    }

    fn switch(&mut self, at: Timestamp, to: Color, release: Option<String>) {
        if to != self.traffic.active {
            // What a rule said of the color that is left, just before.
            let left: BTreeMap<RuleName, f64> = self
                .plays
                .get(&self.traffic.active)
                .into_iter()
                .flatten()
                .filter_map(|(rule, play)| Some((rule.clone(), play.scalars.newest?.1.value)))
                .collect();
            for (rule, play) in self.plays.values_mut().flatten() {
                play.before = left.get(rule).copied();
            }
            self.traffic.standby = std::mem::replace(&mut self.traffic.active, to.clone());
        }
        if let Some(side) = self.traffic.sides.get_mut(&to) {
            side.release = release.map(|id| Release { id, images: Vec::new() });
        }
        self.traffic.switched_at = Some(at);
    }

    /// Brings every reading up to `now`; tells whether any is newer.
    fn read(&mut self, now: Timestamp) -> bool {
        let mut newer = false;
        let traffic = &self.traffic;
        let counts = &self.ready;
        for ((color, plays), readings) in self.plays.iter_mut().zip(self.seen.readings.values_mut()) {
            for (play, reading) in plays.values_mut().zip(readings.values_mut()) {
                newer |= if play.counts_endpoints {
                    endpoints(traffic, counts, color, now, reading)
                } else {
                    play.read(now, reading)
                };
            }
        }
        newer
    }
}

/// Ready endpoints as they were last counted. Some are no news; none is, at every poll.
fn endpoints(traffic: &Traffic, counts: &BTreeMap<Color, Queue<u32>>, color: &Color, now: Timestamp, reading: &mut Reading) -> bool {
    let counted = counts.get(color).and_then(|queue| queue.newest);
    let fresh = counted.filter(|(at, _)| now.duration_since(*at).unsigned_abs() <= LOOKBACK);
    let Some((_, ready)) = fresh else {
        *reading = Reading::Absent(Absence::Empty);
        return false;
    };
    *reading = Reading::Ready { sample_at: now, ready };
    ready == 0 && traffic.active == *color
}

impl Play {
    fn read(&mut self, now: Timestamp, reading: &mut Reading) -> bool {
        if let Some(why) = &self.absent {
            if !matches!(reading, Reading::Absent(known) if known == why) {
                *reading = Reading::Absent(why.clone());
            }
            return false;
        }
        if self.scalars.newest.is_some() || !self.scalars.coming.is_empty() {
            return self.number(now, reading);
        }
        self.counters(now, reading)
    }

    fn number(&mut self, now: Timestamp, reading: &mut Reading) -> bool {
        let moved = self.scalars.advance(now);
        let fresh = self
            .scalars
            .newest
            .filter(|(at, _)| now.duration_since(*at).unsigned_abs() <= self.number_lasts);
        *reading = match fresh {
            None => Reading::Absent(Absence::Empty),
            Some((_, scalar)) if scalar.value.is_nan() => Reading::Absent(Absence::Nan),
            Some((_, scalar)) if scalar.value.is_infinite() => Reading::Absent(Absence::Infinite),
            Some((at, scalar)) => Reading::Scalar {
                sample_at: at,
                value: scalar.value,
                long: scalar.long,
                before: self.before,
                requests: scalar.requests,
            },
        };
        moved
    }

    fn counters(&mut self, now: Timestamp, reading: &mut Reading) -> bool {
        let (mut moved, mut newest) = (false, None);
        let oldest = now.saturating_sub(self.stale_after).unwrap_or(Timestamp::MIN);
        if !matches!(reading, Reading::Counters { .. }) {
            *reading = Reading::Counters {
                sample_at: now,
                targets: BTreeMap::new(),
            };
            // What went stale may be shown again only when it is newer: fill with what is fresh now.
            moved = true;
        }
        let Reading::Counters { sample_at, targets } = reading else {
            return false;
        };
        let refill = moved;
        for (target, queue) in &mut self.targets {
            let advanced = queue.advance(now);
            let Some((at, counter)) = queue.newest else { continue };
            newest = newest.max(Some(at));
            if at < oldest {
                targets.remove(target);
            } else if advanced || refill {
                moved |= advanced;
                match targets.get_mut(target) {
                    Some(known) => *known = counter,
                    None => {
                        targets.insert(target.clone(), counter);
                    }
                }
            }
        }
        match newest {
            Some(at) if at >= oldest => *sample_at = at,
            // Prometheus itself forgets it after a while.
            Some(at) if now.duration_since(at).unsigned_abs() <= LOOKBACK => *reading = Reading::Absent(Absence::Stale),
            Some(_) | None => *reading = Reading::Absent(Absence::Empty),
        }
        moved && matches!(reading, Reading::Counters { .. })
    }
}

fn scalar(sample: &Evaluation) -> (Timestamp, Scalar) {
    let Evaluation { at, value, long, requests } = *sample;
    (at, Scalar { value, long, requests })
}

/// The route at the beginning: able to serve on every side until somebody counted otherwise.
fn traffic(spec: &GuardSpec, course: &Course, from: Timestamp) -> Traffic {
    let able = Side {
        ready: 1,
        ..Side::default()
    };
    let standby = spec.colors.keys().find(|color| **color != course.first);
    // Without a known switch the span is one watch. With later ones, what was live at the beginning had been so for long.
    let long_ago = from.saturating_sub(spec.policy.watch).unwrap_or(Timestamp::MIN);
    Traffic {
        active: course.first.clone(),
        standby: standby.unwrap_or(&course.first).clone(),
        sides: spec.colors.keys().map(|color| (color.clone(), able.clone())).collect(),
        seen: Seen::default(),
        ledger: Ledger::default(),
        paused: None,
        switched_at: (!course.switches.is_empty()).then_some(long_ago),
        switched_by: None,
        owner: None,
    }
}
