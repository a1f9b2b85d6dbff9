//! A service and the Prometheus that scrapes it, in milliseconds of simulated time.
//!
//! Requests reach each pod as a Poisson process; each fails, and is slow, by a lot of its own. Every pod is scraped at a
//! phase of its own, as Prometheus spreads its targets, with a little jitter; now and then a scrape fails, and the
//! pod's series are then missing until the next one. Pods restart (their counters begin at 0, their error series not
//! before the first error) and are replaced. What is read at a poll is what the newest scrapes brought.

use std::collections::BTreeMap;

use flipback::model::{Counter, Reading};

use super::{chance::Chance, guard::at};

/// A share of requests over time.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// What is always there.
    pub background: f64,
    /// What comes in its place while there is a fault.
    pub fault: f64,
    /// When there is one.
    pub when: When,
}

/// When there is a fault, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Never.
    Never,
    /// From then on.
    From(i64),
    /// Once, for so long.
    Once(i64, i64),
    /// So long, again and again after every so long.
    Every(i64, i64, i64),
}

impl When {
    /// How much of `from..to` is fault.
    fn within(self, from: i64, to: i64) -> i64 {
        let overlap = |begin: i64, end: i64| (to.min(end) - from.max(begin)).max(0);
        match self {
            Self::Never => 0,
            Self::From(begin) => overlap(begin, i64::MAX),
            Self::Once(begin, length) => overlap(begin, begin + length),
            Self::Every(begin, length, every) => {
                let first = (from - begin).max(0) / every;
                let last = (to - begin).max(0) / every;
                (first..=last).map(|n| overlap(begin + n * every, begin + n * every + length)).sum()
            }
        }
    }

    /// The same, so much later.
    pub fn later(self, by: i64) -> Self {
        match self {
            Self::Never => Self::Never,
            Self::From(begin) => Self::From(begin + by),
            Self::Once(begin, length) => Self::Once(begin + by, length),
            Self::Every(begin, length, every) => Self::Every(begin + by, length, every),
        }
    }
}

impl Weather {
    /// The same share at all times.
    pub fn calm(background: f64) -> Self {
        Self {
            background,
            fault: background,
            when: When::Never,
        }
    }

    /// The mean share of `from..to`.
    fn mean(&self, from: i64, to: i64) -> f64 {
        let span = (to - from).max(1) as f64;
        let fault = self.when.within(from, to) as f64 / span;
        self.background + (self.fault - self.background) * fault
    }
}

/// How a color is served and scraped.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Requests per second on all pods together.
    pub rate: f64,
    /// From when to when they come.
    pub serves: (i64, i64),
    /// Failing requests.
    pub errors: Weather,
    /// Slow ones.
    pub slow: Weather,
    /// Milliseconds between two scrapes of a pod.
    pub scrape: i64,
    /// Scrapes that fail.
    pub missed: f64,
    /// Whether Prometheus tells when a process started.
    pub tells_start: bool,
    /// Whether pods restart and are replaced, each about three times an hour.
    pub churn: bool,
}

const CHURN: f64 = 20.0 * 60.0 * 1000.0;
/// A restarted container is back after so long.
const RESTART: i64 = 2000;
const JITTER: i64 = 100;

/// One pod as Prometheus knows it.
#[derive(Clone, Debug)]
struct Pod {
    name: String,
    started: i64,
    /// Counted until.
    counted: i64,
    next: i64,
    total: f64,
    bad: f64,
    slow: f64,
    /// Whether there was an error since it started.
    has_bad: bool,
    /// Time of the newest sample; none before the first scrape and while the last one failed.
    sample: Option<i64>,
    fails_at: i64,
}

/// A color's pods.
#[derive(Clone, Debug)]
pub struct Fleet {
    setting: Setting,
    color: &'static str,
    pods: Vec<Pod>,
    born: usize,
}

impl Fleet {
    /// Pods that have been running for a while before `from`.
    pub fn new(color: &'static str, pods: usize, from: i64, setting: Setting, chance: &mut Chance) -> Self {
        let mut fleet = Self {
            setting,
            color,
            pods: Vec::new(),
            born: 0,
        };
        for _ in 0..pods {
            let mut pod = fleet.pod(from, chance);
            pod.started = from - 3_600_000 - chance.below(3_600_000);
            pod.total = chance.below(1_000_000) as f64;
            pod.bad = chance.among(pod.total, setting.errors.background);
            pod.slow = chance.among(pod.total, setting.slow.background);
            pod.has_bad = pod.bad > 0.0;
            fleet.pods.push(pod);
        }
        fleet
    }

    fn pod(&mut self, born: i64, chance: &mut Chance) -> Pod {
        self.born += 1;
        Pod {
            name: format!("{}-{}", self.color, self.born),
            started: born,
            counted: born,
            next: born + chance.below(self.setting.scrape),
            total: 0.0,
            bad: 0.0,
            slow: 0.0,
            has_bad: false,
            sample: None,
            fails_at: if self.setting.churn { born + chance.wait(CHURN) } else { i64::MAX },
        }
    }

    /// Lets everything happen up to `now`.
    pub fn advance(&mut self, now: i64, chance: &mut Chance) {
        for index in 0..self.pods.len() {
            while self.pods[index].next <= now {
                self.fail(index, chance);
                self.scrape(index, chance);
            }
        }
    }

    /// Restarts or replaces a pod whose time has come.
    fn fail(&mut self, index: usize, chance: &mut Chance) {
        let (when, back) = (self.pods[index].fails_at, self.pods[index].fails_at.saturating_add(RESTART));
        if self.pods[index].next < back {
            return;
        }
        if chance.happens(0.5) {
            let fresh = self.pod(when, chance);
            self.pods[index] = fresh;
        } else {
            let pod = &mut self.pods[index];
            (pod.started, pod.counted) = (back, back);
            (pod.total, pod.bad, pod.slow, pod.has_bad) = (0.0, 0.0, 0.0, false);
            pod.fails_at = back + chance.wait(CHURN);
        }
    }

    fn scrape(&mut self, index: usize, chance: &mut Chance) {
        let (setting, pods) = (self.setting, self.pods.len() as f64);
        let pod = &mut self.pods[index];
        let now = pod.next;
        pod.next = now - now.rem_euclid(1) + setting.scrape + chance.below(JITTER) - JITTER / 2;
        if chance.happens(setting.missed) {
            pod.sample = None;
            return;
        }
        let (from, to) = (pod.counted.max(setting.serves.0), now.min(setting.serves.1));
        if to > from {
            let mean = setting.rate / pods * (to - from) as f64 / 1000.0;
            let share = setting.errors.mean(from, to);
            let (bad, good) = (chance.arrivals(mean * share), chance.arrivals(mean * (1.0 - share)));
            pod.total += bad + good;
            pod.bad += bad;
            pod.has_bad |= bad > 0.0;
            pod.slow += chance.among(bad + good, setting.slow.mean(from, to));
        }
        pod.counted = now;
        pod.sample = Some(now);
    }

    /// What Prometheus answers: (errors, latency); `None` when no target has a sample.
    pub fn read(&self) -> Option<(Reading, Reading)> {
        let newest = self.pods.iter().filter_map(|pod| pod.sample).max()?;
        let (mut errors, mut slow) = (BTreeMap::new(), BTreeMap::new());
        for pod in self.pods.iter().filter(|pod| pod.sample.is_some()) {
            let counter = |bad| Counter {
                started: self.setting.tells_start.then(|| at(pod.started)),
                sample_at: pod.sample.map(at),
                total: pod.total,
                bad,
            };
            errors.insert(pod.name.clone(), counter(pod.has_bad.then_some(pod.bad)));
            slow.insert(pod.name.clone(), counter(Some(pod.slow)));
        }
        let reading = |targets| Reading::Counters {
            sample_at: at(newest),
            targets,
        };
        Some((reading(errors), reading(slow)))
    }

    /// The newest sample of each pod, for the script: name, time, all requests, bad ones where that series exists.
    pub fn samples(&self) -> impl Iterator<Item = (&str, i64, f64, Option<f64>)> {
        self.pods
            .iter()
            .filter_map(|pod| Some((pod.name.as_str(), pod.sample?, pod.total, pod.has_bad.then_some(pod.bad))))
    }
}
