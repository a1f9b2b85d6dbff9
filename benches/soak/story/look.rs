//! What the daemon shows, compared with what it has to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{Affair, FLIP_LIMIT, REST, SEEN_APART_MAX, Stage, Story, TAKEN_LIMIT, second};
use crate::{house::Entry, model::Shown, script::Side};

impl Story {
    /// Compares what the daemon shows with what it has to.
    pub(super) async fn look(&mut self) {
        let Some(status) = self.house.status().await else { return };
        let now = second();
        self.taken(&status);
        let apart = std::mem::replace(&mut self.seen, Instant::now()).elapsed();
        let missed = apart > SEEN_APART_MAX;
        self.tally.resyncs += u64::from(missed);
        self.tally.statuses += 1;
        let names: BTreeMap<String, usize> = self.configured().collect();
        for guard in status["guards"].as_array().into_iter().flatten() {
            let shop = guard["guard"].as_str().and_then(|name| names.get(name));
            let Some((&shop, shown)) = shop.zip(shown(guard)) else { continue };
            if missed {
                self.models[shop].adopt(&shown);
            } else if let Err(why) = self.models[shop].look(&self.script, &shown, now) {
                let name = guard["guard"].as_str().unwrap_or_default();
                self.complain(format!("{name} in second {now}: {why}"));
                self.models[shop].adopt(&shown);
            }
            self.follow(shop, shown.active, now);
        }
    }

    /// The guards of the configuration in force, by name.
    pub(super) fn configured(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        let named = |entry: &Entry| (format!("{}/{}", self.shops[entry.shop].namespace, entry.name), entry.shop);
        self.plan.guards.iter().map(named)
    }

    /// Learns where traffic is by now.
    pub(super) fn follow(&mut self, shop: usize, active: Side, now: u64) {
        let affair = &mut self.affairs[shop];
        match affair.stage {
            Stage::Bad { from, seen: true } if active != affair.active => {
                *affair = Affair {
                    active,
                    stage: Stage::Resting { until: now + REST },
                };
                *self.tally.flipped.entry(shop).or_default() += 1;
                self.tally.took.push(now.saturating_sub(from) as f64);
                if now < from {
                    self.complain(format!("shop {shop} was flipped before its release turned bad"));
                }
            }
            Stage::Bad { from, seen: false } if active == affair.active => affair.stage = Stage::Bad { from, seen: true },
            Stage::Bad { from, .. } if now > from + FLIP_LIMIT => {
                affair.stage = Stage::Resting { until: now + REST };
                let bad = affair.active;
                self.script.mend(shop, bad, now + 1);
                self.complain(format!(
                    "shop {shop} is bad on {} since second {from}, and was not flipped",
                    bad.name()
                ));
            }
            Stage::Unsure { until } if now > until => {
                *affair = Affair {
                    active,
                    stage: Stage::Idle,
                };
            }
            Stage::Resting { until } if now > until => {
                affair.stage = Stage::Idle;
                let expected = affair.active;
                if active != expected {
                    affair.active = active;
                    self.complain(format!("shop {shop} is on {} and has to be on {}", active.name(), expected.name()));
                }
            }
            Stage::Idle | Stage::Bad { .. } | Stage::Unsure { .. } | Stage::Resting { .. } => {}
        }
    }

    /// Notices whether a changed configuration was taken.
    pub(super) fn taken(&mut self, status: &Value) {
        let hash = status["config"]["hash"].as_str().unwrap_or_default();
        hash.clone_into(&mut self.hash);
        let Some(change) = &self.change else { return };
        let done = if change.refused {
            !status["config"]["refused"].is_null()
        } else {
            hash != change.before
        };
        if done {
            self.changed = Instant::now();
            if change.refused {
                self.tally.refusals += 1;
            } else {
                self.tally.reloads += 1;
            }
            for shop in self.change.take().map(|change| change.anew).unwrap_or_default() {
                self.models[shop].anew();
            }
        } else if change.written.elapsed() > TAKEN_LIMIT {
            let why = status["config"]["refused"]["why"].as_str().unwrap_or_default().to_owned();
            self.change = None;
            self.complain(format!(
                "a changed configuration was neither taken nor refused within {TAKEN_LIMIT:?}: {why}"
            ));
        }
    }

    /// Measures.
    pub(super) async fn read(&mut self) {
        let Some(metrics) = self.house.metrics().await else { return };
        self.readings.push(self.gauge.read(&metrics));
        // What carries messages to chats that are gone is given a second to end.
        if self.change.is_some() || self.changed.elapsed() < Duration::from_secs(5) {
            return;
        }
        let guards: BTreeSet<String> = self.configured().map(|(name, _)| name).collect();
        let chats: BTreeSet<String> = self.plan.chats.iter().cloned().collect();
        for (label, known) in [("guard", guards), ("chat", chats)] {
            let strays = strays(&metrics, label, &known);
            if !strays.is_empty() {
                self.tally.strays += strays.len() as u64;
                self.complain(format!("series of a {label} that is not configured: {strays:?}"));
            }
        }
    }
}

/// The values of a label that are none of those that are `known`.
fn strays(metrics: &BTreeMap<String, f64>, label: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let start = format!("{label}=\"");
    let value = |series: &String| {
        let (_, rest) = series.split_once(&start)?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    metrics.keys().filter_map(value).filter(|value| !known.contains(value)).collect()
}

/// What a status says of a guard's error rate; `None` before the first look at it, or while its route is not known.
fn shown(guard: &Value) -> Option<Shown> {
    let rules = guard["rules"].as_array()?;
    let rule = rules.iter().find(|rule| rule["rule"] == "error_rate")?;
    let active = guard["active"].as_str()?;
    let color = guard["colors"].as_array()?.iter().find(|color| color["color"] == active)?;
    Some(Shown {
        active: Side::named(active)?,
        release: color["release"]["id"].as_str().unwrap_or_default().to_owned(),
        history: rule["history"].as_array()?.iter().filter_map(Value::as_f64).collect(),
        streak: u32::try_from(rule["streak"].as_u64()?).ok()?,
        switches: guard["events"].as_array()?.iter().filter_map(switch).collect(),
    })
}

/// The second of a line that tells of a switch.
fn switch(event: &Value) -> Option<u64> {
    let at: jiff::Timestamp = event["at"].as_str()?.parse().ok()?;
    let is_one = event["what"].as_str()?.contains(" is live");
    u64::try_from(at.as_second()).ok().filter(|_| is_one)
}
