//! Asks for what the plan says and writes down what comes. No judgement here: a step ends with a file or with a sentence
//! in `capture_errors`, never with an end of the capture.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncReadExt, FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Event, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
    core::Selector,
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout_at};

use super::{
    DISK_TIMEOUT, Ranges, Sources, disk,
    plan::{self, ColorPlan, LogStep, Plan},
    progress::Progress,
    scrub,
};
use crate::model::{Series, file_segment};

/// How long one request may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests for logs at a time: the API server and the kubelets have better things to do.
const LOGS_AT_ONCE: usize = 6;
/// Objects per list; a color of more pods is told by these.
const LIST_MAX: u32 = 200;
/// Pages of events, and events per page.
const EVENT_PAGES_MAX: usize = 10;
const EVENT_PAGE: u32 = 500;
/// Bytes of a whole bundle, as a bound of last resort.
const BUNDLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A log is cut by the API server at so many times its bound: `limitBytes` keeps the oldest bytes of the lines asked for,
/// and the newest are wanted.
const LOG_BYTES_FACTOR: u64 = 16;
/// Files written at a time.
const WRITES_MAX: u32 = 4;

/// Where captured files go.
pub(super) struct Shelf {
    folder: PathBuf,
    writes: Arc<Semaphore>,
    room: AtomicU64,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            writes: Arc::new(Semaphore::new(WRITES_MAX as usize)),
            room: AtomicU64::new(BUNDLE_BYTES_MAX),
        }
    }

    /// Writes one file, unless the bundle is full.
    async fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), String> {
        let size = bytes.len() as u64;
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(size));
        if taken.is_err() {
            return Err(format!("left out, since the bundle would exceed {} MiB", BUNDLE_BYTES_MAX >> 20));
        }
        let path = self.folder.join(file);
        let write = {
            let path = path.clone();
            move || disk::put(&path, &bytes)
        };
        let written = disk::bounded(&self.writes, DISK_TIMEOUT, "write", path, write).await;
        written.map_err(|error| chain(&error))
    }

    async fn put_json(&self, file: &str, value: &Value) -> Result<(), String> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        self.put(file, bytes).await
    }

    /// Waits for writes under way, whose waiter the deadline took: what is hashed must not change any more.
    async fn quiet(&self) {
        let _ = tokio::time::timeout(DISK_TIMEOUT, self.writes.acquire_many(WRITES_MAX)).await;
    }
}

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
            Err(why) => progress.fail("cluster", &why),
        }
    };
    let work = async { tokio::join!(cluster, metrics(plan, ranges, shelf, &progress)) };
    let _ = tokio::time::timeout(plan.deadline, work).await;
    shelf.quiet().await;
    progress.close(plan.deadline)
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(line, ": {next}");
        cause = next.source();
    }
    line
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
    let asked = progress.run("metrics", plan.settle, async {
        tokio::time::sleep(plan.settle).await;
        ranges(plan.from, plan.to).await
    });
    let Some(series) = asked.await else { return };
    let about: BTreeSet<_> = series.iter().map(|one| (&one.rule, &one.color)).collect();
    for (rule, color) in about {
        let name = format!("metrics/{}.{}", file_segment(rule.as_str()), file_segment(color.as_str()));
        let these: Vec<&Series> = series.iter().filter(|one| (&one.rule, &one.color) == (rule, color)).collect();
        let files = [
            (format!("{name}.json"), serde_json::to_vec_pretty(&these).unwrap_or_default()),
            (format!("{name}.csv"), csv(&these).into_bytes()),
        ];
        for (file, bytes) in files {
            progress.run(&file, Duration::ZERO, shelf.put(&file, bytes)).await;
        }
    }
}

/// One row per time, one column per series.
fn csv(series: &[&Series]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut rows = "time".to_owned();
    for one in series {
        let _ = write!(rows, ",{}", quoted(&one.name));
    }
    rows.push('\n');
    let times: BTreeSet<_> = series.iter().flat_map(|one| one.points.iter().map(|(at, _)| *at)).collect();
    let columns: Vec<std::collections::BTreeMap<_, _>> = series.iter().map(|one| one.points.iter().copied().collect()).collect();
    for at in times {
        let _ = write!(rows, "{at}");
        for column in &columns {
            rows.push(',');
            if let Some(value) = column.get(&at) {
                let _ = write!(rows, "{value}");
            }
        }
        rows.push('\n');
    }
    rows
}

/// What one capture of cluster objects needs at every step.
struct Capture<'a> {
    plan: &'a Plan,
    client: Client,
    shelf: &'a Shelf,
    progress: &'a Progress,
}

impl Capture<'_> {
    fn api<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.plan.namespace, &ApiResource::erase::<K>(&()))
    }

    async fn cluster(&self) {
        let services = self.plan.services.iter().map(|name| self.object::<Service>(name));
        let slices = self.plan.services.iter().map(|name| {
            let of_service: Selector = [("kubernetes.io/service-name".to_owned(), name.clone())].into_iter().collect();
            self.objects::<EndpointSlice>(format!("endpointslices.{}", file_segment(name)), of_service)
        });
        let deployments = self.plan.colors.iter().map(|color| async {
            match &color.deployment {
                Some(name) => self.object::<Deployment>(name).await,
                None => None,
            }
        });
        let (services, slices, deployments) = tokio::join!(join_all(services), join_all(slices), join_all(deployments));
        let service = services.first().cloned().flatten();
        let colors = self.plan.colors.iter().zip(&deployments);
        let colors = join_all(colors.map(|(color, deployment)| self.color(color, service.as_ref(), deployment.as_ref()))).await;

        let named = |object: &Value| {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            (kind, plan::name_of(object).to_owned())
        };
        let single = services.iter().chain(&deployments).flatten();
        let listed = slices.iter().flatten().chain(colors.iter().flat_map(|of_color| &of_color.objects));
        let involved: BTreeSet<_> = single.chain(listed).map(named).collect();
        let steps: Vec<LogStep> = colors.into_iter().flat_map(|of_color| of_color.logs).collect();
        // Known from here on: what the deadline cuts off is named.
        steps.iter().for_each(|step| self.progress.expect(&step.file));
        tokio::join!(self.events(&involved), self.logs(steps));
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
            self.progress.fail(&format!("manifests/{}.json", file("pods")), why);
            return OfColor::default();
        };
        let of_replica_sets = from_deployment.unwrap_or_else(|| of_pods.clone());
        let (pods, replica_sets) = tokio::join!(
            self.objects::<Pod>(file("pods"), of_pods),
            self.objects::<ReplicaSet>(file("replicasets"), of_replica_sets)
        );
        let logs = plan::logs(&color.color, &pods, &self.plan.bounds);
        OfColor {
            objects: pods.into_iter().chain(replica_sets).collect(),
            logs,
        }
    }

    /// Reads one object and writes it down.
    async fn object<K: Resource<DynamicType = ()>>(&self, name: &str) -> Option<Value> {
        let kind = K::kind(&()).to_lowercase();
        let file = format!("manifests/{kind}.{}.json", file_segment(name));
        let step = async {
            let object = self.api::<K>().get(name).await.map_err(|error| said(&error))?;
            let object = manifest::<K>(&object)?;
            self.shelf.put_json(&file, &object).await?;
            Ok(object)
        };
        self.progress.run(&file, Duration::ZERO, step).await
    }

    /// Reads a list of objects and writes it down as one that `kubectl` understands.
    async fn objects<K: Resource<DynamicType = ()>>(&self, name: String, selector: Selector) -> Vec<Value> {
        let file = format!("manifests/{name}.json");
        let step = async {
            let params = ListParams::default().labels_from(&selector).limit(LIST_MAX);
            let list = self.api::<K>().list(&params).await.map_err(|error| said(&error))?;
            let items = list.items.iter().map(manifest::<K>).collect::<Result<Vec<_>, _>>()?;
            let whole = json!({"apiVersion": "v1", "kind": "List", "items": items});
            self.shelf.put_json(&file, &whole).await?;
            Ok((items, list.metadata.continue_.is_some_and(|more| !more.is_empty())))
        };
        let Some((items, more)) = self.progress.run(&file, Duration::ZERO, step).await else {
            return Vec::new();
        };
        if more {
            self.progress.fail(&file, &format!("only the first {LIST_MAX} are kept"));
        }
        items
    }

    /// Events about the objects captured.
    async fn events(&self, involved: &BTreeSet<(String, String)>) {
        const FILE: &str = "events.json";
        let step = async {
            let (api, mut found, mut token) = (self.api::<Event>(), Vec::new(), None);
            for _ in 0..EVENT_PAGES_MAX {
                let mut params = ListParams::default().limit(EVENT_PAGE);
                params.continue_token = token.take();
                let list = api.list(&params).await.map_err(|error| said(&error))?;
                for event in &list.items {
                    found.push(manifest::<Event>(event)?);
                }
                token = list.metadata.continue_.filter(|more| !more.is_empty());
                if token.is_none() {
                    break;
                }
            }
            let events = plan::events_about(found, involved);
            self.shelf
                .put_json(FILE, &json!({"apiVersion": "v1", "kind": "List", "items": events}))
                .await?;
            Ok(token.is_some())
        };
        if self.progress.run(FILE, Duration::ZERO, step).await == Some(true) {
            self.progress
                .fail(FILE, "the namespace has too many events to look through all of them");
        }
    }

    /// One container's log; of one that breaks off, what had arrived.
    async fn log(&self, step: &LogStep) {
        let bytes_max = usize::try_from(self.plan.bounds.log_bytes).unwrap_or(usize::MAX);
        let params = LogParams {
            container: Some(step.container.clone()),
            previous: step.previous,
            tail_lines: Some(i64::from(self.plan.bounds.log_lines)),
            limit_bytes: i64::try_from(self.plan.bounds.log_bytes.saturating_mul(LOG_BYTES_FACTOR)).ok(),
            timestamps: true,
            ..LogParams::default()
        };
        let mut tail = Tail::new(bytes_max);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.plan.namespace);
        let read = async {
            let log = match api.log_stream(&step.pod, &params).await {
                Ok(log) => log,
                // No container before this one.
                Err(kube::Error::Api(status)) if status.code == 400 && step.previous => return Ok(()),
                Err(error) => return Err(said(&error)),
            };
            let mut log = std::pin::pin!(log);
            let mut chunk = vec![0; 16 * 1024];
            loop {
                match log.read(&mut chunk).await {
                    Ok(0) => return Ok(()),
                    Ok(length) => tail.push(chunk.get(..length).unwrap_or_default()),
                    Err(error) => return Err(format!("the answer broke off: {error}")),
                }
            }
        };
        let failure = match timeout_at(self.progress.limit(Duration::ZERO), read).await {
            Ok(result) => result.err(),
            Err(_) => Some("no end of the answer in time; what had arrived is kept".to_owned()),
        };
        let text = tail.text();
        // An empty log of a running container is a finding, an empty one of a failed request is none.
        let written = if text.is_empty() && (step.previous || failure.is_some()) {
            Ok(())
        } else {
            self.shelf.put(&step.file, text.into_bytes()).await
        };
        match (failure, written) {
            (None, Ok(())) => self.progress.settle(&step.file),
            (Some(why), _) | (None, Err(why)) => self.progress.fail(&step.file, &why),
        }
    }
}

/// What one color gave.
#[derive(Default)]
struct OfColor {
    objects: Vec<Value>,
    logs: Vec<LogStep>,
}

/// An object as it goes on disk; items of a list do not carry their kind.
fn manifest<K: Resource<DynamicType = ()>>(object: &DynamicObject) -> Result<Value, String> {
    let mut value = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&())});
    let read = serde_json::to_value(object).map_err(|error| error.to_string())?;
    if let (Some(fields), Value::Object(read)) = (value.as_object_mut(), read) {
        fields.extend(read);
    }
    scrub::manifest(&mut value);
    Ok(value)
}

/// The newest bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Something older was left out.
    cut: bool,
}

impl Tail {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
            cut: false,
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        // Twice the bound before moving anything: each byte moves once at most.
        if self.bytes.len() > self.bytes_max.saturating_mul(2) {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.bytes_max);
        self.bytes.drain(..surplus);
        self.cut |= surplus > 0;
    }

    /// Whole lines, cleaned.
    fn text(mut self) -> String {
        self.trim();
        let from = match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if self.cut => end + 1,
            _ => 0,
        };
        let text = String::from_utf8_lossy(self.bytes.get(from..).unwrap_or_default());
        scrub::text(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_lines_of_a_log_are_kept() {
        let mut tail = Tail::new(20);
        for n in 0..100 {
            tail.push(format!("line {n}\n").as_bytes());
        }
        assert_eq!(tail.text(), "line 98\nline 99\n");
        let mut short = Tail::new(20);
        short.push(b"no newline");
        assert_eq!(short.text(), "no newline");
    }

    #[tokio::test]
    async fn a_full_bundle_takes_no_more_and_says_so() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let shelf = Shelf::new(folder.path().to_owned());
        shelf.room.store(10, Ordering::Relaxed);
        shelf.put("a", vec![b'x'; 8]).await.expect("fits");
        let refused = shelf.put("b", vec![b'x'; 8]).await.expect_err("does not fit");
        assert_eq!(refused, "left out, since the bundle would exceed 64 MiB");
        shelf.put("c", vec![b'x'; 2]).await.expect("fits");
        assert!(!folder.path().join("b").exists());
    }
}
