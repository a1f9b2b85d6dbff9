//! Every metric name once. Rooms count through this; nobody else spells a name.

use std::collections::{BTreeSet, HashMap};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector,
};

/// Why the registry could not be built or printed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {attempted} metrics")]
pub struct MetricsError {
    attempted: &'static str,
    #[source]
    source: prometheus::Error,
}

/// Own registry, no globals; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// `flipback_build_info{version}`: always 1.
    pub build_info: IntGaugeVec,
    /// `flipback_guard_phase{guard,phase}`: 1 for the phase the guard is in, 0 for those it was in.
    pub guard_phase: IntGaugeVec,
    /// `flipback_rollback_refused{guard,verdict,reason}`: 1 while the guard is bad and its traffic stays, `blocked` or `suppressed`; 0 for the
    /// reasons it had. Of several replicas the one that leads says so.
    pub rollback_refused: IntGaugeVec,
    /// `flipback_active_color{guard,color}`: 1 for the active color, else 0.
    pub active_color: IntGaugeVec,
    /// `flipback_ready_endpoints{guard,color}`.
    pub ready_endpoints: IntGaugeVec,
    /// `flipback_rule_value{guard,rule}`: the newest judged value.
    pub rule_value: GaugeVec,
    /// `flipback_rule_threshold{guard,rule}`.
    pub rule_threshold: GaugeVec,
    /// `flipback_rule_info{guard,rule,kind,unit,breach}`: always 1; what the two above count, and whether `over` or `under` the threshold is
    /// the breach.
    pub rule_info: IntGaugeVec,
    /// `flipback_rule_streak{guard,rule}`: breaches in a row.
    pub rule_streak: IntGaugeVec,
    /// `flipback_rule_outcomes_total{guard,rule,outcome}`.
    pub rule_outcomes: IntCounterVec,
    /// `flipback_blind{guard}`: 1 while there is no usable data.
    pub blind: IntGaugeVec,
    /// `flipback_standby_ready{guard}`: 1 while the standby color could take over.
    pub standby_ready: IntGaugeVec,
    /// `flipback_rollbacks_total{guard,result,trigger}`: `rolled_back`, `withheld`, `failed`, `blocked`, `suppressed`; `automatic` or `manual`.
    pub rollbacks: IntCounterVec,
    /// `flipback_maintenance{guard}`: 1 while a maintenance window holds the guard; only of guards that have one.
    pub maintenance: IntGaugeVec,
    /// `flipback_blast_radius_guards_flipped`: guards that flipped by themselves within the window, as far as the ledgers tell.
    pub fleet_flipped: IntGauge,
    /// `flipback_blast_radius_guards_max`: how many may; infinite where any number may.
    pub fleet_limit: Gauge,
    /// `flipback_blast_radius_guards_held`: guards that are bad and held, since so many flipped already.
    pub fleet_held: IntGauge,
    /// `flipback_config_last_reload_successful`: 1 unless the newest change of the configuration was refused.
    pub config_successful: IntGauge,
    /// `flipback_config_last_reload_success_timestamp_seconds`: when the configuration in force was taken.
    pub config_taken: IntGauge,
    /// `flipback_config_info{hash}`: always 1, for the text in force.
    pub config_info: IntGaugeVec,
    /// `flipback_flip_duration_seconds`: decision to accepted patch.
    pub flip_duration: Histogram,
    /// `flipback_switches_total{guard}`: changes of the active color or its release, whoever made them.
    pub switches: IntCounterVec,
    /// `flipback_tick_duration_seconds`: one look at all guards.
    pub tick_duration: Histogram,
    /// `flipback_last_tick_timestamp_seconds`.
    pub last_tick: IntGauge,
    /// `flipback_prometheus_requests_total{cluster,result}`: `ok`, `timeout`, `error`, `partial`.
    pub prometheus_requests: IntCounterVec,
    /// `flipback_prometheus_request_duration_seconds{cluster}`.
    pub prometheus_duration: HistogramVec,
    /// `flipback_prometheus_clock_offset_seconds{cluster}`: Prometheus' clock less ours, as far as the time an answer takes cannot explain it.
    pub prometheus_clock_offset: GaugeVec,
    /// `flipback_probes_total{guard,result}`: `ok`, `failed`.
    pub probes: IntCounterVec,
    /// `flipback_watch_errors_total{cluster,kind}`.
    pub watch_errors: IntCounterVec,
    /// `flipback_notifications_total{chat,result}`: `delivered`, `retried`, `dropped` (given up), `grouped` (told with a later one).
    pub notifications: IntCounterVec,
    /// `flipback_notifications_pending`.
    pub notifications_pending: IntGauge,
    /// `flipback_notification_oldest_pending_timestamp_seconds`: 0 when none waits.
    pub notification_oldest_pending: IntGauge,
    /// `flipback_evidence_bundles_total{result}`: `complete`, `partial`, `failed`.
    pub evidence_bundles: IntCounterVec,
    /// `flipback_evidence_capture_duration_seconds`.
    pub evidence_duration: Histogram,
    /// `flipback_evidence_copies_total{result}`: `copied`, `failed`.
    pub evidence_copies: IntCounterVec,
    /// `flipback_evidence_copies_pending`: complete bundles that the configured copy does not hold yet.
    pub evidence_copies_pending: IntGauge,
    /// `flipback_audit_entries_total{result}`: `written`, `lost`.
    pub audit_entries: IntCounterVec,
    /// `flipback_http_refused_total{why}`: `commands` or `guesses` (answered with 429), `connections` (closed at once).
    pub http_refused: IntCounterVec,
    /// `flipback_leading{shard}`: 1 while this replica acts for the shard's guards; nothing where there is but one daemon.
    pub leading: IntGaugeVec,
    /// `flipback_replicas`: replicas that are alive, this one included, as far as it knows; 0 where there is but one daemon.
    pub replicas: IntGauge,
}

/// From 1 ms to 30 s: flips are expected within 25 ms, anything network-bound within its timeout.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// [`MetricsError`] when two metrics share a name, which a test excludes.
    pub fn new() -> Result<Self, MetricsError> {
        Self::build().map_err(|source| MetricsError {
            attempted: "register",
            source,
        })
    }

    fn build() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let floats = |name: &str, help: &str, labels: &[&str]| {
            let made = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let gauge = |name: &str, help: &str| {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let float = |name: &str, help: &str| {
            let made = Gauge::new(name, help)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let histogram = |name: &str, help: &str| {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let prometheus_duration = HistogramVec::new(
            HistogramOpts::new("flipback_prometheus_request_duration_seconds", "Time of one Prometheus request.").buckets(SECONDS.to_vec()),
            &["cluster"],
        )?;
        registry.register(Box::new(prometheus_duration.clone()))?;
        let made = Self {
            build_info: gauges("flipback_build_info", "Version of this flipback.", &["version"])?,
            guard_phase: gauges("flipback_guard_phase", "1 for the phase the guard is in.", &["guard", "phase"])?,
            rollback_refused: gauges(
                "flipback_rollback_refused",
                "1 while a guard is bad and its traffic is left where it is.",
                &["guard", "verdict", "reason"],
            )?,
            active_color: gauges("flipback_active_color", "1 for the color that serves users.", &["guard", "color"])?,
            ready_endpoints: gauges("flipback_ready_endpoints", "Ready endpoints of a color.", &["guard", "color"])?,
            rule_value: floats("flipback_rule_value", "Newest judged value of a rule.", &["guard", "rule"])?,
            rule_threshold: floats("flipback_rule_threshold", "Threshold of a rule.", &["guard", "rule"])?,
            rule_info: gauges(
                "flipback_rule_info",
                "Kind of a rule, unit of its value, and the side of its threshold on which it breaches.",
                &["guard", "rule", "kind", "unit", "breach"],
            )?,
            rule_streak: gauges("flipback_rule_streak", "Breaches in a row.", &["guard", "rule"])?,
            rule_outcomes: counters(
                "flipback_rule_outcomes_total",
                "Outcomes of a rule's polls.",
                &["guard", "rule", "outcome"],
            )?,
            blind: gauges("flipback_blind", "1 while a guard has no usable data.", &["guard"])?,
            standby_ready: gauges("flipback_standby_ready", "1 while the standby color could take over.", &["guard"])?,
            rollbacks: counters(
                "flipback_rollbacks_total",
                "Rollbacks by result and trigger.",
                &["guard", "result", "trigger"],
            )?,
            maintenance: gauges("flipback_maintenance", "1 while a maintenance window holds the guard.", &["guard"])?,
            fleet_flipped: gauge(
                "flipback_blast_radius_guards_flipped",
                "Guards that flipped by themselves within the window.",
            )?,
            fleet_limit: float("flipback_blast_radius_guards_max", "How many guards may flip within the window.")?,
            fleet_held: gauge(
                "flipback_blast_radius_guards_held",
                "Guards that are bad and held, since so many flipped already.",
            )?,
            config_successful: gauge(
                "flipback_config_last_reload_successful",
                "1 unless the newest change of the configuration was refused.",
            )?,
            config_taken: gauge(
                "flipback_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was taken.",
            )?,
            config_info: gauges("flipback_config_info", "Hash of the configuration in force.", &["hash"])?,
            flip_duration: histogram("flipback_flip_duration_seconds", "Time from decision to accepted patch.")?,
            switches: counters("flipback_switches_total", "Changes of the active color or its release.", &["guard"])?,
            tick_duration: histogram("flipback_tick_duration_seconds", "Time of one look at all guards.")?,
            last_tick: gauge("flipback_last_tick_timestamp_seconds", "When all guards were last looked at.")?,
            prometheus_requests: counters(
                "flipback_prometheus_requests_total",
                "Prometheus requests by result.",
                &["cluster", "result"],
            )?,
            prometheus_duration,
            prometheus_clock_offset: floats(
                "flipback_prometheus_clock_offset_seconds",
                "Prometheus' clock less ours, as far as the time an answer takes cannot explain it.",
                &["cluster"],
            )?,
            probes: counters("flipback_probes_total", "HTTP probes by result.", &["guard", "result"])?,
            watch_errors: counters("flipback_watch_errors_total", "Errors of Kubernetes watches.", &["cluster", "kind"])?,
            notifications: counters("flipback_notifications_total", "Messages to chats by result.", &["chat", "result"])?,
            notifications_pending: gauge("flipback_notifications_pending", "Messages waiting for a chat.")?,
            notification_oldest_pending: gauge(
                "flipback_notification_oldest_pending_timestamp_seconds",
                "When the oldest waiting message was made; 0 when none waits.",
            )?,
            evidence_bundles: counters("flipback_evidence_bundles_total", "Evidence bundles by result.", &["result"])?,
            evidence_duration: histogram("flipback_evidence_capture_duration_seconds", "Time to capture one evidence bundle.")?,
            evidence_copies: counters(
                "flipback_evidence_copies_total",
                "Copies of evidence to a second place by result.",
                &["result"],
            )?,
            evidence_copies_pending: gauge("flipback_evidence_copies_pending", "Evidence bundles that wait for their copy.")?,
            http_refused: counters(
                "flipback_http_refused_total",
                "Requests and connections refused because there were too many.",
                &["why"],
            )?,
            leading: gauges(
                "flipback_leading",
                "1 while this replica acts for the guards of a shard.",
                &["shard"],
            )?,
            replicas: gauge(
                "flipback_replicas",
                "Replicas that are alive, this one included; 0 without replicas.",
            )?,
            audit_entries: counters(
                "flipback_audit_entries_total",
                "Entries of the audit journal by result.",
                &["result"],
            )?,
            registry: registry.clone(),
        };
        made.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(made)
    }

    /// Removes every series of some guards: what is no longer guarded must not look guarded.
    ///
    /// All of them at once, since finding them costs a walk over every series there is, and the conductor looks at nothing meanwhile.
    pub fn forget(&self, guards: &BTreeSet<&str>) {
        self.forget_by("guard", guards);
    }

    /// Removes every series of some clusters.
    pub fn forget_clusters(&self, clusters: &BTreeSet<&str>) {
        self.forget_by("cluster", clusters);
    }

    /// Removes every series of some chats.
    pub fn forget_chats(&self, chats: &BTreeSet<&str>) {
        self.forget_by("chat", chats);
    }

    fn forget_by(&self, label: &str, values: &BTreeSet<&str>) {
        if values.is_empty() {
            return;
        }
        for family in self.registry.gather() {
            for metric in family.get_metric() {
                let labels = metric.get_label();
                if labels.iter().any(|pair| pair.name() == label && values.contains(pair.value())) {
                    self.remove(family.name(), &labels.iter().map(|pair| (pair.name(), pair.value())).collect());
                }
            }
        }
    }

    fn remove(&self, name: &str, labels: &HashMap<&str, &str>) {
        // Each knows its own label names: of any other it says no.
        let gauges = [
            ("flipback_guard_phase", &self.guard_phase),
            ("flipback_rollback_refused", &self.rollback_refused),
            ("flipback_active_color", &self.active_color),
            ("flipback_ready_endpoints", &self.ready_endpoints),
            ("flipback_rule_info", &self.rule_info),
            ("flipback_rule_streak", &self.rule_streak),
            ("flipback_blind", &self.blind),
            ("flipback_standby_ready", &self.standby_ready),
            ("flipback_maintenance", &self.maintenance),
        ];
        let counters = [
            ("flipback_rule_outcomes_total", &self.rule_outcomes),
            ("flipback_rollbacks_total", &self.rollbacks),
            ("flipback_switches_total", &self.switches),
            ("flipback_probes_total", &self.probes),
            ("flipback_prometheus_requests_total", &self.prometheus_requests),
            ("flipback_watch_errors_total", &self.watch_errors),
            ("flipback_notifications_total", &self.notifications),
        ];
        let floats = [
            ("flipback_rule_value", &self.rule_value),
            ("flipback_rule_threshold", &self.rule_threshold),
            ("flipback_prometheus_clock_offset_seconds", &self.prometheus_clock_offset),
        ];
        // Gone already is as good.
        let _ = gauges.iter().find(|(of, _)| *of == name).map(|(_, gauge)| gauge.remove(labels));
        let _ = counters
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, counter)| counter.remove(labels));
        let _ = floats.iter().find(|(of, _)| *of == name).map(|(_, gauge)| gauge.remove(labels));
        if name == "flipback_prometheus_request_duration_seconds" {
            let _ = self.prometheus_duration.remove(labels);
        }
    }

    /// The exposition, text format 0.0.4.
    ///
    /// # Errors
    /// [`MetricsError`] when a family cannot be encoded.
    pub fn expose(&self) -> Result<String, MetricsError> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|source| MetricsError {
                attempted: "encode",
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric with a guard's label that `remove` does not know would go on for ever.
    #[test]
    fn a_forgotten_guard_leaves_nothing_and_takes_no_other_along() {
        let metrics = Metrics::new().expect("registers");
        for guard in ["shop/web", "shop/cart"] {
            metrics.guard_phase.with_label_values(&[guard, "steady"]).set(1);
            metrics.rollback_refused.with_label_values(&[guard, "blocked", "paused"]).set(1);
            metrics.active_color.with_label_values(&[guard, "blue"]).set(1);
            metrics.ready_endpoints.with_label_values(&[guard, "blue"]).set(1);
            metrics.rule_value.with_label_values(&[guard, "r"]).set(1.0);
            metrics.rule_threshold.with_label_values(&[guard, "r"]).set(1.0);
            metrics.rule_info.with_label_values(&[guard, "r", "k", "u", "over"]).set(1);
            metrics.rule_streak.with_label_values(&[guard, "r"]).set(1);
            metrics.rule_outcomes.with_label_values(&[guard, "r", "pass"]).inc();
            metrics.blind.with_label_values(&[guard]).set(1);
            metrics.standby_ready.with_label_values(&[guard]).set(1);
            metrics.rollbacks.with_label_values(&[guard, "rolled_back", "manual"]).inc();
            metrics.switches.with_label_values(&[guard]).inc();
            metrics.probes.with_label_values(&[guard, "ok"]).inc();
            metrics.maintenance.with_label_values(&[guard]).set(1);
        }
        let of = |guard: &str| {
            let text = metrics.expose().expect("encodes");
            text.lines().filter(|line| line.contains(guard)).count()
        };
        assert_eq!((of("shop/web"), of("shop/cart")), (15, 15));
        let source = include_str!("metrics.rs");
        let declared = source.matches("&[\"guard\"").count();
        assert_eq!(
            declared, 15,
            "another metric has a guard's label: let `remove` and this test know it"
        );
        metrics.forget(&BTreeSet::from(["shop/web"]));
        assert_eq!((of("shop/web"), of("shop/cart")), (0, 15));
        metrics.forget(&BTreeSet::from(["shop/cart", "shop/unknown"]));
        assert_eq!(of("shop/cart"), 0);
    }

    /// The same for clusters and chats, which come and go with configurations too.
    #[test]
    fn a_forgotten_cluster_or_chat_leaves_nothing_and_takes_no_other_along() {
        let metrics = Metrics::new().expect("registers");
        for name in ["east", "west"] {
            metrics.prometheus_requests.with_label_values(&[name, "ok"]).inc();
            metrics.prometheus_duration.with_label_values(&[name]).observe(0.1);
            metrics.prometheus_clock_offset.with_label_values(&[name]).set(0.0);
            metrics.watch_errors.with_label_values(&[name, "Pod"]).inc();
            metrics.notifications.with_label_values(&[name, "delivered"]).inc();
        }
        let of = |wanted: &str| {
            let text = metrics.expose().expect("encodes");
            text.lines().filter(|line| !line.starts_with('#') && line.contains(wanted)).count()
        };
        // A histogram is its buckets, the infinite one, the sum and the count.
        let all = 3 + SECONDS.len() + 3;
        assert_eq!((of(r#"cluster="east""#), of(r#"cluster="west""#)), (all, all));
        let source = include_str!("metrics.rs");
        assert_eq!(
            (source.matches("&[\"cluster\"").count(), source.matches("&[\"chat\"").count()),
            (4, 1),
            "another metric has a cluster's or a chat's label: let `remove` and this test know it"
        );
        metrics.forget_clusters(&BTreeSet::from(["east"]));
        assert_eq!((of(r#"cluster="east""#), of(r#"cluster="west""#)), (0, all));
        assert_eq!(of(r#"chat="east""#), 1, "a chat of the same name is no cluster");
        metrics.forget_chats(&BTreeSet::from(["east"]));
        assert_eq!((of(r#"chat="east""#), of(r#"chat="west""#)), (0, 1));
    }

    #[test]
    fn every_name_is_registered_once() {
        let metrics = Metrics::new().expect("no two metrics share a name");
        assert!(metrics.expose().expect("encodes").contains("flipback_build_info{version="));
    }
}
