//! Asks for what the plan says and writes down what comes. No judgement here: a step ends with a file or with a sentence
//! in `capture_errors`, never with an end of the capture.
//!
//! Memory is bounded by what one list or one page of events holds: logs go to the disk while they arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{
    AsyncReadExt, FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{Event, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::Ingress,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
    core::Selector,
};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::{
    Ranges, Sources,
    plan::{self, ColorPlan, LogStep, Plan},
    progress::Progress,
    scrub::Scrub,
    series,
    shelf::{LogFile, Shelf},
};
use crate::model::{ISOLATED_LABEL, chain, file_segment, isolated_label};

mod rollouts;

/// How long one request may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests for logs at a time: the API server and the kubelets have better things to do.
const LOGS_AT_ONCE: usize = 6;
/// Objects per list; a color of more pods is told by these.
const LIST_MAX: u32 = 200;
/// Pages of what is looked through, and objects per page.
const PAGES_MAX: usize = 10;
const PAGE: u32 = 500;
/// A log is cut by the API server at so many times its bound: `limitBytes` keeps the oldest bytes of the lines asked for,
/// and the newest are wanted.
const LOG_BYTES_FACTOR: u64 = 16;
/// The step that reads metric ranges.
pub(super) const METRICS: &str = "metrics";
/// Bytes of a log that are cleaned and written at a time.
const LOG_PIECE_BYTES: usize = 64 * 1024;

/// Captures everything of the plan within its deadline and returns what is missing.
pub(super) async fn capture(plan: &Plan, sources: Sources, shelf: &Shelf) -> Vec<String> {
    let progress = Progress::new(plan.asking, STEP_TIMEOUT);
    let Sources { client, ranges, .. } = sources;
    let cluster = async {
        match client {
            Ok(client) => {
                Capture {
                    plan,
                    client,
                    shelf,
                    progress: &progress,
                }
                .cluster()
                .await
            }
            Err(why) => progress.fail(&format!("{}cluster", plan.place), &why),
        }
    };
    let work = async { tokio::join!(cluster, metrics(plan, ranges, shelf, &progress)) };
    let _ = tokio::time::timeout(plan.deadline, work).await;
    shelf.quiet().await;
    let missing = progress.close(plan.deadline);
    missing.iter().map(|line| shelf.scrub().text(line).into_owned()).collect()
}

/// What the API server said, for a person.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        other => chain(other),
    }
}

/// Metric ranges, once the time after the incident that they shall show has passed.
async fn metrics(plan: &Plan, ranges: Ranges, shelf: &Shelf, progress: &Progress) {
    let asked = progress.run(METRICS, plan.settle, async {
        tokio::time::sleep(plan.settle).await;
        ranges(plan.from, plan.to).await
    });
    let Some(series) = asked.await else { return };
    for (file, bytes) in series::files(series, shelf.scrub()) {
        progress.run(&file, Duration::ZERO, shelf.put(&file, bytes)).await;
    }
}

/// What one capture of cluster objects needs at every step.
struct Capture<'a> {
    plan: &'a Plan,
    client: Client,
    shelf: &'a Shelf,
    progress: &'a Progress,
}

/// One of Kubernetes' own kinds.
fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

impl Capture<'_> {
    fn api(&self, of: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.plan.namespace, of)
    }

    async fn cluster(&self) {
        let (service, deployment) = (kind::<Service>(), kind::<Deployment>());
        let services = self.plan.services.iter().map(|name| self.object(&service, name));
        let slices = self.plan.services.iter().map(|name| {
            let of_service: Selector = [("kubernetes.io/service-name".to_owned(), name.clone())].into_iter().collect();
            self.objects::<EndpointSlice>(format!("endpointslices.{}", file_segment(name)), of_service)
        });
        let deployments = self.plan.colors.iter().map(|color| async {
            match &color.deployment {
                Some(name) => self.object(&deployment, name).await,
                None => None,
            }
        });
        let (services, slices, deployments) = tokio::join!(join_all(services), join_all(slices), join_all(deployments));
        let service = services.first().cloned().flatten();
        let colors = self.plan.colors.iter().zip(&deployments);
        let colors = join_all(colors.map(|(color, deployment)| self.color(color, service.as_ref(), deployment.as_ref())));
        let (colors, isolated) = tokio::join!(colors, self.isolated());

        let named = |object: &Value| {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            (kind, plan::name_of(object).to_owned())
        };
        let single = services.iter().chain(&deployments).flatten();
        let of_colors = || colors.iter().chain([&isolated]).flat_map(|of_color| &of_color.objects);
        let listed = slices.iter().flatten().chain(of_colors());
        let rollouts = rollouts::rollouts_of(of_colors());
        let of_argo = rollouts.iter().map(|name| ("Rollout".to_owned(), name.clone()));
        let involved: BTreeSet<_> = single.chain(listed).map(named).chain(of_argo).collect();
        let labels: Vec<_> = colors
            .iter()
            .zip(&deployments)
            .map(|(of, deployment)| of.labels(deployment.as_ref()))
            .collect();
        let mut steps: Vec<LogStep> = colors.into_iter().chain([isolated]).flat_map(|of_color| of_color.logs).collect();
        steps.sort_by_key(|step| step.urgency);
        // Known from here on: what the deadline cuts off is named.
        steps.iter().for_each(|step| self.progress.expect(&step.file));
        tokio::join!(
            self.logs(steps),
            self.events(&involved),
            self.autoscalers(),
            self.budgets(&labels),
            self.ingresses(),
            self.rollouts(&rollouts)
        );
    }

    /// Boxed, since the compiler cannot see through a stream of borrowing futures that the whole of it may change threads.
    fn logs(&self, steps: Vec<LogStep>) -> BoxFuture<'_, ()> {
        let read = move |step: LogStep| async move { self.log(&step).await };
        stream::iter(steps).for_each_concurrent(LOGS_AT_ONCE, read).boxed()
    }

    /// The pods and ReplicaSets of one color, and the logs to read of them.
    async fn color(&self, color: &ColorPlan, service: Option<&Value>, deployment: Option<&Value>) -> OfColor {
        let from_service = service.and_then(|service| plan::service_selector(service, &self.plan.selector_key, &color.value));
        let from_deployment = deployment.and_then(plan::deployment_selector);
        let file = |kind: &str| format!("{kind}.{}", file_segment(color.color.as_str()));
        // What the Service would select is what serves; the Deployment's own selector is what is made.
        let Some(of_pods) = from_service.clone().or(from_deployment.clone()) else {
            let why = "neither the Service nor the Deployment could be read, so it is not known which pods belong to this color";
            self.progress
                .fail(&format!("{}manifests/{}.json", self.plan.place, file("pods")), why);
            return OfColor::default();
        };
        let of_replica_sets = from_deployment.unwrap_or_else(|| of_pods.clone());
        let (pods, replica_sets) = tokio::join!(
            self.objects::<Pod>(file("pods"), of_pods),
            self.objects::<ReplicaSet>(file("replicasets"), of_replica_sets)
        );
        OfColor {
            logs: plan::logs(color, &pods, self.plan),
            pods: pods.iter().map(|pod| plan::labels_of(&pod["metadata"])).collect(),
            objects: pods.into_iter().chain(replica_sets).collect(),
        }
    }

    /// The pods that were isolated, and the logs to read of them: they run on for somebody to look at, and no color's selector finds them.
    async fn isolated(&self) -> OfColor {
        let Some(incident) = &self.plan.isolated_by else {
            return OfColor::default();
        };
        let selector: Selector = [(ISOLATED_LABEL.to_owned(), isolated_label(incident))].into_iter().collect();
        let pods = self.objects::<Pod>(plan::ISOLATED.to_owned(), selector).await;
        OfColor {
            logs: plan::logs_of_isolated(&pods, self.plan),
            pods: Vec::new(),
            objects: pods,
        }
    }

    /// Reads one object and writes it down.
    async fn object(&self, of: &ApiResource, name: &str) -> Option<Value> {
        let kind = of.kind.to_lowercase();
        let file = format!("{}manifests/{kind}.{}.json", self.plan.place, file_segment(name));
        let step = async {
            let object = self.api(of).get(name).await.map_err(|error| said(&error))?;
            let object = manifest(of, object, self.shelf.scrub())?;
            self.shelf.put_json(&file, &object).await?;
            Ok(object)
        };
        self.progress.run(&file, Duration::ZERO, step).await
    }

    /// Reads a list of objects and writes it down as one that `kubectl` understands.
    async fn objects<K: Resource<DynamicType = ()>>(&self, name: String, selector: Selector) -> Vec<Value> {
        let file = format!("{}manifests/{name}.json", self.plan.place);
        let of = kind::<K>();
        let step = async {
            let params = ListParams::default().labels_from(&selector).limit(LIST_MAX);
            let list = self.api(&of).list(&params).await.map_err(|error| said(&error))?;
            let items = list.items.into_iter().map(|item| manifest(&of, item, self.shelf.scrub()));
            let whole = list_of(items.collect::<Result<Vec<_>, _>>()?);
            self.shelf.put_json(&file, &whole).await?;
            Ok((items_of(whole), list.metadata.continue_.is_some_and(|more| !more.is_empty())))
        };
        let Some((items, more)) = self.progress.run(&file, Duration::ZERO, step).await else {
            return Vec::new();
        };
        if more {
            self.progress.fail(&file, &format!("only the first {LIST_MAX} are kept"));
        }
        items
    }

    /// Looks through all objects of a kind, page by page, and returns those that are wanted; `trim` bounds them. The flag
    /// says that there were more than were looked at.
    async fn look_through(
        &self,
        of: &ApiResource,
        wanted: impl Fn(&Value) -> bool,
        trim: impl Fn(Vec<Value>) -> Vec<Value>,
    ) -> Result<(Vec<Value>, bool), String> {
        let (api, mut found, mut token) = (self.api(of), Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let mut params = ListParams::default().limit(PAGE);
            params.continue_token = token.take();
            let list = api.list(&params).await.map_err(|error| said(&error))?;
            token = list.metadata.continue_.filter(|more| !more.is_empty());
            for object in list.items {
                let object = manifest(of, object, self.shelf.scrub())?;
                if wanted(&object) {
                    found.push(object);
                }
            }
            found = trim(found);
            if token.is_none() {
                break;
            }
        }
        Ok((found, token.is_some()))
    }

    /// Writes down the objects of a kind that have to do with the guard, in files named by `file_of` and its answers.
    async fn related<K: Resource<DynamicType = ()>>(&self, step: &str, files_of: impl Fn(&Value) -> Vec<String>) {
        let step = format!("{}manifests/{step}.json", self.plan.place);
        let read = async {
            let wanted = |object: &Value| !files_of(object).is_empty();
            let (found, more) = self.look_through(&kind::<K>(), wanted, |found| found).await?;
            let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            for object in found {
                for file in files_of(&object) {
                    files.entry(file).or_default().push(object.clone());
                }
            }
            for (file, objects) in files {
                let file = format!("{}manifests/{file}.json", self.plan.place);
                self.shelf.put_json(&file, &list_of(objects)).await?;
            }
            Ok(more)
        };
        if self.progress.run(&step, Duration::ZERO, read).await == Some(true) {
            self.progress.fail(&step, "the namespace has too many of them to look through all");
        }
    }

    /// What scales a color's Deployment.
    async fn autoscalers(&self) {
        let files_of = |autoscaler: &Value| {
            let colors = self.plan.colors.iter().filter(|color| {
                let deployment = color.deployment.as_deref();
                deployment.is_some_and(|deployment| plan::scales(autoscaler, deployment))
            });
            colors.map(|color| format!("hpa.{}", file_segment(color.color.as_str()))).collect()
        };
        self.related::<HorizontalPodAutoscaler>("hpa", files_of).await;
    }

    /// What keeps a color's pods from being evicted.
    async fn budgets(&self, labels: &[Vec<BTreeMap<String, String>>]) {
        let files_of = |budget: &Value| {
            let colors = self.plan.colors.iter().zip(labels);
            let colors = colors.filter(|(_, labels)| plan::protects(budget, labels));
            colors
                .map(|(color, _)| format!("pdb.{}", file_segment(color.color.as_str())))
                .collect()
        };
        self.related::<PodDisruptionBudget>("pdb", files_of).await;
    }

    /// What brings requests from outside to the guard's Services.
    async fn ingresses(&self) {
        let files_of = |ingress: &Value| match plan::routes_to(ingress, &self.plan.services) {
            true => vec!["ingress".to_owned()],
            false => Vec::new(),
        };
        self.related::<Ingress>("ingress", files_of).await;
    }

    /// Events about the objects captured.
    async fn events(&self, involved: &BTreeSet<(String, String)>) {
        let file = format!("{}events.json", self.plan.place);
        let step = async {
            let ours = |event: &Value| involved.contains(&plan::about(event));
            let (events, more) = self.look_through(&kind::<Event>(), ours, plan::newest_events).await?;
            self.shelf.put_json(&file, &list_of(events)).await?;
            Ok(more)
        };
        if self.progress.run(&file, Duration::ZERO, step).await == Some(true) {
            self.progress
                .fail(&file, "the namespace has too many events to look through all of them");
        }
    }

    /// One container's log; of one that breaks off, what had arrived.
    async fn log(&self, step: &LogStep) {
        let begun = self.shelf.log(&step.file, self.plan.bounds.log_bytes).await;
        let mut file = match begun {
            Ok(file) => file,
            Err(why) => return self.progress.fail(&step.file, &why),
        };
        let failure = self.read_log(step, &mut file).await.err();
        // An empty log of a running container is a finding, an empty one of a failed request is none.
        let written = match file.finish().await {
            Ok(false) if !step.previous && failure.is_none() => self.shelf.put(&step.file, Vec::new()).await,
            other => other.map(drop),
        };
        match (failure, written) {
            (None, Ok(())) => self.progress.settle(&step.file),
            (Some(why), _) | (None, Err(why)) => self.progress.fail(&step.file, &why),
        }
    }

    /// Reads until the log ends or its time is over; only waiting for the answer is cut short, never a write.
    async fn read_log(&self, step: &LogStep, file: &mut LogFile<'_>) -> Result<(), String> {
        let limit = self.progress.limit(Duration::ZERO);
        let params = LogParams {
            container: Some(step.container.clone()),
            previous: step.previous,
            tail_lines: Some(i64::from(self.plan.bounds.log_lines)),
            limit_bytes: i64::try_from(self.plan.bounds.log_bytes.saturating_mul(LOG_BYTES_FACTOR)).ok(),
            timestamps: true,
            ..LogParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.plan.namespace);
        let log = match timeout_at(limit, api.log_stream(&step.pod, &params)).await {
            Ok(Ok(log)) => log,
            // No container before this one.
            Ok(Err(kube::Error::Api(status))) if status.code == 400 && step.previous => return Ok(()),
            Ok(Err(error)) => return Err(said(&error)),
            Err(_) => return Err("no answer in time".to_owned()),
        };
        let mut log = std::pin::pin!(log);
        let mut chunk = vec![0; LOG_PIECE_BYTES / 4];
        let mut piece = Vec::with_capacity(LOG_PIECE_BYTES);
        loop {
            let end = match timeout_at(limit, log.read(&mut chunk)).await {
                Ok(Ok(0)) => Some(Ok(())),
                Ok(Ok(length)) => {
                    piece.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    None
                }
                Ok(Err(error)) => Some(Err(format!("the answer broke off: {error}"))),
                Err(_) => Some(Err("no end of the answer in time; what had arrived is kept".to_owned())),
            };
            if end.is_some() || piece.len() + chunk.len() > LOG_PIECE_BYTES {
                file.push(std::mem::take(&mut piece)).await?;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }
}

/// What one color gave.
#[derive(Default)]
struct OfColor {
    objects: Vec<Value>,
    /// Labels of its pods.
    pods: Vec<BTreeMap<String, String>>,
    logs: Vec<LogStep>,
}

impl OfColor {
    /// Labels of its pods, and those that pods would have which are not there.
    fn labels(&self, deployment: Option<&Value>) -> Vec<BTreeMap<String, String>> {
        let template = deployment.map(|deployment| plan::labels_of(&deployment["spec"]["template"]["metadata"]));
        self.pods.iter().cloned().chain(template).collect()
    }
}

/// A list that `kubectl` understands.
fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn items_of(mut list: Value) -> Vec<Value> {
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// An object as it goes on disk; items of a list do not carry their kind.
fn manifest(of: &ApiResource, object: DynamicObject, scrub: &Scrub) -> Result<Value, String> {
    let mut value = json!({"apiVersion": of.api_version, "kind": of.kind});
    let read = serde_json::to_value(object).map_err(|error| error.to_string())?;
    if let (Some(fields), Value::Object(read)) = (value.as_object_mut(), read) {
        fields.extend(read);
    }
    scrub.manifest(&mut value);
    Ok(value)
}
