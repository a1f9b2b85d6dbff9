//! The selectors a rule starts from, as data: one table for configuration, planner and documentation.
//!
//! A selector is a PromQL vector selector with placeholders that are filled per color. A placeholder is exactly `{namespace}`,
//! `{color}`, `{value}`, `{deployment}` or `{service}`: a bare word in braces is no PromQL, so nothing a selector may hold is mistaken
//! for one. Placeholders stand inside quotes; after `=~` and `!~` the filled-in text is escaped for the regular expression too.
//! Pods are told apart by the names a Deployment gives them, because plain applications carry no label that names their color.
//!
//! What a preset expects of the world stands beside its selectors: `docs/presets.md` is written from here, and `tests/presets.rs` reads
//! each of them from a real Prometheus. Bad is what answers 500 and above, never the 400s: those are the client's.

use super::{Preset, TimeUnit};

/// What a preset reads, and what it expects of the world.
#[derive(Clone, Copy, Debug)]
pub struct PresetFacts {
    /// The word of the configuration.
    pub name: &'static str,
    /// What it is for, in one sentence.
    pub about: &'static str,
    /// Selector of all requests; empty where it must be given by hand.
    pub total: &'static str,
    /// Selector of the bad ones; empty where it must be given by hand.
    pub bad: &'static str,
    /// Selector of the latency histogram's `_bucket` series without `le`; empty where it must be given by hand.
    pub buckets: &'static str,
    /// The unit of the histogram's bounds.
    pub unit: TimeUnit,
    /// The bounds the software has unless told otherwise, in that unit; empty where each application has its own.
    pub bounds: &'static [f64],
    /// The labels it selects by, and what they hold.
    pub labels: &'static [(&'static str, &'static str)],
    /// Where those labels come from: what the scrape must be configured to.
    pub origin: &'static str,
    /// What a scrape target is, and whether its age is known.
    pub target: &'static str,
    /// What it cannot tell apart.
    pub blind: &'static str,
    /// The same metrics under other labels, for scrapes that are configured otherwise.
    pub variants: &'static [PresetVariant],
}

/// Selectors to write by hand where a scrape gives the preset's metrics other labels.
#[derive(Clone, Copy, Debug)]
pub struct PresetVariant {
    /// When it is needed.
    pub when: &'static str,
    /// As [`PresetFacts::total`].
    pub total: &'static str,
    /// As [`PresetFacts::bad`].
    pub bad: &'static str,
    /// As [`PresetFacts::buckets`].
    pub buckets: &'static str,
}

impl Preset {
    /// Every preset, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::PrometheusHttp,
        Self::HttpMs,
        Self::Otel,
        Self::Istio,
        Self::Linkerd,
        Self::NginxIngress,
        Self::Envoy,
        Self::Traefik,
        Self::Custom,
    ];

    /// What it reads and expects.
    #[must_use]
    pub const fn facts(self) -> &'static PresetFacts {
        match self {
            Self::PrometheusHttp => &PROMETHEUS_HTTP,
            Self::HttpMs => &HTTP_MS,
            Self::Otel => &OTEL,
            Self::Istio => &ISTIO,
            Self::Linkerd => &LINKERD,
            Self::NginxIngress => &NGINX_INGRESS,
            Self::Envoy => &ENVOY,
            Self::Traefik => &TRAEFIK,
            Self::Custom => &CUSTOM,
        }
    }

    /// Selector of all requests; empty where it must be given by hand.
    #[must_use]
    pub fn total(self) -> &'static str {
        self.facts().total
    }

    /// Selector of the bad requests, which are answers of 500 and above, never of the 400s; empty where it must be given by hand.
    #[must_use]
    pub fn bad(self) -> &'static str {
        self.facts().bad
    }

    /// Selector of the latency histogram's buckets, without `le`; empty where it must be given by hand.
    #[must_use]
    pub fn buckets(self) -> &'static str {
        self.facts().buckets
    }

    /// The unit of the histogram's bounds; for hand-written selectors the one Prometheus recommends.
    #[must_use]
    pub fn unit(self) -> TimeUnit {
        self.facts().unit
    }
}

/// Labels that Prometheus' Kubernetes discovery puts on every series of a pod.
const POD_LABELS: &[(&str, &str)] = &[
    ("namespace", "the pod's namespace"),
    ("pod", "the pod's name, which begins with its Deployment's"),
    ("status", "the answer's HTTP status"),
];
const POD_ORIGIN: &str = "`status` from the application. `namespace` and `pod` from the scrape: the Prometheus Operator's PodMonitors and ServiceMonitors set \
     them; a scrape job of your own relabels `__meta_kubernetes_namespace` and `__meta_kubernetes_pod_name`.";
const POD_TARGET: &str = "The application's pod. Its age is known where it exposes `process_start_time_seconds`, as most client libraries do: the first requests \
     of a new pod then count; without it they are a baseline only.";
const POD_BLIND: &str = "Health probes and scrapes, if the application counts them as requests. Pods of a bare ReplicaSet, StatefulSet or DaemonSet, whose \
     names have another form, are not read.";

/// What Envoy has unless told otherwise, in milliseconds; Istio's proxies have the same.
const ENVOY_BOUNDS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

static PROMETHEUS_HTTP: PresetFacts = PresetFacts {
    name: "prometheus-http",
    about: "Applications that count requests in http_requests_total and time them in seconds, the names Prometheus' own documentation uses.",
    total: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    bad: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+",status=~"5.."}"#,
    buckets: r#"http_request_duration_seconds_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    unit: TimeUnit::Seconds,
    bounds: &[],
    labels: POD_LABELS,
    origin: POD_ORIGIN,
    target: POD_TARGET,
    blind: POD_BLIND,
    variants: &[PresetVariant {
        when: "the application calls the label `code`, as client_golang's promhttp does",
        total: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
        bad: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+",code=~"5.."}"#,
        buckets: r#"http_request_duration_seconds_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    }],
};

static HTTP_MS: PresetFacts = PresetFacts {
    name: "http-ms",
    about: "The same with a histogram in milliseconds, http_request_duration_ms.",
    total: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    bad: r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+",status=~"5.."}"#,
    buckets: r#"http_request_duration_ms_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    unit: TimeUnit::Milliseconds,
    bounds: &[],
    labels: POD_LABELS,
    origin: POD_ORIGIN,
    target: POD_TARGET,
    blind: POD_BLIND,
    variants: &[],
};

static OTEL: PresetFacts = PresetFacts {
    name: "otel",
    about: "Applications instrumented by OpenTelemetry's stable HTTP conventions (http.server.request.duration), exposed for Prometheus to scrape.",
    total: r#"http_server_request_duration_seconds_count{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    bad: r#"http_server_request_duration_seconds_count{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+",http_response_status_code=~"5.."}"#,
    buckets: r#"http_server_request_duration_seconds_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
    unit: TimeUnit::Seconds,
    bounds: &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
    labels: &[
        ("namespace", "the pod's namespace"),
        ("pod", "the pod's name, which begins with its Deployment's"),
        ("http_response_status_code", "the answer's HTTP status"),
    ],
    origin: "`http_response_status_code` from the instrumentation; `namespace` and `pod` from the scrape of the SDK's Prometheus exporter, as for \
             prometheus-http. Instrumentations of before the stable conventions (http.server.duration, in milliseconds) need \
             OTEL_SEMCONV_STABILITY_OPT_IN=http, or selectors of your own.",
    target: "The application's pod. Its age is known where the exporter exposes `process_start_time_seconds` beside the metrics; else the first \
             requests of a new pod are a baseline only. Pushed metrics have no scrape: `job` is service.namespace/service.name and `instance` is \
             service.instance.id, which must differ from pod to pod.",
    blind: "A request that got no answer has no http_response_status_code and is not bad. Pushed every 60 s, as the SDKs do by default, no fault is \
            seen sooner: set OTEL_METRIC_EXPORT_INTERVAL=5000.",
    variants: &[PresetVariant {
        when: "metrics are pushed (OTLP) and the resource attributes k8s.namespace.name and k8s.deployment.name are promoted to labels",
        total: r#"http_server_request_duration_seconds_count{k8s_namespace_name="{namespace}",k8s_deployment_name="{deployment}"}"#,
        bad: r#"http_server_request_duration_seconds_count{k8s_namespace_name="{namespace}",k8s_deployment_name="{deployment}",http_response_status_code=~"5.."}"#,
        buckets: r#"http_server_request_duration_seconds_bucket{k8s_namespace_name="{namespace}",k8s_deployment_name="{deployment}"}"#,
    }],
};

static ISTIO: PresetFacts = PresetFacts {
    name: "istio",
    about: "Istio's standard metrics, as the sidecar of the serving pod reports them.",
    total: r#"istio_requests_total{reporter="destination",destination_workload_namespace="{namespace}",destination_workload="{deployment}"}"#,
    bad: r#"istio_requests_total{reporter="destination",destination_workload_namespace="{namespace}",destination_workload="{deployment}",response_code=~"5.."}"#,
    buckets: r#"istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="{namespace}",destination_workload="{deployment}"}"#,
    unit: TimeUnit::Milliseconds,
    bounds: ENVOY_BOUNDS,
    labels: &[
        (
            "reporter",
            "\"destination\": the serving side, so that a request is counted once and not by its caller too",
        ),
        ("destination_workload_namespace", "the serving pod's namespace"),
        ("destination_workload", "the serving Deployment"),
        (
            "response_code",
            "the answer's HTTP status; 0 where the client went away first, which is not bad",
        ),
    ],
    origin: "All from Istio's telemetry; the scrape (port 15090 /stats/prometheus, or 15020 merged) need set none.",
    target: "The sidecar of the serving pod. A merged scrape (port 15020) tells its age as istio_agent_process_start_time_seconds; without it the \
             first requests of a new pod are a baseline only. The application's own process_start_time_seconds, which is merged too, is not asked \
             for: Envoy counts on when the application restarts.",
    blind: "Requests that never reached a sidecar (connection refused, no healthy endpoint, a mutual TLS failure) are seen by the caller's proxy alone \
            and not counted here: keep the rule `endpoints`. gRPC answers 200 whatever its grpc_response_status. Versions within one Deployment.",
    variants: &[PresetVariant {
        when: "ambient mode, where the waypoint reports in place of sidecars",
        total: r#"istio_requests_total{reporter="waypoint",destination_workload_namespace="{namespace}",destination_workload="{deployment}"}"#,
        bad: r#"istio_requests_total{reporter="waypoint",destination_workload_namespace="{namespace}",destination_workload="{deployment}",response_code=~"5.."}"#,
        buckets: r#"istio_request_duration_milliseconds_bucket{reporter="waypoint",destination_workload_namespace="{namespace}",destination_workload="{deployment}"}"#,
    }],
};

static LINKERD: PresetFacts = PresetFacts {
    name: "linkerd",
    about: "Linkerd's proxy metrics, as the inbound side of the serving pod reports them.",
    total: r#"response_total{direction="inbound",namespace="{namespace}",deployment="{deployment}"}"#,
    bad: r#"response_total{direction="inbound",namespace="{namespace}",deployment="{deployment}",classification="failure"}"#,
    buckets: r#"response_latency_ms_bucket{direction="inbound",namespace="{namespace}",deployment="{deployment}"}"#,
    unit: TimeUnit::Milliseconds,
    bounds: &[
        1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0,
        10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
    ],
    labels: &[
        (
            "direction",
            "\"inbound\": the serving side, so that a request is counted once and not by its caller too",
        ),
        ("namespace", "the serving pod's namespace"),
        ("deployment", "the serving Deployment"),
        (
            "classification",
            "\"failure\" for answers of 500 and above and for failed gRPC calls, else \"success\"",
        ),
    ],
    origin: "`direction` and `classification` from the proxy; `namespace`, `pod` and `deployment` from the scrape, as the Prometheus of linkerd-viz sets \
             them. Another Prometheus needs its job `linkerd-proxy`, which maps the pod label `linkerd.io/proxy-deployment` to `deployment`.",
    target: "The proxy of the serving pod. It exposes process_start_time_seconds: the first requests of a new pod count.",
    blind: "The latency is the time to the first byte of the answer. Requests that never reached the pod are seen by the caller's proxy alone: keep the \
            rule `endpoints`. The kubelet's probes pass the proxy and may be counted as good requests.",
    variants: &[],
};

static NGINX_INGRESS: PresetFacts = PresetFacts {
    name: "nginx-ingress",
    about: "The community's ingress-nginx controller, per Service behind it.",
    total: r#"nginx_ingress_controller_requests{exported_namespace="{namespace}",exported_service="{service}"}"#,
    bad: r#"nginx_ingress_controller_requests{exported_namespace="{namespace}",exported_service="{service}",status=~"5.."}"#,
    buckets: r#"nginx_ingress_controller_request_duration_seconds_bucket{exported_namespace="{namespace}",exported_service="{service}"}"#,
    unit: TimeUnit::Seconds,
    bounds: &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
    labels: &[
        ("exported_namespace", "the Ingress' namespace"),
        ("exported_service", "the Service that the Ingress sends the request to"),
        (
            "status",
            "the answer's HTTP status, or its class (\"5xx\") with --report-status-classes",
        ),
    ],
    origin: "The controller names them `namespace` and `service`. A scrape by a ServiceMonitor has labels of these names itself (the controller's own) and \
             renames the metric's to `exported_namespace` and `exported_service`; with `honorLabels: true` it does not.",
    target: "The controller's pod, which is older than any color: the requests before a color is first seen there are a baseline only. Its age is told by \
             process_start_time_seconds; restarts are seen as counters that fall.",
    blind: "The color, where the Ingress points at the active Service: this preset needs an Ingress (a canary Ingress, say) that names each color's own \
            Service. A wildcard host is not counted unless the controller runs with --metrics-per-host=false. The time includes the sending of the answer to \
            the client; the help text says milliseconds, the values are seconds. Traffic that does not pass the ingress.",
    variants: &[PresetVariant {
        when: "the scrape keeps the metric's own labels (`honorLabels: true`), or sets none of these names",
        total: r#"nginx_ingress_controller_requests{namespace="{namespace}",service="{service}"}"#,
        bad: r#"nginx_ingress_controller_requests{namespace="{namespace}",service="{service}",status=~"5.."}"#,
        buckets: r#"nginx_ingress_controller_request_duration_seconds_bucket{namespace="{namespace}",service="{service}"}"#,
    }],
};

static ENVOY: PresetFacts = PresetFacts {
    name: "envoy",
    about: "Envoy's own cluster metrics, where the cluster is called <namespace>_<service>_<port>, as Contour does, or the same with slashes.",
    total: r#"envoy_cluster_upstream_rq_xx{envoy_cluster_name=~"{namespace}[_/]{service}[_/].+"}"#,
    bad: r#"envoy_cluster_upstream_rq_xx{envoy_cluster_name=~"{namespace}[_/]{service}[_/].+",envoy_response_code_class="5"}"#,
    buckets: r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=~"{namespace}[_/]{service}[_/].+"}"#,
    unit: TimeUnit::Milliseconds,
    bounds: ENVOY_BOUNDS,
    labels: &[
        (
            "envoy_cluster_name",
            "Envoy's upstream cluster, named after namespace, Service and port",
        ),
        ("envoy_response_code_class", "the first digit of the answer's HTTP status"),
    ],
    origin: "All from Envoy's /stats/prometheus; the scrape need set none. All requests are the sum of the classes, not envoy_cluster_upstream_rq_total: \
             that one counts a request when it is sent, the classes when it is answered, and a share of the two would lag.",
    target: "The Envoy that forwards, which is older than any color: the requests before a color is first seen there are a baseline only. Envoy exposes no \
             process_start_time_seconds; its restarts are seen as counters that fall.",
    blind: "The color, where the route points at the active Service: this preset needs routes that name each color's own Service. Retries count as requests \
            of their own. Timeouts, resets and \"no healthy upstream\" are counted as the 503 or 504 that Envoy answers; the latency has none of them. \
            Clusters named otherwise (by hand, by Gloo, by Envoy Gateway after its HTTPRoutes) need selectors of your own.",
    variants: &[PresetVariant {
        when: "the clusters are written by hand and called like the color's Service; `namespace` is then the Envoy's own, from the scrape",
        total: r#"envoy_cluster_upstream_rq_xx{namespace="{namespace}",envoy_cluster_name="{service}"}"#,
        bad: r#"envoy_cluster_upstream_rq_xx{namespace="{namespace}",envoy_cluster_name="{service}",envoy_response_code_class="5"}"#,
        buckets: r#"envoy_cluster_upstream_rq_time_bucket{namespace="{namespace}",envoy_cluster_name="{service}"}"#,
    }],
};

static TRAEFIK: PresetFacts = PresetFacts {
    name: "traefik",
    about: "Traefik 2 and 3, per Service behind it, from Ingress and IngressRoute objects.",
    total: r#"traefik_service_requests_total{service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?"}"#,
    bad: r#"traefik_service_requests_total{service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?",code=~"5.."}"#,
    buckets: r#"traefik_service_request_duration_seconds_bucket{service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?"}"#,
    unit: TimeUnit::Seconds,
    bounds: &[0.1, 0.3, 1.2, 5.0],
    labels: &[
        (
            "service",
            "<namespace>-<service>-<port>@kubernetes, or @kubernetescrd for an IngressRoute",
        ),
        ("code", "the answer's HTTP status"),
    ],
    origin: "All from Traefik, with --metrics.prometheus.addServicesLabels (the default). A scrape by a ServiceMonitor has a label `service` itself and renames \
             the metric's to `exported_service`; a PodMonitor or pod annotations do not.",
    target: "Traefik's pod, which is older than any color: the requests before a color is first seen there are a baseline only. It exposes \
             process_start_time_seconds; restarts are seen as counters that fall.",
    blind: "The color, where the route points at the active Service: this preset needs routes that name each color's own Service. Names that join to the same \
            text (namespace `a-b`, Service `c` and namespace `a`, Service `b-c`). Ports whose name has a dash are not read. The default bounds are few: set \
            --metrics.prometheus.buckets to your objectives.",
    variants: &[PresetVariant {
        when: "the scrape has a label `service` of its own, as a ServiceMonitor's has",
        total: r#"traefik_service_requests_total{exported_service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?"}"#,
        bad: r#"traefik_service_requests_total{exported_service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?",code=~"5.."}"#,
        buckets: r#"traefik_service_request_duration_seconds_bucket{exported_service=~"{namespace}-{service}-[a-z0-9]+@kubernetes(crd)?"}"#,
    }],
};

static CUSTOM: PresetFacts = PresetFacts {
    name: "custom",
    about: "Every selector is written by hand.",
    total: "",
    bad: "",
    buckets: "",
    unit: TimeUnit::Seconds,
    bounds: &[],
    labels: &[],
    origin: "From your selectors, which must hold a placeholder that tells colors apart.",
    target: "Whatever the labels `job`, `instance` and `pod` of the selected series tell apart.",
    blind: "What your selectors cannot.",
    variants: &[],
};

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use super::*;

    #[test]
    fn every_selector_of_a_preset_tells_colors_and_namespaces_apart() {
        for facts in Preset::ALL.map(Preset::facts).into_iter().filter(|facts| facts.name != "custom") {
            let own = [facts.total, facts.bad, facts.buckets];
            let varied = facts
                .variants
                .iter()
                .flat_map(|variant| [variant.total, variant.bad, variant.buckets]);
            for selector in own.into_iter().chain(varied) {
                assert!(selector.contains("{namespace}"), "{selector}");
                assert!(selector.contains("{deployment}") || selector.contains("{service}"), "{selector}");
            }
            assert!(
                facts.bad.len() > facts.total.len() && facts.buckets.contains("_bucket{"),
                "{}",
                facts.name
            );
            assert!(facts.bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", facts.name);
        }
    }

    #[test]
    fn a_presets_name_is_the_one_it_is_serialized_by() {
        for preset in Preset::ALL {
            assert_eq!(serde_json::to_value(preset).expect("serializes"), preset.facts().name);
        }
    }

    /// `docs/presets.md`, written from the data above.
    fn document() -> String {
        let mut text = include_str!("preset/head.md").to_owned();
        for facts in Preset::ALL.map(Preset::facts) {
            section(&mut text, facts).expect("a String takes all");
        }
        text
    }

    fn section(text: &mut String, facts: &PresetFacts) -> std::fmt::Result {
        let (unit, symbol) = match facts.unit {
            TimeUnit::Seconds => ("seconds", "s"),
            TimeUnit::Milliseconds => ("milliseconds", "ms"),
        };
        writeln!(text, "\n## `{}`\n\n{}\n", facts.name, facts.about)?;
        if !facts.total.is_empty() {
            selectors(text, facts.total, facts.bad, facts.buckets)?;
            writeln!(text)?;
            let metrics: Vec<String> = [facts.total, facts.buckets]
                .iter()
                .map(|selector| format!("`{}`", selector.split('{').next().unwrap_or_default()))
                .collect();
            writeln!(text, "- **Metrics**: {}.", metrics.join(" and "))?;
        }
        write!(text, "- **Unit** of the histogram: {unit}")?;
        match facts.bounds {
            [] => writeln!(text, "; its bounds are the application's own.")?,
            bounds => {
                let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
                writeln!(text, ". Bounds unless configured otherwise, in {symbol}: {}.", bounds.join(", "))?;
            }
        }
        if !facts.labels.is_empty() {
            writeln!(text, "- **Labels**:")?;
        }
        for (label, meaning) in facts.labels {
            writeln!(text, "  - `{label}`: {meaning}")?;
        }
        writeln!(text, "- **Where the labels come from**: {}", facts.origin)?;
        writeln!(text, "- **The scrape target**: {}", facts.target)?;
        writeln!(text, "- **What it cannot tell apart, or see**: {}", facts.blind)?;
        for variant in facts.variants {
            writeln!(text, "\nWhere {}:\n", variant.when)?;
            selectors(text, variant.total, variant.bad, variant.buckets)?;
        }
        Ok(())
    }

    fn selectors(text: &mut String, total: &str, bad: &str, buckets: &str) -> std::fmt::Result {
        writeln!(text, "```toml\ntotal = '{total}'\nbad = '{bad}'\nbuckets = '{buckets}'\n```")
    }

    #[test]
    fn the_documentation_says_what_the_data_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/presets.md");
        let document = document();
        if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
            fs::write(&path, &document).expect("writable");
        }
        let written = fs::read_to_string(&path).expect("docs/presets.md");
        assert_eq!(
            written, document,
            "docs/presets.md is written from src/model/preset.rs; INSTA_UPDATE=always writes it anew"
        );
    }
}
