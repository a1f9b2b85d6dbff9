//! What is true of the two colors, whoever sees it: releases, their errors, their pods, the requests they answered.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use flipback::model::Counter;
use jiff::Timestamp;
use serde_json::Value;

use crate::{chance::Chance, measure::Scrape};

/// The colors' names.
pub const COLORS: [&str; 2] = ["blue", "green"];
/// From this share of errors a color is bad; every release is far below 5 % or above this.
pub const BAD: f64 = 0.1;
/// Scrapes that are remembered.
const SCRAPES: usize = 12;

/// Before this the world's first pods are still coming up.
const SETTLED: Duration = Duration::from_secs(8);

/// The other color.
pub fn other(color: &str) -> &'static str {
    if color == "blue" { "green" } else { "blue" }
}

/// One color.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Number of its release; each has its own pod template.
    pub release: u32,
    /// Since when it is deployed.
    pub released: Duration,
    /// Share of errors it answers with, from then on.
    pub share: f64,
    pub share_from: Duration,
    /// None of its pods can get Ready.
    pub down: bool,
    /// Ready pods.
    pub ready: u32,
    /// Since when it could not take over; `None`: it can.
    pub unable: Option<Duration>,
    /// When it was last bad while it served.
    pub last_bad: Option<Duration>,
    /// When it last had no Ready pod at all.
    pub last_empty: Option<Duration>,
}

/// Requests that a pod answered.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    started: Timestamp,
    total: f64,
    bad: f64,
}

/// Everything that is true.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub sides: BTreeMap<&'static str, Side>,
    /// A share of errors that both colors answer with: what they both need is broken.
    pub shared: f64,
    /// Requests per second.
    pub rate: f64,
    /// The share of them that still reach the color that is not active.
    pub leftover: f64,
    pub counts: BTreeMap<String, Count>,
    pub scrapes: VecDeque<Scrape>,
}

impl Truth {
    pub fn side(&self, color: &str) -> &Side {
        self.sides.get(color).expect("both colors are there")
    }

    pub fn side_mut(&mut self, color: &str) -> &mut Side {
        self.sides.get_mut(color).expect("both colors are there")
    }

    /// The share of errors that a color answers with.
    pub fn share(&self, color: &str, now: Duration) -> f64 {
        let side = self.side(color);
        let own = if now >= side.share_from { side.share } else { 0.002 };
        own.max(self.shared)
    }

    /// Whether users of a color are served badly.
    pub fn bad(&self, color: &str, now: Duration) -> bool {
        self.side(color).ready == 0 || self.share(color, now) >= BAD
    }

    /// How many Ready pods a color needs to take over from the other one.
    pub fn needed(&self, color: &str) -> u32 {
        self.side(other(color)).ready.div_ceil(2).max(1)
    }

    /// Takes note of how many pods are Ready, by color.
    pub fn count_ready(&mut self, ready: &BTreeMap<String, u32>, now: Duration) {
        for color in COLORS {
            self.side_mut(color).ready = ready.get(color).copied().unwrap_or_default();
        }
        for color in COLORS {
            let needed = self.needed(color);
            let side = self.side_mut(color);
            side.unable = if side.ready >= needed { None } else { side.unable.or(Some(now)) };
            if side.ready == 0 {
                side.last_empty = Some(now);
            }
        }
    }

    /// A second of users.
    pub fn serve(&mut self, active: Option<&str>, pods: &[(String, String, bool)], at: Timestamp, now: Duration, chance: &mut Chance) {
        let wobble = 0.8 + 0.4 * chance.between(0, 1000) as f64 / 1000.0;
        for color in COLORS {
            let ready: Vec<&String> = pods
                .iter()
                .filter(|(_, of, ready)| of == color && *ready)
                .map(|(name, ..)| name)
                .collect();
            let part = if active == Some(color) { 1.0 } else { self.leftover };
            let each = self.rate * wobble * part / ready.len().max(1) as f64;
            let share = self.share(color, now);
            if active == Some(color) && now >= SETTLED && self.bad(color, now) {
                self.side_mut(color).last_bad = Some(now);
            }
            for name in ready {
                let count = self.counts.entry(name.clone()).or_insert(Count {
                    started: at,
                    total: 0.0,
                    bad: 0.0,
                });
                // Whole requests: what is bad must never be more than what there was, at any two scrapes.
                let whole = (count.total + each).floor() - count.total.floor();
                count.total += each;
                count.bad += whole * share;
            }
        }
        self.counts.retain(|name, _| pods.iter().any(|(pod, ..)| pod == name));
    }

    /// Restarts the processes of a color: their counters begin anew.
    pub fn restart(&mut self, pods: &[(String, String, bool)], color: &str, at: Timestamp) {
        for (name, ..) in pods.iter().filter(|(_, of, _)| of == color) {
            let fresh = Count {
                started: at,
                total: 0.0,
                bad: 0.0,
            };
            self.counts.insert(name.clone(), fresh);
        }
    }

    /// Prometheus looks at every Ready pod.
    pub fn scrape(&mut self, pods: &[(String, String, bool)], at: Timestamp) {
        let mut scrape = Scrape { at, ..Scrape::default() };
        for (name, color, _) in pods.iter().filter(|(.., ready)| *ready) {
            let Some(count) = self.counts.get(name) else { continue };
            let counter = Counter {
                started: Some(count.started),
                sample_at: None,
                total: count.total.floor(),
                bad: Some(count.bad.floor()),
            };
            scrape.colors.entry(color.clone()).or_default().insert(name.clone(), counter);
        }
        self.scrapes.push_back(scrape);
        if self.scrapes.len() > SCRAPES {
            self.scrapes.pop_front();
        }
    }

    /// The newest scrape, or one of some time ago.
    pub fn scraped(&self, stale: bool) -> Option<Scrape> {
        let found = if stale { self.scrapes.front() } else { self.scrapes.back() };
        found.cloned()
    }
}

/// The Deployment of a color's release.
pub fn deployment(color: &str, release: u32, replicas: u32) -> Value {
    let labels = serde_json::json!({ "app": "web", "color": color });
    serde_json::json!({
        "metadata": { "name": format!("web-{color}"), "labels": labels },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{
                    "name": "app",
                    "image": format!("registry.example/shop/web:1.{release}.0"),
                    "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
                }] },
            },
        },
    })
}

/// The Service of a name, on a color.
pub fn service(name: &str, color: &str) -> Value {
    serde_json::json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": {
            "selector": { "app": "web", "color": color },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    })
}
