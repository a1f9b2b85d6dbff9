//! What the demo's daemon guards and how: the settings a team would write, with shorter times.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use secrecy::SecretString;

use crate::{
    config::Config,
    model::{
        Action, Color, ColorSpec, CounterRule, EndpointsRule, EvidenceSpec, GuardId, GuardSpec, Histogram, LatencyRule, Mode, NameError,
        Policy, Preset, RouteSpec, RuleKind, RuleName, RuleSpec, ServiceRoute,
        settings::{Channel, ChatSettings, ClusterSettings, PrometheusSettings, Secret, ServeSettings},
    },
    sandbox::Sandbox,
};

/// Namespace and Service of the demo.
pub(super) const NAMESPACE: &str = "shop";
pub(super) const SERVICE: &str = "web";
/// Above this a request is slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);
/// Users' requests per second.
pub(super) const RATE: f64 = 40.0;

/// The times of the demo, at `--speed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    /// Between two looks.
    pub poll: Duration,
    /// Between two scrapes.
    pub scrape: Duration,
    /// Without a Ready pod for so long, traffic is moved.
    pub down_for: Duration,
    /// Without data for so long, the guard is blind.
    pub blind_after: Duration,
}

impl Times {
    pub(super) fn at(speed: f64) -> Self {
        let scaled = |millis| Duration::from_millis(millis).div_f64(speed);
        Self {
            poll: scaled(2000),
            scrape: scaled(1000),
            down_for: scaled(4000),
            blind_after: scaled(8000),
        }
    }
}

/// Why the settings could not be made; both are the demo's own constants.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A name of the demo is none.
    #[error("failed to name the demo's guard")]
    Name(#[from] NameError),
    /// A URL of the sandbox is none.
    #[error("failed to read the sandbox's address")]
    Url(#[from] url::ParseError),
}

/// The daemon's settings for a sandbox.
pub(super) fn config(sandbox: &Sandbox, times: &Times, data_dir: PathBuf) -> Result<Config, SetupError> {
    Ok(Config {
        clusters: vec![ClusterSettings {
            kubeconfig: Some(sandbox.kubeconfig()),
            read_timeout: Duration::from_secs(5),
            flip_timeout: Duration::from_secs(5),
            prometheus: Some(PrometheusSettings {
                url: sandbox.prometheus_url().parse()?,
                timeout: times.poll.min(Duration::from_secs(2)),
                bearer: None,
                basic: None,
                ca_file: None,
                client_certificate: None,
                headers: BTreeMap::new(),
            }),
            ..ClusterSettings::default()
        }],
        guards: vec![Arc::new(guard(times)?)],
        chats: ["slack", "teams", "webhook"]
            .map(|name| {
                let url = Secret::Value(SecretString::from(sandbox.chat_url(name)));
                let channel = match name {
                    "slack" => Channel::Slack { url },
                    "teams" => Channel::Teams { url },
                    _ => Channel::Webhook {
                        url,
                        token: None,
                        signing_key: None,
                    },
                };
                ChatSettings::new(name, channel)
            })
            .into(),
        serve: ServeSettings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: None,
            evidence: None,
        },
        data_dir,
        poll: times.poll,
        probe_resolve: sandbox.probe_resolve(),
        ..Config::default()
    })
}

fn guard(times: &Times) -> Result<GuardSpec, NameError> {
    let color = |name: &str| {
        Ok::<_, NameError>((
            Color::new(name)?,
            ColorSpec {
                value: name.to_owned(),
                deployment: Some(format!("{SERVICE}-{name}")),
                service: None,
            },
        ))
    };
    Ok(GuardSpec {
        id: GuardId::new("", NAMESPACE, SERVICE)?,
        cluster: String::new(),
        namespace: NAMESPACE.to_owned(),
        route: RouteSpec::Service(ServiceRoute {
            active: SERVICE.to_owned(),
            preview: Some(format!("{SERVICE}-preview")),
            selector_key: "color".to_owned(),
        }),
        colors: BTreeMap::from([color("blue")?, color("green")?]),
        rules: rules(times)?,
        policy: Policy {
            poll: times.poll,
            blind_after: times.blind_after,
            warm_up_latency: times.poll,
            ..Policy::default()
        },
        mode: Mode::Enforce,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec {
            before: Duration::from_secs(60),
            after: times.poll,
            deadline: Duration::from_secs(15),
            ..EvidenceSpec::default()
        },
        chats: Vec::new(),
        config_hash: "demo".to_owned(),
    })
}

fn rules(times: &Times) -> Result<Vec<RuleSpec>, NameError> {
    let preset = Preset::PrometheusHttp;
    let rule = |name: &str, kind| {
        Ok(RuleSpec {
            name: RuleName::new(name)?,
            kind,
            action: Action::Rollback,
            critical: false,
            windows: None,
        })
    };
    Ok(vec![
        rule(
            "error_rate",
            RuleKind::ErrorRate(CounterRule {
                threshold: 0.05,
                total: preset.total().to_owned(),
                bad: preset.bad().to_owned(),
            }),
        )?,
        rule(
            "latency_p95",
            RuleKind::Latency(LatencyRule {
                quantile: 0.95,
                threshold: SLOW,
                unit: preset.unit(),
                buckets: preset.buckets().to_owned(),
                histogram: Histogram::Classic,
            }),
        )?,
        rule("endpoints", RuleKind::Endpoints(EndpointsRule { down_for: times.down_for }))?,
    ])
}
