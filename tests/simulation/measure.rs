//! Prometheus as the daemons meet it: counters of what truly happened, scraped now and then, and every way of not
//! telling it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flipback::{
    model::{Absence, Color, Counter, GuardId, GuardSpec, Reading, RuleKind, RuleName, Series, View},
    observe::{Measure, ObserveError, Readings},
};
use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;

use crate::world::World;

/// A sample older than this says nothing: three scrapes of 10 s.
const STALE_SECONDS: i64 = 30;

/// How a question to Prometheus goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    /// No answer in time.
    Timeout,
    /// An answer, but late.
    Slow(Duration),
    /// HTTP 500.
    Error,
    /// 0/0.
    Nan,
    /// 1/0.
    Infinite,
    /// Counters below zero.
    Negative,
    /// More bad requests than requests.
    Impossible,
    /// No series at all.
    Empty,
    /// Only some of it, with a warning.
    Partial,
    /// What was true some scrapes ago.
    Stale,
    /// Bad requests without their total: the other series is missing.
    Halved,
}

impl Lie {
    pub const ALL: [Self; 11] = [
        Self::Timeout,
        Self::Slow(Duration::from_millis(3500)),
        Self::Error,
        Self::Nan,
        Self::Infinite,
        Self::Negative,
        Self::Impossible,
        Self::Empty,
        Self::Partial,
        Self::Stale,
        Self::Halved,
    ];

    /// Whether it leaves a look without anything to judge.
    pub fn blinds(self) -> bool {
        !matches!(self, Self::Slow(_) | Self::Stale)
    }
}

/// What was scraped at one time: by color, by pod.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub at: Timestamp,
    pub colors: BTreeMap<String, BTreeMap<String, Counter>>,
}

/// One daemon's view of Prometheus.
pub struct Prometheus {
    pub world: World,
    pub daemon: usize,
    pub guards: Vec<Arc<GuardSpec>>,
    /// What this life of the daemon was last shown of each color: bad and all requests.
    pub shown: std::sync::Mutex<BTreeMap<Color, (Timestamp, f64, f64)>>,
}

impl Measure for Prometheus {
    fn observe<'a>(&'a self, views: &'a BTreeMap<GuardId, View>, now: Timestamp) -> BoxFuture<'a, Readings> {
        async move {
            let lie = self.world.lie(self.daemon);
            match lie {
                Some(Lie::Timeout) => tokio::time::sleep(Duration::from_secs(4)).await,
                Some(Lie::Slow(by)) => tokio::time::sleep(by).await,
                _ => tokio::time::sleep(Duration::from_millis(8)).await,
            }
            let mut readings = Readings::new();
            for spec in &self.guards {
                let Some(view) = views.get(&spec.id) else { continue };
                let of = |color: &Color| -> BTreeMap<RuleName, Reading> {
                    let rules = spec.rules.iter();
                    rules
                        .map(|rule| (rule.name.clone(), self.reading(&rule.kind, view, color, lie, now)))
                        .collect()
                };
                readings.insert(
                    spec.id.clone(),
                    spec.colors.keys().map(|color| (color.clone(), of(color))).collect(),
                );
            }
            readings
        }
        .boxed()
    }

    fn range<'a>(
        &'a self,
        guard: &'a GuardId,
        _: Timestamp,
        _: Timestamp,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<Series>, ObserveError>> {
        async move {
            match self.world.lie(self.daemon) {
                Some(lie) if lie.blinds() => Err(ObserveError::Query {
                    guard: guard.clone(),
                    why: format!("simulated: {lie:?}"),
                }),
                _ => Ok(Vec::new()),
            }
        }
        .boxed()
    }
}

impl Prometheus {
    fn reading(&self, kind: &RuleKind, view: &View, color: &Color, lie: Option<Lie>, now: Timestamp) -> Reading {
        match kind {
            RuleKind::Endpoints(_) => ready(view, color, now),
            _ => self.counters(view, color, lie),
        }
    }

    fn counters(&self, view: &View, color: &Color, lie: Option<Lie>) -> Reading {
        let scrape = self.world.scrape(lie == Some(Lie::Stale));
        let Some((sample_at, mut targets)) = scrape.and_then(|mut scrape| Some((scrape.at, scrape.colors.remove(color.as_str())?))) else {
            return Reading::Absent(Absence::Empty);
        };
        // What the daemon's own reader of Prometheus makes of it.
        if self.world.now().duration_since(sample_at).as_secs() > STALE_SECONDS {
            return Reading::Absent(Absence::Stale);
        }
        let twist = |targets: &mut BTreeMap<String, Counter>, how: fn(&mut Counter)| targets.values_mut().for_each(how);
        match lie {
            Some(Lie::Timeout) => return Reading::Absent(Absence::Timeout),
            Some(Lie::Error) => return Reading::Absent(Absence::Error("Prometheus answered 500".into())),
            Some(Lie::Nan) => twist(&mut targets, |counter| counter.total = f64::NAN),
            Some(Lie::Infinite) => twist(&mut targets, |counter| counter.bad = Some(f64::INFINITY)),
            Some(Lie::Negative) => twist(&mut targets, |counter| counter.total = -1.0),
            Some(Lie::Impossible) => twist(&mut targets, |counter| counter.bad = Some(counter.total * 2.0 + 1000.0)),
            Some(Lie::Empty) => return Reading::Absent(Absence::Empty),
            Some(Lie::Partial) => return Reading::Absent(Absence::Partial("a store did not answer".into())),
            Some(Lie::Halved) => return Reading::Absent(Absence::Empty),
            Some(Lie::Stale | Lie::Slow(_)) | None => {}
        }
        if matches!(lie, None | Some(Lie::Slow(_) | Lie::Stale)) {
            self.note(view, color, sample_at, &targets);
        }
        Reading::Counters { sample_at, targets }
    }

    /// Remembers what this daemon was soundly shown: errors of the active color since its last sample.
    fn note(&self, view: &View, color: &Color, sample_at: Timestamp, targets: &BTreeMap<String, Counter>) {
        let View::Known(traffic) = view else { return };
        let sum = |of: fn(&Counter) -> f64| targets.values().map(of).sum::<f64>();
        let (bad, total) = (sum(|counter| counter.bad.unwrap_or_default()), sum(|counter| counter.total));
        let mut shown = self.shown.lock().expect("no panic while held");
        let before = shown.insert(color.clone(), (sample_at, bad, total));
        if traffic.active != *color {
            return;
        }
        if let Some((then, was_bad, _)) = before
            && sample_at > then
            && bad > was_bad
        {
            self.world.judge(|judge| judge.shown_errors(self.daemon, color.as_str()));
        }
    }
}

/// Ready endpoints as the daemon's own caches tell them.
fn ready(view: &View, color: &Color, now: Timestamp) -> Reading {
    let View::Known(traffic) = view else {
        return Reading::Absent(Absence::Error("the route cannot be read".into()));
    };
    match traffic.sides.get(color) {
        Some(side) if !side.unwatched => Reading::Ready {
            sample_at: now,
            ready: side.ready,
        },
        Some(_) => Reading::Absent(Absence::Error("the watch of the cluster is lost".into())),
        None => Reading::Absent(Absence::Empty),
    }
}
