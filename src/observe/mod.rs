//! What is measured: the rules of all guards, on all of their colors, in one look.
//!
//! A look never fails and never outlasts its deadline: what could not be measured is an [`Absence`] that says why, per rule and color, and
//! one guard's trouble is not another's. Counters are handed on raw, per scrape target: taking differences and judging them is the
//! engine's. The room reads no clock: readings carry the time of the server that measured, or the `now` it was given.
//!
//! Reading order: [`plan`] (pure: rules to queries), `selector` (pure: the PromQL that must be understood), `envelope` and `answer`
//! (pure: samples to readings), `scalar` and `native` (pure: the same for numbers and for native histograms), `prometheus` (one
//! request), `source` (all requests of a look, and what is remembered), `learn` and `before` (what is asked rarely), `probe`, `range`
//! (for evidence), `inspect` and `advise` (for `flipback check`), `start` (for `flipback run`),
//! `history` (for `flipback backtest`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join, join_all},
};
use jiff::Timestamp;
use tokio::time::Instant;

mod advise;
mod answer;
mod before;
mod credentials;
mod envelope;
mod fuzzed;
mod history;
mod inspect;
mod learn;
mod native;
mod plan;
mod probe;
mod prometheus;
mod range;
mod scalar;
mod selector;
mod source;
mod start;

pub use advise::figure;
pub(crate) use fuzzed::understand;
pub use history::History;
pub use inspect::{Buckets, QueryReport};
pub use start::{Start, Unfit};

use self::{
    before::Before,
    plan::{Address, Plan, Read},
    probe::{Prober, Round},
    source::{Clock, Source},
};
use crate::{
    metrics::Metrics,
    model::{
        Absence, Color, GuardId, GuardSpec, Reading, RuleKind, RuleName, Series, View,
        settings::{ClusterSettings, PrometheusSettings},
    },
};

/// The share of a poll that a look may take: the rest is for deciding and acting before the next one is due.
const LOOK_SHARE: f64 = 0.8;

/// What stands between flipback and its measurements.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// TLS cannot be set up for probes.
    #[error("failed to set up the client for probes")]
    Probes {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No such guard.
    #[error("failed to read metrics of the guard {guard}: it is not configured")]
    UnknownGuard {
        /// Which.
        guard: GuardId,
    },
    /// Its cluster has no Prometheus.
    #[error("failed to read metrics of the guard {guard}: {NO_PROMETHEUS}")]
    NoPrometheus {
        /// Which.
        guard: GuardId,
    },
    /// Nothing was answered.
    #[error("failed to read metrics of the guard {guard}: {why}")]
    Query {
        /// Which.
        guard: GuardId,
        /// A sentence for a person.
        why: String,
    },
}

/// What every rule that needs a Prometheus says without one.
const NO_PROMETHEUS: &str = "its cluster has no Prometheus configured: set the cluster's `prometheus.url`";

/// The readings of one look.
pub type Readings = BTreeMap<GuardId, BTreeMap<Color, BTreeMap<RuleName, Reading>>>;

/// What measures. The daemon's asks Prometheus and probes; a simulation's knows.
pub trait Measure: Send + Sync {
    /// Measures every rule on every color of the guards in `views`. Never fails: what is not known is absent.
    fn observe<'a>(&'a self, views: &'a BTreeMap<GuardId, View>, now: Timestamp) -> BoxFuture<'a, Readings>;

    /// Reads what was measured over a time, for evidence.
    ///
    /// # Errors
    /// [`ObserveError`] when it cannot be read.
    fn range<'a>(
        &'a self,
        guard: &'a GuardId,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> BoxFuture<'a, Result<Vec<Series>, ObserveError>>;

    /// What measures under another configuration and keeps what this one has learned; `None`: it is made anew.
    fn successor(
        &self,
        _guards: &[Arc<GuardSpec>],
        _clusters: &[ClusterSettings],
        _probe_resolve: BTreeMap<String, SocketAddr>,
        _metrics: Metrics,
    ) -> Option<Result<Arc<dyn Measure>, ObserveError>> {
        None
    }
}

impl Measure for Observer {
    fn observe<'a>(&'a self, views: &'a BTreeMap<GuardId, View>, now: Timestamp) -> BoxFuture<'a, Readings> {
        self.observe(views, now).boxed()
    }

    fn range<'a>(
        &'a self,
        guard: &'a GuardId,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> BoxFuture<'a, Result<Vec<Series>, ObserveError>> {
        self.range(guard, from, to, step).boxed()
    }

    fn successor(
        &self,
        guards: &[Arc<GuardSpec>],
        clusters: &[ClusterSettings],
        probe_resolve: BTreeMap<String, SocketAddr>,
        metrics: Metrics,
    ) -> Option<Result<Arc<dyn Measure>, ObserveError>> {
        let next = self.successor(guards, clusters, probe_resolve, metrics);
        Some(next.map(|next| Arc::new(next) as Arc<dyn Measure>))
    }
}

/// Measures all guards.
#[derive(Debug)]
pub struct Observer {
    guards: BTreeMap<GuardId, Arc<GuardSpec>>,
    sources: Vec<(Arc<Source>, Plan)>,
    /// Where each source was said to be, and of which cluster.
    settings: Vec<(String, PrometheusSettings)>,
    /// The index into `sources` by guard; none where the guard's cluster has no Prometheus.
    source_of: HashMap<GuardId, usize>,
    prober: Prober,
    poll: Duration,
}

impl Observer {
    /// Plans all queries. Asks nothing: a Prometheus that cannot be reached is a reading, not an error.
    ///
    /// # Errors
    /// [`ObserveError::Probes`] when TLS cannot be set up.
    pub fn new(
        guards: &[Arc<GuardSpec>],
        clusters: &[ClusterSettings],
        probe_resolve: BTreeMap<String, SocketAddr>,
        metrics: Metrics,
    ) -> Result<Self, ObserveError> {
        Self::after(None, guards, clusters, probe_resolve, metrics)
    }

    /// Plans the queries of another configuration. What is known of a Prometheus whose settings stay is kept, but for what is known of
    /// guards whose configuration is another.
    ///
    /// # Errors
    /// [`ObserveError::Probes`] when TLS cannot be set up.
    pub fn successor(
        &self,
        guards: &[Arc<GuardSpec>],
        clusters: &[ClusterSettings],
        probe_resolve: BTreeMap<String, SocketAddr>,
        metrics: Metrics,
    ) -> Result<Self, ObserveError> {
        Self::after(Some(self), guards, clusters, probe_resolve, metrics)
    }

    fn after(
        former: Option<&Self>,
        guards: &[Arc<GuardSpec>],
        clusters: &[ClusterSettings],
        probe_resolve: BTreeMap<String, SocketAddr>,
        metrics: Metrics,
    ) -> Result<Self, ObserveError> {
        let same = |spec: &&Arc<GuardSpec>| {
            let then = former.and_then(|former| former.guards.get(&spec.id));
            then.is_some_and(|then| then.config_hash == spec.config_hash)
        };
        let unchanged: HashSet<&GuardId> = guards.iter().filter(same).map(|spec| &spec.id).collect();
        let known = |cluster: &str, settings: &PrometheusSettings, plan: &Plan| {
            let former = former?;
            let mut places = former.settings.iter();
            let place = places.position(|(of, place)| of == cluster && place == settings)?;
            let (source, _) = former.sources.get(place)?;
            source.keep_only(|guard| unchanged.contains(guard), &plan.reads);
            Some(Arc::clone(source))
        };
        let prober = Prober::new(probe_resolve, metrics.clone()).map_err(|source| ObserveError::Probes { source })?;
        let (mut sources, mut places) = (Vec::new(), Vec::new());
        let mut source_of = HashMap::new();
        for cluster in clusters {
            if let Some(settings) = &cluster.prometheus {
                let own = || guards.iter().filter(|spec| spec.cluster == cluster.name);
                source_of.extend(own().map(|spec| (spec.id.clone(), sources.len())));
                let plan = Plan::new(own().map(Arc::as_ref));
                let source = known(&cluster.name, settings, &plan)
                    .unwrap_or_else(|| Arc::new(Source::new(&cluster.name, settings.clone(), metrics.clone())));
                places.push((cluster.name.clone(), settings.clone()));
                sources.push((source, plan));
            }
        }
        Ok(Self {
            guards: guards.iter().map(|spec| (spec.id.clone(), spec.clone())).collect(),
            sources,
            settings: places,
            source_of,
            prober,
            poll: guards.iter().map(|spec| spec.policy.poll).min().unwrap_or(Duration::from_secs(5)),
        })
    }

    /// Measures every rule on every color of the guards in `views`, within 80 % of a poll. Never fails: what is not known is absent.
    pub async fn observe(&self, views: &BTreeMap<GuardId, View>, now: Timestamp) -> Readings {
        let clock = Clock {
            now,
            since: Instant::now(),
        };
        let deadline = clock.since + self.poll.mul_f64(LOOK_SHARE);
        let (counted, probed) = join(self.count(views, clock, deadline), self.probe(views, now, deadline)).await;
        let mut measured: HashMap<Address, Reading> = counted.into_iter().chain(probed).collect();
        self.compare(views, &mut measured);
        let mut readings = Readings::new();
        for (spec, view) in views.iter().filter_map(|(id, view)| Some((self.guards.get(id)?, view))) {
            let colors = readings.entry(spec.id.clone()).or_default();
            for color in spec.colors.keys() {
                let rules = spec.rules.iter().map(|rule| {
                    let address = address(spec, color, &rule.name);
                    let reading = match &rule.kind {
                        RuleKind::Endpoints(_) => ready(view, color, now),
                        _ => measured
                            .remove(&address)
                            .unwrap_or_else(|| Reading::Absent(self.unmeasured(&spec.id))),
                    };
                    (rule.name.clone(), reading)
                });
                colors.insert(color.clone(), rules.collect());
            }
        }
        readings
    }

    /// Why a rule has no measurement at all.
    fn unmeasured(&self, guard: &GuardId) -> Absence {
        if self.source_of.contains_key(guard) {
            Absence::Timeout
        } else {
            Absence::Error(NO_PROMETHEUS.to_owned())
        }
    }

    /// Asks every Prometheus at once.
    async fn count(&self, views: &BTreeMap<GuardId, View>, clock: Clock, deadline: Instant) -> Vec<(Address, Reading)> {
        // Boxed in a list: a borrowing closure's future is not provably Send, and the daemon runs this in a task.
        let mut looks: Vec<BoxFuture<'_, Vec<(Address, Reading)>>> = Vec::with_capacity(self.sources.len());
        for (source, plan) in &self.sources {
            let reads: Vec<Arc<Read>> = plan
                .reads
                .iter()
                .filter(|read| views.contains_key(&read.at.guard))
                .cloned()
                .collect();
            let look = async move {
                let answered = source.observe(&reads, clock, deadline).await;
                let refused = plan.refused.iter().map(|(at, why)| (at.clone(), Reading::Absent(why.clone())));
                answered.into_iter().chain(refused).collect()
            };
            looks.push(look.boxed());
        }
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// Lets the numbers of active colors carry what they were before the last switch, and asks for what is not known yet.
    fn compare(&self, views: &BTreeMap<GuardId, View>, measured: &mut HashMap<Address, Reading>) {
        for (source, plan) in &self.sources {
            let wanted: Vec<Before> = self.compared(plan, views);
            if wanted.is_empty() {
                continue;
            }
            before::ask(source, &wanted);
            let memory = source.memory();
            for wanted in &wanted {
                if let Some(Reading::Scalar { before, .. }) = measured.get_mut(&wanted.at) {
                    *before = memory.befores.value(wanted);
                }
            }
        }
    }

    /// The readings of active colors that are compared with the time before the switch.
    fn compared(&self, plan: &Plan, views: &BTreeMap<GuardId, View>) -> Vec<Before> {
        let side = |read: &Arc<Read>| {
            let View::Known(traffic) = views.get(&read.at.guard)? else {
                return None;
            };
            let when = traffic.switched_at.filter(|_| read.at.color == traffic.standby)?;
            let rules = &self.guards.get(&read.at.guard)?.rules;
            let rule = rules.iter().find(|rule| rule.name == read.at.rule)?;
            rule.kind.scalar()?.max_ratio_to_before?;
            let at = Address {
                color: traffic.active.clone(),
                ..read.at.clone()
            };
            Some(Before {
                at,
                read: read.clone(),
                when,
            })
        };
        plan.reads.iter().filter(|read| read.is_foreign()).filter_map(side).collect()
    }

    async fn probe(&self, views: &BTreeMap<GuardId, View>, now: Timestamp, deadline: Instant) -> BTreeMap<Address, Reading> {
        let mut rounds = Vec::new();
        for (spec, view) in views.iter().filter_map(|(id, view)| Some((self.guards.get(id)?, view))) {
            for (rule, probe) in spec.rules.iter().filter_map(|rule| match &rule.kind {
                RuleKind::Probe(probe) => Some((rule, probe)),
                _ => None,
            }) {
                rounds.extend(spec.colors.keys().map(|color| Round {
                    at: address(spec, color, &rule.name),
                    rule: probe,
                    side: match view {
                        View::Known(traffic) => traffic.sides.get(color),
                        View::UnknownColor { .. } | View::Unreadable(_) => None,
                    },
                }));
            }
        }
        self.prober.probe(&rounds, now, deadline).await
    }

    /// Reads total, bad, share and, for latency, the quantile over time, for evidence. `step` grows where it would give too many points.
    ///
    /// # Errors
    /// [`ObserveError`] when the guard or its Prometheus is not configured, or when no query was answered.
    pub async fn range(&self, guard: &GuardId, from: Timestamp, to: Timestamp, step: Duration) -> Result<Vec<Series>, ObserveError> {
        let spec = self
            .guards
            .get(guard)
            .ok_or_else(|| ObserveError::UnknownGuard { guard: guard.clone() })?;
        let needs_one = spec.rules.iter().any(|rule| rule.kind.needs_prometheus());
        if !needs_one {
            return Ok(Vec::new());
        }
        let Some((source, reads)) = self.source(guard) else {
            return Err(ObserveError::NoPrometheus { guard: guard.clone() });
        };
        range::series(source, &reads, from, to, step)
            .await
            .map_err(|why| ObserveError::Query { guard: guard.clone(), why })
    }

    /// Tries every query of a guard and says what each returns now, in the order colors and rules are configured. For `flipback check`.
    pub async fn inspect(&self, guard: &GuardId, now: Timestamp) -> Vec<QueryReport> {
        let Some(spec) = self.guards.get(guard) else {
            return Vec::new();
        };
        let (source, plan) = match self.source_of.get(guard).and_then(|index| self.sources.get(*index)) {
            Some((source, plan)) => (Some(&**source), Some(plan)),
            None => (None, None),
        };
        inspect::reports(spec, source, plan, now).await
    }

    fn source(&self, guard: &GuardId) -> Option<(&Source, Vec<Arc<Read>>)> {
        let (source, plan) = self.sources.get(*self.source_of.get(guard)?)?;
        let reads = plan.reads.iter().filter(|read| read.at.guard == *guard).cloned().collect();
        Some((source, reads))
    }
}

fn address(spec: &GuardSpec, color: &Color, rule: &RuleName) -> Address {
    Address {
        guard: spec.id.clone(),
        color: color.clone(),
        rule: rule.clone(),
    }
}

/// Why what depends on the watch of endpoints is absent while that watch is lost.
const UNWATCHED: &str = "the watch of the cluster is lost, so that the endpoints are not known right now";

/// The Ready endpoints of a color, from the view. An old count is none: endpoints that were away for a moment when the watch was lost
/// must not count as down for as long as it is.
fn ready(view: &View, color: &Color, now: Timestamp) -> Reading {
    match view {
        View::Known(traffic) => traffic
            .sides
            .get(color)
            .map_or(Reading::Absent(Absence::Empty), |side| match side.unwatched {
                true => Reading::Absent(Absence::Error(UNWATCHED.to_owned())),
                false => Reading::Ready {
                    sample_at: now,
                    ready: side.ready,
                },
            }),
        View::UnknownColor { .. } => Reading::Absent(Absence::Error("the route selects none of the guard's colors".to_owned())),
        View::Unreadable(why) => Reading::Absent(Absence::Error(why.clone())),
    }
}

#[cfg(test)]
mod tests;
