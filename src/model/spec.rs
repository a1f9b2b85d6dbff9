//! What is guarded and how it is judged: the checked form of a guard's configuration.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Color, GuardId, MaintenanceWindow, RuleName};

/// One thing being watched in one cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardSpec {
    /// Its name.
    pub id: GuardId,
    /// The cluster's name in the configuration; empty for an only one that has none.
    pub cluster: String,
    /// The namespace that holds the route and the colors.
    pub namespace: String,
    /// Where traffic is decided.
    pub route: RouteSpec,
    /// The sides, two or more.
    pub colors: BTreeMap<Color, ColorSpec>,
    /// What is judged.
    pub rules: Vec<RuleSpec>,
    /// When a judgement becomes a flip.
    pub policy: Policy,
    /// Whether a flip is carried out or only told.
    pub mode: Mode,
    /// How a standby that is scaled down is brought up before a flip; `None`: it is not.
    pub scale_up: Option<ScaleUp>,
    /// What happens after a flip to the pods that were left, and with them to the connections they hold.
    pub connections: Connections,
    /// When nothing is flipped automatically, the windows of the configuration that name this guard.
    pub maintenance: Vec<MaintenanceWindow>,
    /// What is captured after a flip.
    pub evidence: EvidenceSpec,
    /// Names of the chats that are told; empty = all.
    pub chats: Vec<String>,
    /// Short hash of everything above, carried by every decision's record.
    pub config_hash: String,
}

/// How a standby that is scaled down is brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleUp {
    /// Replicas at least; an autoscaler's minimum, or what the standby share asks for, may be more.
    pub replicas: u32,
    /// How long it may take until it can serve; afterwards the flip counts as blocked, and is still made once it can.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for ScaleUp {
    fn default() -> Self {
        Self {
            replicas: 2,
            deadline: Duration::from_secs(120),
        }
    }
}

/// What happens after a flip to the pods of the color that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// What is done to each.
    pub action: Relief,
    /// So many pods at a time.
    pub at_once: u32,
    /// Between two times.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            action: Relief::Keep,
            at_once: 1,
            pause: Duration::from_secs(5),
        }
    }
}

/// What is done to a pod that was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relief {
    /// Nothing: connections that are kept alive stay where they are until they end.
    #[default]
    Keep,
    /// Its labels are changed so that nothing selects it any more; it stays for debugging.
    Isolate,
    /// It is evicted, as far as its disruption budget allows.
    Evict,
}

/// Whether flips are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Flips.
    #[default]
    Enforce,
    /// Decides, records and tells; never writes to the cluster.
    Monitor,
}

/// Where traffic is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RouteSpec {
    /// The selector of a Service.
    Service(ServiceRoute),
}

impl RouteSpec {
    /// The guarded object as `Kind/name`, for logs and messages.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::Service(route) => format!("Service/{}", route.active),
        }
    }
}

/// A Service whose selector decides which color serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRoute {
    /// The Service that users reach.
    pub active: String,
    /// The Service that reaches the other color, swapped along where there is one.
    pub preview: Option<String>,
    /// The selector key whose value names the color.
    pub selector_key: String,
}

/// One side of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColorSpec {
    /// The selector value that means this color.
    pub value: String,
    /// The Deployment that runs it: its release and its replicas. `None`: releases cannot be told apart.
    pub deployment: Option<String>,
    /// The Service that reaches only this color, where there is one: what proxies and meshes label their metrics with.
    pub service: Option<String>,
}

/// One rule of a guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// Its name, unique within the guard.
    pub name: RuleName,
    /// What it measures and its threshold.
    #[serde(flatten)]
    pub kind: RuleKind,
    /// What a breach does.
    #[serde(default)]
    pub action: Action,
    /// A single breach acts. For zero-tolerance counters only.
    #[serde(default)]
    pub critical: bool,
    /// Both of these spans must be over the threshold too before a streak is believed; `None`: the streak is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

impl RuleSpec {
    /// A rule that rolls back on a streak, with neither windows nor zero tolerance.
    #[must_use]
    pub fn new(name: RuleName, kind: RuleKind) -> Self {
        Self {
            name,
            kind,
            action: Action::Rollback,
            critical: false,
            windows: None,
        }
    }
}

/// A short and a long span that must agree: the short one says that it is bad now, the long one that it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// The short span.
    #[serde(with = "humantime_serde")]
    pub short: Duration,
    /// The long one.
    #[serde(with = "humantime_serde")]
    pub long: Duration,
}

/// What a confirmed breach does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Flips back.
    #[default]
    Rollback,
    /// Tells, and never flips.
    Alert,
}

/// What a rule measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RuleKind {
    /// Share of bad requests, from two counter selectors.
    ErrorRate(CounterRule),
    /// Its complement, the share of good requests, for people who think in 99.9 %.
    Availability(CounterRule),
    /// Share of requests slower than a bucket bound.
    Latency(LatencyRule),
    /// One number from an expression.
    Promql(ScalarRule),
    /// The same, for requests per second; usually a lower limit that alerts.
    Throughput(ScalarRule),
    /// The same, for the used share of a resource; usually an upper limit that alerts.
    Saturation(ScalarRule),
    /// HTTP GET on the color's endpoints.
    Probe(ProbeRule),
    /// Ready endpoints of the active color.
    Endpoints(EndpointsRule),
}

impl RuleKind {
    /// The kind as configuration and traces spell it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ErrorRate(_) => "error_rate",
            Self::Availability(_) => "availability",
            Self::Latency(_) => "latency",
            Self::Promql(_) => "promql",
            Self::Throughput(_) => "throughput",
            Self::Saturation(_) => "saturation",
            Self::Probe(_) => "probe",
            Self::Endpoints(_) => "endpoints",
        }
    }

    /// The two counters, of a kind that compares such.
    #[must_use]
    pub fn counters(&self) -> Option<&CounterRule> {
        match self {
            Self::ErrorRate(rule) | Self::Availability(rule) => Some(rule),
            _ => None,
        }
    }

    /// The number, of a kind that compares one.
    #[must_use]
    pub fn scalar(&self) -> Option<&ScalarRule> {
        match self {
            Self::Promql(rule) | Self::Throughput(rule) | Self::Saturation(rule) => Some(rule),
            _ => None,
        }
    }

    /// Whether it is measured by a Prometheus.
    #[must_use]
    pub fn needs_prometheus(&self) -> bool {
        !matches!(self, Self::Probe(_) | Self::Endpoints(_))
    }
}

/// The metric names and units a rule's selectors start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// `http_requests_total{status}` and `http_request_duration_seconds`.
    #[default]
    PrometheusHttp,
    /// `http_requests_total{status}` and `http_request_duration_ms`.
    HttpMs,
    /// OpenTelemetry's `http_server_request_duration_seconds{http_response_status_code}`.
    Otel,
    /// `istio_requests_total{destination_workload}` and `istio_request_duration_milliseconds`.
    Istio,
    /// `response_total{deployment,classification}` and `response_latency_ms`.
    Linkerd,
    /// `nginx_ingress_controller_requests{exported_service,status}` and `nginx_ingress_controller_request_duration_seconds`.
    NginxIngress,
    /// `envoy_cluster_upstream_rq_xx{envoy_cluster_name}` and `envoy_cluster_upstream_rq_time`.
    Envoy,
    /// `traefik_service_requests_total{service,code}` and `traefik_service_request_duration_seconds`.
    Traefik,
    /// Selectors are all given by hand.
    Custom,
}

/// Bad and total requests as two counter selectors, placeholders filled per color by the planner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterRule {
    /// As a fraction. `error_rate`: the bad share over which a poll breaches; `availability`: the good share under which it does.
    pub threshold: f64,
    /// Selector of all requests, e.g. `http_requests_total{namespace="{namespace}",pod=~"{deployment}-.+"}`.
    #[serde(default)]
    pub total: String,
    /// Selector of the bad ones, e.g. the same with `status=~"5.."`.
    #[serde(default)]
    pub bad: String,
}

/// One number from an expression, compared with one or more limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScalarRule {
    /// The expression, placeholders as in [`CounterRule::total`]; it must give exactly one series per color. `{window}` stands for
    /// the spans of [`RuleSpec::windows`], each asked for on its own.
    pub expr: String,
    /// A poll breaches above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// A poll breaches below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// A poll breaches above so many times the standby color's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ratio_to_standby: Option<f64>,
    /// A poll breaches above so many times the number of the color that was active before the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ratio_to_before: Option<f64>,
    /// The longest span that the expression looks back over; `None`: it looks at this instant only.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// What the number counts, for people: `req/s`, `ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A latency objective judged on the share of slower requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRule {
    /// The quantile of the objective: 0.95 breaches when more than 5 % are slower.
    pub quantile: f64,
    /// The time over which a request counts as slow; must be a bucket bound.
    #[serde(with = "humantime_serde")]
    pub threshold: Duration,
    /// The unit in which the histogram's bounds are written.
    #[serde(default)]
    pub unit: TimeUnit,
    /// Selector of the histogram's `_bucket` series without `le`, of a native one the histogram itself; placeholders as in
    /// [`CounterRule::total`].
    #[serde(default)]
    pub buckets: String,
    /// How the buckets are stored.
    #[serde(default)]
    pub histogram: Histogram,
}

/// How a histogram's buckets are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Histogram {
    /// One `_bucket` series per bound: the share is exact when the threshold is a bound.
    #[default]
    Classic,
    /// One native series with exponential buckets: the share is interpolated within one bucket.
    Native,
}

impl LatencyRule {
    /// The share of slow requests over which a poll breaches: `1 - quantile`.
    #[must_use]
    pub fn share(&self) -> f64 {
        1.0 - self.quantile
    }

    /// The threshold in the histogram's own unit.
    #[must_use]
    pub fn bound(&self) -> f64 {
        match self.unit {
            TimeUnit::Seconds => self.threshold.as_secs_f64(),
            TimeUnit::Milliseconds => self.threshold.as_secs_f64() * 1000.0,
        }
    }
}

/// The unit of a histogram's bounds. Declared, never guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// `le="0.5"` is half a second.
    #[default]
    Seconds,
    /// `le="500"` is half a second.
    Milliseconds,
}

/// HTTP GET on each endpoint of the color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRule {
    /// Share of failed probes over which a poll breaches, as a fraction.
    pub threshold: f64,
    /// Path, e.g. `/health`.
    pub path: String,
    /// Port on the pod; `None`: the port the active Service targets.
    pub port: Option<u16>,
    /// Lowest and highest good status.
    pub status: (u16, u16),
    /// Text the body must contain.
    pub body_contains: Option<String>,
    /// How long one attempt may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Further attempts before an endpoint counts as failed.
    pub retries: u32,
    /// At most so many endpoints of a color are asked per poll.
    pub endpoints_max: u32,
}

/// Ready endpoints of the active color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointsRule {
    /// How long there must be no Ready endpoint.
    #[serde(with = "humantime_serde")]
    pub down_for: Duration,
}

/// When a judgement becomes a flip. Field names are the knobs of the trace format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// How polls are judged.
    pub mode: Judging,
    /// Time between two looks.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// Breaches in a row that roll back.
    pub consecutive: u32,
    /// Bad requests at which an interval closes.
    pub min_bad: u32,
    /// Requests at which an interval closes; `None`: ceil(min_bad / threshold).
    pub min_requests: Option<u32>,
    /// An interval closes at the latest after so long.
    #[serde(with = "humantime_serde")]
    pub stretch: Duration,
    /// One-sided confidence that the true share is over the threshold, as a fraction.
    pub confidence: f64,
    /// Bad share that counts as severe, as a fraction.
    pub severe_share: f64,
    /// Bad requests a severe interval must hold.
    pub severe_bad: u32,
    /// Span of the slow path.
    #[serde(with = "humantime_serde")]
    pub slow_window: Duration,
    /// How long the slow path must stay over the threshold.
    #[serde(with = "humantime_serde")]
    pub slow_hold: Duration,
    /// Bad requests the slow path needs.
    pub slow_bad: u32,
    /// Evidence of error-like rules that starts earlier after a switch is dropped.
    #[serde(with = "humantime_serde")]
    pub warm_up: Duration,
    /// The same for latency rules.
    #[serde(with = "humantime_serde")]
    pub warm_up_latency: Duration,
    /// How long all paths are armed after a switch.
    #[serde(with = "humantime_serde")]
    pub watch: Duration,
    /// What remains armed afterwards.
    pub after_watch: AfterWatch,
    /// A streak without a new breach for so long expires.
    #[serde(with = "humantime_serde")]
    pub expire: Duration,
    /// Without usable data for so long the guard is blind.
    #[serde(with = "humantime_serde")]
    pub blind_after: Duration,
    /// Blindness is told again after so long.
    #[serde(with = "humantime_serde")]
    pub blind_repeat: Duration,
    /// No automatic flip for so long after a flip, either way.
    #[serde(with = "humantime_serde")]
    pub cooldown: Duration,
    /// Automatic flips in 24 h after which the guard disarms itself.
    pub flips_per_day: u32,
    /// What is done when something else takes a flip back.
    pub reassert: Reassert,
    /// Standby's Ready endpoints, as a fraction of the active's, that a flip needs (at least one).
    pub standby_share: f64,
    /// Fraction of a threshold from which a reading is told as a degradation; 1 = never.
    pub degradation: f64,
    /// Classic mode: the span of the error rate.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Classic mode: the span of the latency quantiles.
    #[serde(with = "humantime_serde")]
    pub window_latency: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Judging::Intervals,
            poll: Duration::from_secs(5),
            consecutive: 3,
            min_bad: 3,
            min_requests: None,
            stretch: Duration::from_secs(60),
            confidence: 0.99,
            severe_share: 0.75,
            severe_bad: 10,
            slow_window: Duration::from_secs(5 * 60),
            slow_hold: Duration::from_secs(2 * 60),
            slow_bad: 5,
            warm_up: Duration::ZERO,
            warm_up_latency: Duration::from_secs(30),
            watch: Duration::from_secs(30 * 60),
            after_watch: AfterWatch::Slow,
            expire: Duration::from_secs(180),
            blind_after: Duration::from_secs(60),
            blind_repeat: Duration::from_secs(5 * 60),
            cooldown: Duration::from_secs(10 * 60),
            flips_per_day: 3,
            reassert: Reassert::default(),
            standby_share: 0.5,
            degradation: 0.8,
            window: Duration::from_secs(60),
            window_latency: Duration::from_secs(2 * 60),
        }
    }
}

/// What is done when something else takes a flip back. People are never fought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reassert {
    /// The same flip is made again at most so often; 0: never.
    pub times: u32,
    /// Before the first time; three times as long before each further one.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
    /// Field managers that are answered so, `*` standing for any text; all others are left alone.
    pub managers: Vec<String>,
}

impl Default for Reassert {
    fn default() -> Self {
        let controllers = ["argocd-*", "argocd", "kustomize-controller", "helm-controller", "flux-*", "flux"];
        Self {
            times: 0,
            pause: Duration::from_secs(10),
            managers: controllers.map(ToOwned::to_owned).to_vec(),
        }
    }
}

/// The field managers of people's tools: kubectl, a dashboard, a browser, Helm on somebody's machine.
const PEOPLE: [&str; 8] = [
    "kubectl*",
    "k9s*",
    "helm",
    "Mozilla*",
    "dashboard*",
    "lens*",
    "node-fetch*",
    "unknown*",
];

impl Reassert {
    /// Whether what this field manager did is undone.
    #[must_use]
    pub fn covers(&self, manager: &str) -> bool {
        !Self::is_person(manager) && self.managers.iter().any(|pattern| fits(pattern, manager))
    }

    /// Whether a field manager is a tool in a person's hand.
    #[must_use]
    pub fn is_person(manager: &str) -> bool {
        PEOPLE.iter().any(|pattern| fits(pattern, manager))
    }

    /// How long traffic is left where it was moved before the n-th time, counted from 1.
    #[must_use]
    pub fn pause_before(&self, attempt: u32) -> Duration {
        self.pause.saturating_mul(3_u32.saturating_pow(attempt.saturating_sub(1)))
    }
}

/// Whether a name is as a pattern says, in which each `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((beginning, further)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut rest) = name.strip_prefix(beginning) else {
        return false;
    };
    let mut parts: Vec<&str> = further.split('*').collect();
    let ending = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(ending)
}

/// How polls are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judging {
    /// Disjoint intervals of raw counters, each request used once.
    #[default]
    Intervals,
    /// The scripts' rule: overlapping windows as scalars, any bad one makes a bad poll, N bad polls in a row roll back.
    Classic,
}

/// What stays armed when the watch after a switch has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterWatch {
    /// The slow path and the endpoints.
    #[default]
    Slow,
    /// Every path, for ever.
    Full,
    /// Everything is judged and told, nothing flips.
    Alert,
}

/// Bounds of an incident's evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvidenceSpec {
    /// Lines per container log.
    pub log_lines: u32,
    /// Bytes per container log.
    pub log_bytes: u64,
    /// Pods per color whose logs are read.
    pub pods_max: u32,
    /// Metric range before the decision.
    #[serde(with = "humantime_serde")]
    pub before: Duration,
    /// Metric range after it; the bundle is complete when it has passed.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// The whole capture ends after so long, with what it has.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// A second pass so long after the decision shows what came after; zero: none.
    #[serde(with = "humantime_serde")]
    pub follow_up: Duration,
}

impl Default for EvidenceSpec {
    fn default() -> Self {
        Self {
            log_lines: 500,
            log_bytes: 256 * 1024,
            pods_max: 10,
            before: Duration::from_secs(30 * 60),
            after: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            follow_up: Duration::from_secs(10 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("a", "a"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*", ""),
            ("*c", "abc"),
            ("a*c*e", "abcde"),
            ("*b*", "abc"),
            ("a**c", "abc"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*", "ba"), ("*c", "abcd"), ("a*a", "a"), ("a*c*b", "abc"), ("", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn people_are_never_covered_and_controllers_only_where_they_are_listed() {
        let reassert = Reassert::default();
        for controller in [
            "argocd-controller",
            "argocd-application-controller",
            "kustomize-controller",
            "helm-controller",
        ] {
            assert!(reassert.covers(controller), "{controller}");
        }
        assert!(!reassert.covers("release-robot") && !reassert.covers("flipback"));
        let all = Reassert {
            managers: vec!["*".into()],
            ..reassert
        };
        for person in [
            "kubectl",
            "kubectl-patch",
            "kubectl-client-side-apply",
            "kubectl-edit",
            "k9s",
            "helm",
            "Mozilla",
        ] {
            assert!(!all.covers(person), "{person}");
        }
        assert!(all.covers("helm-controller") && all.covers("release-robot"));
    }

    #[test]
    fn pauses_grow_threefold_and_never_overflow() {
        let reassert = Reassert::default();
        let pauses = [1, 2, 3].map(|attempt| reassert.pause_before(attempt).as_secs());
        assert_eq!(pauses, [10, 30, 90]);
        assert!(reassert.pause_before(u32::MAX) >= reassert.pause_before(30));
    }
}
