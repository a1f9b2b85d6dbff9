//! What to capture, and how much of it. Pure: from the guard and the case, then from what was read, follow lists of steps.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use serde_json::Value;

use crate::model::{Case, Color, EvidenceSpec, GuardSpec, RouteSpec, file_segment};

/// The part of the deadline after which no request is waited for any more, in tenths: the rest is for the disk.
const ASKING_TENTHS: u32 = 9;
/// What reading the metric ranges may need of it.
const METRICS_RESERVE: Duration = Duration::from_secs(5);
/// Events kept; the newest say most.
const EVENTS_MAX: usize = 500;

/// What to ask for.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where everything lies.
    pub(super) namespace: String,
    /// The Services, the active one first.
    pub(super) services: Vec<String>,
    /// The selector key that names the color.
    pub(super) selector_key: String,
    /// The colors: the one that was left, the one that took over, the others.
    pub(super) colors: Vec<ColorPlan>,
    /// Start of the metric ranges.
    pub(super) from: Timestamp,
    /// Their end.
    pub(super) to: Timestamp,
    /// How long to wait until that end has come.
    pub(super) settle: Duration,
    /// How long requests may take, all together.
    pub(super) asking: Duration,
    /// When everything ends, with what there is.
    pub(super) deadline: Duration,
    /// Bounds of the logs.
    pub(super) bounds: EvidenceSpec,
}

/// One color.
#[derive(Debug)]
pub(super) struct ColorPlan {
    /// Its name.
    pub(super) color: Color,
    /// The selector value that means it.
    pub(super) value: String,
    /// The Deployment that runs it.
    pub(super) deployment: Option<String>,
}

/// One log to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogStep {
    /// Of which pod.
    pub(super) pod: String,
    /// Of which container.
    pub(super) container: String,
    /// That of the container before the last restart.
    pub(super) previous: bool,
    /// Where it goes.
    pub(super) file: String,
}

impl Plan {
    pub(super) fn new(spec: &GuardSpec, case: &Case) -> Self {
        let RouteSpec::Service(route) = &spec.route;
        let rank = |color: &Color| match color {
            color if *color == case.from => 0,
            color if *color == case.to => 1,
            _ => 2,
        };
        let mut colors: Vec<_> = spec
            .colors
            .iter()
            .map(|(color, of)| ColorPlan {
                color: color.clone(),
                value: of.value.clone(),
                deployment: of.deployment.clone(),
            })
            .collect();
        colors.sort_by_key(|plan| rank(&plan.color));
        let bounds = &spec.evidence;
        let asking = bounds.deadline / 10 * ASKING_TENTHS;
        let settle = bounds.after.min(asking.saturating_sub(METRICS_RESERVE));
        Self {
            namespace: spec.namespace.clone(),
            services: std::iter::once(route.active.clone()).chain(route.preview.clone()).collect(),
            selector_key: route.selector_key.clone(),
            colors,
            // Beyond the range of timestamps only for a configuration of millennia.
            from: case.at.checked_sub(bounds.before).unwrap_or(case.at),
            to: case.at.checked_add(settle).unwrap_or(case.at),
            settle,
            asking,
            deadline: bounds.deadline,
            bounds: bounds.clone(),
        }
    }
}

/// The selector of a color's pods: the Service's own, with the color's value in it.
pub(super) fn service_selector(service: &Value, key: &str, value: &str) -> Option<Selector> {
    let labels = service["spec"]["selector"].as_object()?;
    let pair = |(name, found): (&String, &Value)| {
        let found = if name == key { value } else { found.as_str().unwrap_or_default() };
        (name.clone(), found.to_owned())
    };
    labels.contains_key(key).then(|| labels.iter().map(pair).collect())
}

/// The selector of a Deployment's ReplicaSets and pods.
pub(super) fn deployment_selector(deployment: &Value) -> Option<Selector> {
    let selector: LabelSelector = serde_json::from_value(deployment["spec"]["selector"].clone()).ok()?;
    // An empty selector would match every pod of the namespace.
    Selector::try_from(selector).ok().filter(|selector| !selector.selects_all())
}

/// The logs of a color's pods, current and previous, those of the sickest pods first.
pub(super) fn logs(color: &Color, pods: &[Value], bounds: &EvidenceSpec) -> Vec<LogStep> {
    let mut pods: Vec<&Value> = pods.iter().collect();
    pods.sort_by_key(|pod| (is_ready(pod), std::cmp::Reverse(restarts(pod)), name_of(pod).to_owned()));
    let mut steps = Vec::new();
    for pod in pods.into_iter().take(usize::try_from(bounds.pods_max).unwrap_or(usize::MAX)) {
        let containers = ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .filter_map(|list| pod["spec"][list].as_array());
        for container in containers.flatten().filter_map(|container| container["name"].as_str()) {
            let file = format!(
                "logs/{}/{}/{}",
                file_segment(color.as_str()),
                file_segment(name_of(pod)),
                file_segment(container)
            );
            for (previous, end) in [(false, "log"), (true, "previous.log")] {
                steps.push(LogStep {
                    pod: name_of(pod).to_owned(),
                    container: container.to_owned(),
                    previous,
                    file: format!("{file}.{end}"),
                });
            }
        }
    }
    steps
}

/// An object's name.
pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn restarts(pod: &Value) -> u64 {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses.filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// The events about the objects captured, oldest first, the newest [`EVENTS_MAX`] of them.
pub(super) fn events_about(events: Vec<Value>, objects: &BTreeSet<(String, String)>) -> Vec<Value> {
    let about = |event: &Value| {
        let part = |name: &str| event["involvedObject"][name].as_str().unwrap_or_default().to_owned();
        objects.contains(&(part("kind"), part("name")))
    };
    let time = |event: &Value| {
        let times = [
            &event["lastTimestamp"],
            &event["eventTime"],
            &event["firstTimestamp"],
            &event["metadata"]["creationTimestamp"],
        ];
        let parsed = times.iter().filter_map(|time| time.as_str()?.parse::<Timestamp>().ok()).next();
        parsed.unwrap_or(Timestamp::MIN)
    };
    let mut events: Vec<Value> = events.into_iter().filter(about).collect();
    events.sort_by_key(time);
    let surplus = events.len().saturating_sub(EVENTS_MAX);
    events.split_off(surplus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::evidence::fixture::{color, incident, spec};

    #[test]
    fn the_color_that_was_left_comes_first_and_the_ranges_surround_the_case() {
        let plan = Plan::new(&spec(), &incident().case);
        assert_eq!(
            plan.colors.iter().map(|of| of.color.as_str()).collect::<Vec<_>>(),
            ["green", "blue"]
        );
        assert_eq!(plan.services, ["web", "web-preview"]);
        assert_eq!(plan.from.to_string(), "2026-11-21T03:42:34.567Z");
    }

    #[test]
    fn waiting_for_metrics_leaves_time_to_read_them() {
        let settle = |after, deadline| {
            let mut spec = spec();
            (spec.evidence.after, spec.evidence.deadline) = (Duration::from_secs(after), Duration::from_secs(deadline));
            Plan::new(&spec, &incident().case).settle.as_secs()
        };
        assert_eq!(settle(10, 60), 10);
        assert_eq!(settle(600, 60), 49);
        assert_eq!(settle(10, 2), 0);
    }

    #[test]
    fn a_colors_pods_are_what_the_service_would_select() {
        let service = json!({"spec": {"selector": {"app": "web", "color": "blue"}}});
        let selector = service_selector(&service, "color", "green").expect("has the key");
        assert_eq!(selector.to_string(), "app=web,color=green");
        assert!(
            service_selector(&service, "version", "green").is_none(),
            "a selector without the key would match both colors"
        );
    }

    #[test]
    fn a_deployment_that_selects_everything_selects_nothing_for_us() {
        let of = |selector: Value| deployment_selector(&json!({"spec": {"selector": selector}})).map(|selector| selector.to_string());
        assert_eq!(of(json!({"matchLabels": {"app": "web"}})).as_deref(), Some("app=web"));
        let expression = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]});
        assert_eq!(of(expression).as_deref(), Some("app in (a,b)"));
        assert_eq!(of(json!({})), None);
        assert_eq!(of(Value::Null), None);
    }

    #[test]
    fn the_sickest_pods_are_read_first_within_the_bound() {
        let pod = |name: &str, ready: &str, restarts: u32| {
            json!({
                "metadata": {"name": name},
                "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "app"}]},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [{"restartCount": restarts}],
                },
            })
        };
        let pods = [pod("a", "True", 0), pod("b", "True", 3), pod("c", "False", 0), pod("d", "False", 7)];
        let bounds = EvidenceSpec {
            pods_max: 3,
            ..EvidenceSpec::default()
        };
        let files: Vec<_> = logs(&color("green"), &pods, &bounds).into_iter().map(|step| step.file).collect();
        assert_eq!(
            files.iter().take(4).collect::<Vec<_>>(),
            [
                "logs/green/d/app.log",
                "logs/green/d/app.previous.log",
                "logs/green/d/init.log",
                "logs/green/d/init.previous.log"
            ]
        );
        assert_eq!(files.len(), 12);
        assert!(
            files.iter().all(|file| !file.starts_with("logs/green/a/")),
            "the healthiest is left out"
        );
    }

    #[test]
    fn the_newest_events_about_our_objects_are_kept() {
        let event = |name: &str, n: usize| {
            let time = Timestamp::from_second(i64::try_from(n).expect("small"))
                .expect("in range")
                .to_string();
            json!({"involvedObject": {"kind": "Pod", "name": name}, "lastTimestamp": null, "eventTime": time, "n": n})
        };
        let mut all: Vec<Value> = (0..EVENTS_MAX + 10).rev().map(|n| event("ours", n)).collect();
        all.push(event("theirs", 1));
        let ours = BTreeSet::from([("Pod".to_owned(), "ours".to_owned())]);
        let kept = events_about(all, &ours);
        assert_eq!((kept.len(), kept[0]["n"].as_u64()), (EVENTS_MAX, Some(10)));
        assert!(kept.iter().all(|event| event["involvedObject"]["name"] == "ours"));
    }
}
