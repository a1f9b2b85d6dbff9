//! Environment variables: our own `FLIPBACK_...`, and the ones that the teams' scripts already read.
//!
//! Ours: `FLIPBACK_` and the key's path, with `__` between its parts: `FLIPBACK_DEFAULTS__POLICY__CONSECUTIVE=5`. Every value is a
//! text until its reader knows better, so that `0123` stays a name. An empty variable is no variable.
//!
//! The scripts' variables win over the file, also over what a single guard says there; the value of a guard's own `FLIPBACK_GUARDS__...`
//! is more specific and wins over them. Where several names mean one thing and disagree, it is refused: nobody knows which one is meant.
//!
//! Left alone: the variables Kubernetes injects for a Service called `flipback` (`FLIPBACK_PORT`, `FLIPBACK_SERVICE_HOST`, ...).

use std::collections::BTreeSet;

use super::{
    duration,
    error::{Origin, Problem, Problems},
    raw::{Node, NodeKind},
};

/// A variable of ours, with the path it sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) path: Vec<String>,
    pub(super) value: String,
}

/// What the scripts' variables say; each as a node that can stand for a value of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scripts {
    /// `NAMESPACE_PREFIX`: `defaults.namespace_prefix`.
    pub(super) namespace_prefix: Option<Node>,
    /// `ACTIVE_SERVICE`: every guard's `route.service`.
    pub(super) active_service: Option<Node>,
    /// `PROMETHEUS_URL`: `prometheus.url`.
    pub(super) prometheus_url: Option<Node>,
    /// `ERROR_RATE_THRESHOLD`, a share: every rule of kind `error_rate`.
    pub(super) error_rate: Option<Node>,
    /// `P95_LATENCY_THRESHOLD`, in milliseconds: every latency rule with quantile 0.95.
    pub(super) latency_p95: Option<Node>,
    /// `P99_LATENCY_THRESHOLD`, in milliseconds: every latency rule with quantile 0.99.
    pub(super) latency_p99: Option<Node>,
    /// `CONSECUTIVE_FAILURES_THRESHOLD`: every guard's `policy.consecutive`.
    pub(super) consecutive: Option<Node>,
    /// `MONITOR_INTERVAL`, in seconds: `poll`.
    pub(super) poll: Option<Node>,
    /// `GRACE_PERIOD`, in seconds: every guard's `policy.warm_up` and `policy.warm_up_latency`.
    pub(super) grace: Option<Node>,
    /// `HEALTH_CHECK_TIMEOUT`, in seconds: every probe's `timeout`.
    pub(super) probe_timeout: Option<Node>,
    /// `SLACK_WEBHOOK_URL`: the Slack chat's URL.
    pub(super) slack: Option<Node>,
    /// `TEAMS_WEBHOOK_URL`: the Teams chat's URL.
    pub(super) teams: Option<Node>,
    /// `DISCORD_WEBHOOK_URL`: the Discord chat's URL.
    pub(super) discord: Option<Node>,
}

/// How a script writes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Text,
    Secret,
    Share,
    Count,
    Seconds,
    Milliseconds,
}

/// One thing the scripts can say, all names that say it, ours last.
struct Knob {
    names: &'static [&'static str],
    unit: Unit,
    place: fn(&mut Scripts) -> &mut Option<Node>,
}

/// The catalogue. Names that start with `FLIPBACK_` are only compared: they reach their key by their own path.
const KNOBS: &[Knob] = &[
    Knob {
        names: &["NAMESPACE_PREFIX", "FLIPBACK_DEFAULTS__NAMESPACE_PREFIX"],
        unit: Unit::Text,
        place: |scripts| &mut scripts.namespace_prefix,
    },
    Knob {
        names: &["ACTIVE_SERVICE"],
        unit: Unit::Text,
        place: |scripts| &mut scripts.active_service,
    },
    Knob {
        names: &["PROMETHEUS_URL", "FLIPBACK_PROMETHEUS__URL"],
        unit: Unit::Secret,
        place: |scripts| &mut scripts.prometheus_url,
    },
    Knob {
        names: &["ERROR_RATE_THRESHOLD", "FLIPBACK_DEFAULTS__RULES__ERROR_RATE__THRESHOLD"],
        unit: Unit::Share,
        place: |scripts| &mut scripts.error_rate,
    },
    Knob {
        names: &[
            "P95_LATENCY_THRESHOLD",
            "LATENCY_P95_THRESHOLD",
            "FLIPBACK_DEFAULTS__RULES__LATENCY_P95__THRESHOLD",
        ],
        unit: Unit::Milliseconds,
        place: |scripts| &mut scripts.latency_p95,
    },
    Knob {
        names: &[
            "P99_LATENCY_THRESHOLD",
            "LATENCY_P99_THRESHOLD",
            "FLIPBACK_DEFAULTS__RULES__LATENCY_P99__THRESHOLD",
        ],
        unit: Unit::Milliseconds,
        place: |scripts| &mut scripts.latency_p99,
    },
    Knob {
        names: &[
            "CONSECUTIVE_FAILURES_THRESHOLD",
            "HEALTH_CHECK_FAILURE_THRESHOLD",
            "FLIPBACK_DEFAULTS__POLICY__CONSECUTIVE",
        ],
        unit: Unit::Count,
        place: |scripts| &mut scripts.consecutive,
    },
    Knob {
        names: &["MONITOR_INTERVAL", "FLIPBACK_POLL"],
        unit: Unit::Seconds,
        place: |scripts| &mut scripts.poll,
    },
    Knob {
        names: &["GRACE_PERIOD", "FLIPBACK_DEFAULTS__POLICY__WARM_UP"],
        unit: Unit::Seconds,
        place: |scripts| &mut scripts.grace,
    },
    Knob {
        names: &["HEALTH_CHECK_TIMEOUT"],
        unit: Unit::Seconds,
        place: |scripts| &mut scripts.probe_timeout,
    },
    Knob {
        names: &["SLACK_WEBHOOK_URL", "FLIPBACK_CHATS__SLACK__URL"],
        unit: Unit::Secret,
        place: |scripts| &mut scripts.slack,
    },
    Knob {
        names: &["TEAMS_WEBHOOK_URL", "FLIPBACK_CHATS__TEAMS__URL"],
        unit: Unit::Secret,
        place: |scripts| &mut scripts.teams,
    },
    Knob {
        names: &["DISCORD_WEBHOOK_URL", "FLIPBACK_CHATS__DISCORD__URL"],
        unit: Unit::Secret,
        place: |scripts| &mut scripts.discord,
    },
];

/// Variables with our prefix that are read elsewhere.
const READ_ELSEWHERE: &[&str] = &[
    "FLIPBACK_CONFIG",
    "FLIPBACK_ADDRESS",
    "FLIPBACK_OUTPUT",
    "FLIPBACK_REQUIRE_REAL_PARTS",
];

/// Our own variables.
pub(super) fn own(environment: &[(String, String)]) -> Vec<Variable> {
    let mut found: Vec<Variable> = environment
        .iter()
        .filter(|(name, value)| !value.is_empty() && !READ_ELSEWHERE.contains(&name.as_str()) && !is_service_link(name))
        .filter_map(|(name, value)| {
            let path = name.strip_prefix("FLIPBACK_")?;
            Some(Variable {
                name: name.clone(),
                path: path.split("__").map(str::to_ascii_lowercase).collect(),
                value: value.clone(),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether Kubernetes made the variable for a Service whose name starts with `flipback`.
fn is_service_link(name: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let ports = |rest: &str| rest.starts_with("PORT_") && (rest.contains("_TCP") || rest.contains("_UDP") || rest.contains("_SCTP"));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("PORT_").any(|(at, _)| name.get(at..).is_some_and(ports))
}

/// The scripts' variables, and the names of those that say something.
pub(super) fn scripts(environment: &[(String, String)], problems: &Problems) -> (Scripts, BTreeSet<String>) {
    let mut scripts = Scripts::default();
    let mut used = BTreeSet::new();
    for knob in KNOBS {
        let given: Vec<(&str, &str)> = knob
            .names
            .iter()
            .filter_map(|name| {
                let (_, value) = environment.iter().find(|(given, value)| given == name && !value.is_empty())?;
                Some((*name, value.as_str()))
            })
            .collect();
        let Some((first, value)) = given.first().copied() else { continue };
        let plain = knob.unit.plain(value);
        if let Some((other, differs)) = given.iter().skip(1).find(|(_, value)| knob.unit.plain(value) != plain) {
            let shown = knob.unit != Unit::Secret;
            problems.add(Problem {
                origin: Origin::Environment(first.to_owned()),
                key: String::new(),
                found: if shown {
                    format!("{first}={value} and {other}={differs}, which set the same thing and disagree")
                } else {
                    format!("{first} and {other}, which set the same thing and disagree")
                },
                allowed: "one value".to_owned(),
                hint: Some(format!("unset {other}, or set it to the same")),
            });
        }
        used.extend(
            given
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .filter(|name| !name.starts_with("FLIPBACK_")),
        );
        if !first.starts_with("FLIPBACK_") {
            *(knob.place)(&mut scripts) = Some(Node {
                key: String::new(),
                origin: Origin::Environment(first.to_owned()),
                kind: NodeKind::Text(plain),
            });
        }
    }
    (scripts, used)
}

impl Unit {
    /// The value in the form that the file's readers understand; what is not understood stays as it is, for them to refuse.
    fn plain(self, value: &str) -> String {
        let value = value.trim();
        let duration = |read: fn(&str) -> Result<std::time::Duration, duration::NotOne>| {
            read(value).map_or_else(|_| value.to_owned(), duration::print)
        };
        match self {
            Self::Text | Self::Secret => value.to_owned(),
            Self::Share => duration::share(value).map_or_else(|_| value.to_owned(), |share| share.to_string()),
            Self::Count => value.parse::<u64>().map_or_else(|_| value.to_owned(), |count| count.to_string()),
            Self::Seconds => duration(duration::seconds),
            Self::Milliseconds => duration(duration::milliseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn kubernetes_service_links_are_no_configuration() {
        let links = environment(&[
            ("FLIPBACK_PORT", "tcp://10.0.0.1:8080"),
            ("FLIPBACK_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("FLIPBACK_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("FLIPBACK_SERVICE_HOST", "10.0.0.1"),
            ("FLIPBACK_SERVICE_PORT", "8080"),
            ("FLIPBACK_SERVICE_PORT_HTTP", "8080"),
            ("FLIPBACK_MONITOR_SERVICE_HOST", "10.0.0.1"),
            ("FLIPBACK_MONITOR_PORT_8080_TCP_PROTO", "tcp"),
        ]);
        assert_eq!(own(&links), []);
    }

    #[test]
    fn a_port_of_a_rule_is_configuration() {
        let rule = environment(&[("FLIPBACK_DEFAULTS__RULES__HEALTH__PORT", "8080")]);
        assert_eq!(own(&rule)[0].path, ["defaults", "rules", "health", "port"]);
    }

    #[test]
    fn an_empty_variable_is_none() {
        assert_eq!(own(&environment(&[("FLIPBACK_POLL", "")])), []);
        let problems = Problems::default();
        assert_eq!(
            scripts(&environment(&[("MONITOR_INTERVAL", "")]), &problems),
            (Scripts::default(), BTreeSet::new())
        );
    }

    #[test]
    fn two_names_that_agree_in_other_words_are_accepted() {
        let problems = Problems::default();
        let (scripts, used) = scripts(
            &environment(&[("P95_LATENCY_THRESHOLD", "1000"), ("LATENCY_P95_THRESHOLD", "1s")]),
            &problems,
        );
        assert_eq!(scripts.latency_p95.expect("set").kind, NodeKind::Text("1s".into()));
        assert_eq!(used.len(), 2);
        assert_eq!(problems.finish(), Ok(()));
    }
}
