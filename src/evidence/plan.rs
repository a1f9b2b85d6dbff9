//! What to capture, and how much of it. Pure: from the guard and the case, then from what was read, follow lists of steps.
//!
//! Everything is captured after the flip. A selector's flip destroys nothing, since the color that was left keeps its pods,
//! so nothing has to be had before it; a router whose flip takes pods away (a canary scaled to 0, a Rollout that is aborted)
//! will need its own first pass, under its own deadline.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use serde_json::Value;

use crate::model::{Case, Color, EvidenceSpec, GuardSpec, Incident, Moment, Relief, RouteSpec, TimelineEntry, file_segment};

/// The part of the deadline after which no request is waited for any more, in tenths: the rest is for the disk.
const ASKING_TENTHS: u32 = 9;
/// What reading the metric ranges may need of it.
const METRICS_RESERVE: Duration = Duration::from_secs(5);
/// Events kept; the newest say most.
const EVENTS_MAX: usize = 500;
/// Bytes of a bundle where logs are short.
const BUNDLE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a bundle besides its logs.
const REST_BYTES: u64 = 32 * 1024 * 1024;
/// Containers of a pod, as far as the size of a bundle goes.
const CONTAINERS: u64 = 2;
/// One bundle may have this part of what may be kept altogether.
const SHARE_OF_ALL: u64 = 2;
/// How much less urgent the logs of a color are that was not left: more than any of one color's own.
const OTHER_COLOR: u8 = 4;
/// Where the isolated pods are listed, and their logs lie; no color has such a name with its pods.
pub(super) const ISOLATED: &str = "isolated-pods";
/// Where the second pass puts what is not a longer version of the first.
const AFTER: &str = "after/";

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
    /// Bytes of everything.
    pub(super) bytes_max: u64,
    /// Where files go, but for those of metrics: nothing, or [`AFTER`].
    pub(super) place: &'static str,
    /// Whose logs are read; `None`: everybody's.
    pub(super) logs_of: Option<Color>,
    /// The incident whose isolated pods are looked for, which no color's selector finds; `None`: none were.
    pub(super) isolated_by: Option<String>,
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
    /// The smaller, the sooner: what is most likely to say why.
    pub(super) urgency: u8,
}

impl Plan {
    /// The pass right after the flip. `kept_bytes` is how much evidence may be kept altogether.
    pub(super) fn new(spec: &GuardSpec, case: &Case, kept_bytes: u64) -> Self {
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
            bytes_max: bytes_max(spec, kept_bytes),
            place: "",
            logs_of: None,
            isolated_by: None,
        }
    }

    /// The pass after the incident: everything as it is now, the logs of the color that took over, and metrics from before
    /// the decision until now, or as long after it as was asked for where flipback comes late.
    pub(super) fn follow_up(spec: &GuardSpec, incident: &Incident, kept_bytes: u64, now: Timestamp) -> Self {
        let case = &incident.case;
        let relieved = incident.timeline.iter().any(|entry| entry.moment == Some(Moment::Relieved));
        let isolates = spec.connections.action == Relief::Isolate;
        let latest = case.at.checked_add(spec.evidence.follow_up).unwrap_or(case.at);
        Self {
            to: now.clamp(case.at, latest.max(case.at)),
            settle: Duration::ZERO,
            place: AFTER,
            logs_of: Some(case.to.clone()),
            isolated_by: (relieved && isolates).then(|| incident.id.clone()),
            ..Self::new(spec, case, kept_bytes)
        }
    }
}

/// Tells in the incident that its second pass was made, and what it lacks. Metrics that the first pass lacked are there now,
/// unless the second pass lacks them too.
pub(super) fn followed_up(incident: &mut Incident, missing: &[String], now: Timestamp) {
    let of_metrics = |line: &String| line.starts_with("metrics:") || line.starts_with("metrics/");
    if !missing.iter().any(of_metrics) {
        incident.capture_errors.retain(|line| !of_metrics(line));
    }
    incident.capture_errors.extend(missing.iter().map(|line| match of_metrics(line) {
        true => format!("{line} (second pass; the first one's are kept)"),
        false => line.clone(),
    }));
    incident.followed_up_at = Some(now);
    let what = "Captured what came after: the metrics until now, and everything as it is now below after/";
    incident.timeline.push(TimelineEntry::of(Moment::FollowedUp, now, what));
}

/// A bundle may be as large as the logs that were asked for, within what may be kept altogether.
fn bytes_max(spec: &GuardSpec, kept_bytes: u64) -> u64 {
    let colors = spec.colors.len() as u64;
    let logs = [u64::from(spec.evidence.pods_max), CONTAINERS, spec.evidence.log_bytes];
    let wanted = logs.iter().fold(colors, |bytes, factor| bytes.saturating_mul(*factor));
    wanted.saturating_add(REST_BYTES).max(BUNDLE_BYTES).min(kept_bytes / SHARE_OF_ALL)
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

/// The logs of a color's pods, those of the sickest pods first. Over all colors they are read by urgency: of the color that
/// was left first what restarted containers said before they died, then what sick pods say, then the healthy ones.
pub(super) fn logs(color: &ColorPlan, pods: &[Value], plan: &Plan) -> Vec<LogStep> {
    let bounds = &plan.bounds;
    let wanted = plan.logs_of.as_ref().is_none_or(|of| *of == color.color);
    if !wanted || bounds.log_lines == 0 || bounds.log_bytes == 0 {
        return Vec::new();
    }
    let was_left = plan.colors.first().is_some_and(|first| first.color == color.color);
    let of = file_segment(color.color.as_str());
    logs_below(&of, pods, plan, if was_left { 0 } else { OTHER_COLOR })
}

/// The logs of the pods that were isolated, which say most of all by then.
pub(super) fn logs_of_isolated(pods: &[Value], plan: &Plan) -> Vec<LogStep> {
    if plan.bounds.log_lines == 0 || plan.bounds.log_bytes == 0 {
        return Vec::new();
    }
    logs_below(ISOLATED, pods, plan, 0)
}

/// The logs of some pods, into a folder of that name; `later` is what they are less urgent by.
fn logs_below(folder: &str, pods: &[Value], plan: &Plan, later: u8) -> Vec<LogStep> {
    let bounds = &plan.bounds;
    let mut pods: Vec<&Value> = pods.iter().collect();
    pods.sort_by_key(|pod| (is_ready(pod), std::cmp::Reverse(restarts(pod)), name_of(pod).to_owned()));
    let mut steps = Vec::new();
    for pod in pods.into_iter().take(usize::try_from(bounds.pods_max).unwrap_or(usize::MAX)) {
        let sick = !is_ready(pod) || restarts(pod) > 0;
        let containers = ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .filter_map(|list| pod["spec"][list].as_array());
        for container in containers.flatten().filter_map(|container| container["name"].as_str()) {
            let restarted = restarts_of(pod, container);
            for previous in [true, false] {
                // A container that never restarted has none before it.
                if previous && restarted == Some(0) {
                    continue;
                }
                let urgency = match (previous, restarted.is_some(), sick) {
                    (true, true, _) => 0,
                    (false, _, true) => 1,
                    (false, _, false) => 2,
                    (true, false, _) => 3,
                };
                let end = if previous { "previous.log" } else { "log" };
                let name = file_segment(name_of(pod));
                steps.push(LogStep {
                    pod: name_of(pod).to_owned(),
                    container: container.to_owned(),
                    previous,
                    file: format!("{}logs/{folder}/{name}/{}.{end}", plan.place, file_segment(container)),
                    urgency: urgency + later,
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

/// How often a container restarted, where its status tells.
fn restarts_of(pod: &Value, container: &str) -> Option<u64> {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    statuses
        .filter(|status| status["name"] == container)
        .find_map(|status| status["restartCount"].as_u64())
}

/// Whether an autoscaler scales this Deployment.
pub(super) fn scales(autoscaler: &Value, deployment: &str) -> bool {
    let target = &autoscaler["spec"]["scaleTargetRef"];
    target["kind"] == "Deployment" && target["name"] == deployment
}

/// Whether a disruption budget is about pods with any of these labels.
pub(super) fn protects(budget: &Value, labels: &[BTreeMap<String, String>]) -> bool {
    // Without a selector it is about none, with an empty one about all.
    let selector = serde_json::from_value::<LabelSelector>(budget["spec"]["selector"].clone()).ok();
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    selector.is_some_and(|selector| labels.iter().any(|labels| selector.matches(labels)))
}

/// Whether an Ingress routes anything to one of these Services.
pub(super) fn routes_to(ingress: &Value, services: &[String]) -> bool {
    let spec = &ingress["spec"];
    let rules = spec["rules"].as_array().into_iter().flatten();
    let paths = rules.filter_map(|rule| rule["http"]["paths"].as_array()).flatten();
    let backends = paths.map(|path| &path["backend"]).chain([&spec["defaultBackend"]]);
    let mut named = backends.filter_map(|backend| backend["service"]["name"].as_str());
    named.any(|name| services.iter().any(|service| service == name))
}

/// An object's labels.
pub(super) fn labels_of(metadata: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(metadata["labels"].clone()).unwrap_or_default()
}

/// Which object an event is about.
pub(super) fn about(event: &Value) -> (String, String) {
    let part = |name: &str| event["involvedObject"][name].as_str().unwrap_or_default().to_owned();
    (part("kind"), part("name"))
}

/// The newest [`EVENTS_MAX`] of these events, oldest first.
pub(super) fn newest_events(mut events: Vec<Value>) -> Vec<Value> {
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
    events.sort_by_key(time);
    let surplus = events.len().saturating_sub(EVENTS_MAX);
    events.split_off(surplus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::evidence::fixture::{incident, spec};

    #[test]
    fn the_color_that_was_left_comes_first_and_the_ranges_surround_the_case() {
        let plan = Plan::new(&spec(), &incident().case, u64::MAX);
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
            Plan::new(&spec, &incident().case, u64::MAX).settle.as_secs()
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
    fn the_most_telling_logs_are_read_first_within_the_bound() {
        let pod = |name: &str, ready: &str, restarts: u32| {
            json!({
                "metadata": {"name": name},
                "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "app"}]},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [{"name": "app", "restartCount": restarts}],
                    "initContainerStatuses": [{"name": "init", "restartCount": 0}],
                },
            })
        };
        let pods = [
            pod("a", "True", 0),
            pod("b", "True", 3),
            pod("c", "False", 0),
            pod("d", "False", 7),
            pod("e", "True", 0),
        ];
        let mut spec = spec();
        spec.evidence.pods_max = 4;
        let files = |plan: &Plan| {
            let mut steps: Vec<LogStep> = plan.colors.iter().flat_map(|color| logs(color, &pods, plan)).collect();
            steps.sort_by_key(|step| step.urgency);
            steps.into_iter().map(|step| step.file).collect::<Vec<_>>()
        };
        let plan = Plan::new(&spec, &incident().case, u64::MAX);
        insta::assert_snapshot!(files(&plan).join("\n"));

        let second = Plan::follow_up(&spec, &incident(), u64::MAX, incident().case.at);
        let of_second = files(&second);
        assert!(of_second.iter().all(|file| file.starts_with("after/logs/blue/")), "{of_second:?}");
        spec.evidence.log_bytes = 0;
        assert!(files(&Plan::new(&spec, &incident().case, u64::MAX)).is_empty(), "none wanted");
    }

    #[test]
    fn the_second_pass_shows_what_came_after_and_no_more() {
        let (spec, incident) = (spec(), incident());
        let case = incident.case.clone();
        let to = |now: &str| {
            Plan::follow_up(&spec, &incident, u64::MAX, now.parse().expect("valid"))
                .to
                .to_string()
        };
        assert_eq!(to("2026-11-21T04:16:00Z"), "2026-11-21T04:16:00Z", "recovered early: until now");
        assert_eq!(
            to("2026-11-24T00:00:00Z"),
            "2026-11-21T04:22:34.567Z",
            "days late: what was asked for"
        );
        assert_eq!(to("2026-11-21T00:00:00Z"), "2026-11-21T04:12:34.567Z", "a clock that went back");
        let plan = Plan::follow_up(&spec, &incident, u64::MAX, case.at);
        assert_eq!(
            (plan.from.to_string().as_str(), plan.settle),
            ("2026-11-21T03:42:34.567Z", Duration::ZERO)
        );
    }

    #[test]
    fn the_second_pass_looks_for_pods_that_were_isolated_and_reads_what_they_say_first() {
        let (mut spec, mut incident) = (spec(), incident());
        let looks = |spec: &GuardSpec, incident: &Incident| Plan::follow_up(spec, incident, u64::MAX, incident.case.at).isolated_by;
        spec.connections.action = Relief::Isolate;
        assert_eq!(looks(&spec, &incident), None, "nothing was taken out of service");
        incident
            .timeline
            .push(TimelineEntry::of(Moment::Relieved, incident.case.at, "Isolated web-green-1"));
        assert_eq!(looks(&spec, &incident), Some(incident.id.clone()));
        let pod = json!({"metadata": {"name": "web-green-1"}, "spec": {"containers": [{"name": "app"}]}, "status": {}});
        let plan = Plan::follow_up(&spec, &incident, u64::MAX, incident.case.at);
        let blue = logs(&plan.colors[1], std::slice::from_ref(&pod), &plan);
        let isolated = logs_of_isolated(std::slice::from_ref(&pod), &plan);
        assert!(isolated.iter().all(|step| step.urgency < blue[0].urgency), "{isolated:?} {blue:?}");
        assert_eq!(isolated[0].file, "after/logs/isolated-pods/web-green-1/app.previous.log");
        spec.connections.action = Relief::Evict;
        assert_eq!(looks(&spec, &incident), None, "what was evicted is gone");
    }

    #[test]
    fn a_bundle_has_room_for_the_logs_that_were_asked_for_and_not_for_all_that_is_kept() {
        let mut spec = spec();
        let room = |spec: &GuardSpec, kept: u64| bytes_max(spec, kept) >> 20;
        assert_eq!(room(&spec, u64::MAX), 64);
        (spec.evidence.pods_max, spec.evidence.log_bytes) = (20, 6 << 20);
        assert_eq!(room(&spec, u64::MAX), 2 * 20 * 2 * 6 + 32);
        assert_eq!(room(&spec, 200 << 20), 100);
        spec.evidence.log_bytes = u64::MAX;
        assert_eq!(bytes_max(&spec, u64::MAX), u64::MAX / 2);
    }

    #[test]
    fn what_scales_protects_and_routes_is_found_by_what_it_names() {
        let scaler = json!({"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-green"}}});
        assert!(scales(&scaler, "web-green") && !scales(&scaler, "web-blue"));
        let scaler = json!({"spec": {"scaleTargetRef": {"kind": "StatefulSet", "name": "web-green"}}});
        assert!(!scales(&scaler, "web-green"));

        let labels = [BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("color".to_owned(), "green".to_owned()),
        ])];
        let budget = |selector: Value| protects(&json!({"spec": {"selector": selector}}), &labels);
        assert!(budget(json!({"matchLabels": {"app": "web"}})));
        assert!(budget(
            json!({"matchExpressions": [{"key": "color", "operator": "In", "values": ["green"]}]})
        ));
        assert!(budget(json!({})), "an empty selector is about every pod");
        assert!(!budget(json!({"matchLabels": {"app": "web", "color": "blue"}})));
        assert!(!budget(Value::Null));

        let services = ["web".to_owned(), "web-preview".to_owned()];
        let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
        let by_path =
            |name: &str| json!({"spec": {"rules": [{"host": "x"}, {"http": {"paths": [{"path": "/", "backend": backend(name)}]}}]}});
        assert!(routes_to(&by_path("web-preview"), &services) && !routes_to(&by_path("other"), &services));
        assert!(routes_to(&json!({"spec": {"defaultBackend": backend("web")}}), &services));
        assert!(!routes_to(
            &json!({"spec": {"defaultBackend": {"resource": {"kind": "StorageBucket", "name": "web"}}}}),
            &services
        ));
    }

    #[test]
    fn the_newest_events_are_kept_oldest_first() {
        let event = |n: usize| {
            let time = Timestamp::from_second(i64::try_from(n).expect("small"))
                .expect("in range")
                .to_string();
            json!({"involvedObject": {"kind": "Pod", "name": "ours"}, "lastTimestamp": null, "eventTime": time, "n": n})
        };
        let kept = newest_events((0..EVENTS_MAX + 10).rev().map(event).collect());
        assert_eq!((kept.len(), kept[0]["n"].as_u64()), (EVENTS_MAX, Some(10)));
        assert_eq!(about(&kept[0]), ("Pod".to_owned(), "ours".to_owned()));
    }
}
