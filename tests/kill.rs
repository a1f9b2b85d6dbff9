//! kill -9 at every step of a flip, on the real API server, and a new start: exactly one flip of each object, one bundle,
//! one thread, and every message that was owed.
//!
//! The steps are hit from outside: what stands between the daemon and the API server holds the one request that belongs to
//! the step, or its answer; chats hang; the daemon itself has no hook. The witnesses are the API server's audit log, the
//! objects, the folders on disk and what the chat has accepted, never the daemon.
//!
//! By default each step is killed at once; `FLIPBACK_KILLS=20` does it so often, `FLIPBACK_KILL_STEPS=Decided,ToldToSome` at these
//! alone.

pub mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use serde_json::{Value, json};
use support::{
    Daemon, Ground, Held, Toll, eventually,
    stage::{SOON, TOKEN},
    toll::{Asked, Lever},
};

/// Quick rules, short times, and no second pass.
const QUICK: &str =
    "follow_up = \"0s\"\n[guards.policy]\nstretch = \"5s\"\nwarm_up_latency = \"1s\"\n[guards.rules.endpoints]\ndown_for = \"2s\"\n";
/// A busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(90);
/// Steps that are killed at the same time.
const AT_ONCE: usize = 7;
/// How long a daemon that means to do something twice is waited for: several looks.
const A_WHILE: Duration = Duration::from_secs(3);

/// Where the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Decided; the Service is being read before the patch.
    Decided,
    /// The snapshot is on disk; the patch is sent and never arrives.
    SnapshotWritten,
    /// The patch is sent, and arrives when the next run is there already.
    PatchLate,
    /// The patch is carried out, its answer unseen.
    AnswerUnseen,
    /// The same, and the snapshot never came to the disk: the ledger alone tells.
    NoSnapshot,
    /// The answer is there; the preview Service is about to be read.
    Patched,
    /// The preview Service's patch is sent and never arrives.
    PreviewNotSwapped,
    /// It is carried out, its answer unseen.
    PreviewAnswerUnseen,
    /// Traffic was moved; whether it arrived is being looked at.
    Verifying,
    /// The logs are being read.
    CaptureHalfDone,
    /// Decided, and the first message was laid down for some chats and not yet for the one that is asked.
    ToldToSome,
    /// The first message is under way.
    FirstMessage,
    /// The bundle is whole; no message was answered.
    MessagesHalfSent,
}

const STEPS: [Step; 13] = [
    Step::Decided,
    Step::SnapshotWritten,
    Step::PatchLate,
    Step::AnswerUnseen,
    Step::NoSnapshot,
    Step::Patched,
    Step::PreviewNotSwapped,
    Step::PreviewAnswerUnseen,
    Step::Verifying,
    Step::CaptureHalfDone,
    Step::ToldToSome,
    Step::FirstMessage,
    Step::MessagesHalfSent,
];

/// How often each step is killed.
fn kills() -> usize {
    std::env::var("FLIPBACK_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(1)
}

/// The steps that are killed at.
fn steps() -> Vec<Step> {
    let only = std::env::var("FLIPBACK_KILL_STEPS").ok();
    let wanted = |step: &Step| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|name| name == format!("{step:?}")))
    };
    let steps: Vec<Step> = STEPS.into_iter().filter(wanted).collect();
    assert!(!steps.is_empty(), "FLIPBACK_KILL_STEPS names none of {STEPS:?}");
    steps
}

// === the scene ===

/// A shop whose daemon goes over a toll.
struct Scene {
    ground: Ground,
    toll: Toll,
    admin: kube::Client,
}

impl Scene {
    async fn open(name: &str) -> Option<Self> {
        let ground = Ground::open(name, QUICK).await?;
        let toll = Toll::before(&ground).await;
        // The world stands still until the kill, however long a busy machine takes for that.
        ground.edit(
            "[clusters.testbed]\n",
            "[clusters.testbed]\nflip_timeout = \"30s\"\nread_timeout = \"30s\"\n",
        );
        let admin = ground.cluster.admin().await;
        Some(Self { ground, toll, admin })
    }

    /// Holds requests about one Service of the shop.
    fn hold(&self, held: Held, methods: &'static [&'static str], service: &str) -> Lever {
        let path = format!("/api/v1/namespaces/{}/services/{service}", self.ground.namespace);
        let fits = move |asked: &Asked| methods.contains(&asked.method.as_str()) && asked.uri.split('?').next() == Some(path.as_str());
        self.toll.hold(held, fits)
    }

    /// The bar that stops the world at a step.
    fn bar(&self, step: Step) -> Option<Lever> {
        let (active, preview) = (self.ground.shop.active(), self.ground.shop.preview());
        Some(match step {
            // A flip goes by the cache where the reading takes long.
            Step::Decided | Step::ToldToSome => self.hold(Held::Before, &["GET", "PATCH"], &active),
            Step::SnapshotWritten | Step::PatchLate => self.hold(Held::Before, &["PATCH"], &active),
            Step::AnswerUnseen | Step::NoSnapshot => self.hold(Held::After, &["PATCH"], &active),
            Step::Patched => self.hold(Held::Before, &["GET"], &preview),
            Step::PreviewNotSwapped => self.hold(Held::Before, &["PATCH"], &preview),
            Step::PreviewAnswerUnseen => self.hold(Held::After, &["PATCH"], &preview),
            // Neither the watches nor the first lists ask for one Service's.
            Step::Verifying => self.toll.hold(Held::Before, |asked| {
                asked.uri.contains("/endpointslices?") && asked.uri.contains("labelSelector=")
            }),
            Step::CaptureHalfDone => self.toll.hold(Held::Before, |asked| asked.uri.contains("/log?")),
            Step::FirstMessage | Step::MessagesHalfSent => return None,
        })
    }

    fn incidents(&self) -> PathBuf {
        self.ground.folder.path().join("data/incidents")
    }

    /// The folders of incidents, whole or begun; not the next version of one that is being made beside it.
    fn folders(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.incidents()).into_iter().flatten();
        let mut folders: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.retain(|folder| !is_hidden(folder) || folder.to_string_lossy().contains("/.partial-"));
        folders.sort();
        folders
    }

    /// Waits for a folder that fits.
    async fn wait_folder(&self, what: &str, fits: impl Fn(&Path) -> bool) -> PathBuf {
        eventually(what, LIMIT, async || self.folders().into_iter().find(|folder| fits(folder))).await
    }

    /// What waits for a chat.
    fn outbox(&self, chat: &str) -> PathBuf {
        self.ground.folder.path().join("data/outbox/pending").join(chat)
    }

    /// Waits until a message of this topic waits on disk for each of these chats.
    async fn wait_waiting(&self, chats: &[&str], topic: &str) {
        for chat in chats {
            eventually(&format!("{topic} to wait for {chat}"), LIMIT, async || {
                let waiting = std::fs::read_dir(self.outbox(chat)).ok()?;
                let mut names = waiting.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                names.any(|name| name.contains(topic) && name.ends_with(".json")).then_some(())
            })
            .await;
        }
    }

    /// As if the kill had come some milliseconds earlier, which nothing outside can hit: no snapshot, and for this chat no message.
    fn forget(&self, chat: Option<&str>) {
        let folders = self.folders().into_iter().chain(chat.map(|chat| self.outbox(chat)));
        folders.for_each(|folder| std::fs::remove_dir_all(folder).expect("ours"));
    }

    /// Ids of the accepted messages about incidents, with their threads.
    fn told(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let deliveries = self.ground.chat.deliveries();
        let own = deliveries.iter().filter(|one| one.path == "/webhook" && one.status == 200);
        own.filter(|one| one.body["data"]["incident"].is_string())
            .filter_map(|one| Some((text(&one.body["data"]["id"])?, text(&one.body["data"]["thread"])?)))
            .collect()
    }

    /// Waits until a message of each of these topics was accepted.
    async fn wait_told(&self, topics: &[&str]) {
        let what = format!("{topics:?} to be told");
        eventually(&what, LIMIT, async || {
            let told = self.told();
            let heard = |topic: &&str| told.keys().any(|id| id.ends_with(&format!(".{topic}")));
            topics.iter().all(heard).then_some(())
        })
        .await;
    }

    /// A Service as it is now; asked for gently, since many scenes share one API server and a machine.
    async fn service(&self, name: &str) -> Option<Service> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Api::<Service>::namespaced(self.admin.clone(), &self.ground.namespace)
            .get(name)
            .await
            .ok()
    }

    /// Waits until the Services select these colors.
    async fn wait_selectors(&self, wanted: &[(&str, &str)]) {
        for (name, color) in wanted {
            eventually(&format!("{name} to select {color}"), LIMIT, async || {
                let selector = self.service(name).await?.spec?.selector?;
                (selector.get("color")? == color).then_some(())
            })
            .await;
        }
    }

    /// `flipback evidence verify` finds nothing wrong with a bundle.
    async fn check_whole(&self, folder: &Path) {
        let mut verify = self.ground.binary(&["evidence", "verify"]);
        verify.arg(folder);
        let said = tokio::task::spawn_blocking(move || verify.output())
            .await
            .expect("it runs")
            .expect("it starts");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }

    /// Everything that holds after a flip, wherever its daemon was killed.
    async fn check_one_of_each(&self, topics: &[&str]) {
        let shop = &self.ground.shop;
        let (active, preview) = (shop.active(), shop.preview());
        self.wait_selectors(&[(&active, "blue"), (&preview, "green")]).await;
        self.wait_told(topics).await;
        self.wait_folder("a whole bundle", |folder| {
            !is_hidden(folder) && folder.join("MANIFEST.sha256").exists()
        })
        .await;
        tokio::time::sleep(A_WHILE).await;

        // One flip of each object.
        assert_eq!(self.ground.flips().len(), 1, "{:#?}", self.ground.flips());
        let mut previews = self.ground.stored();
        previews.retain(|event| event.is_on("services", &self.ground.namespace, &preview));
        assert_eq!(previews.len(), 1, "{previews:#?}");
        self.wait_selectors(&[(&active, "blue"), (&preview, "green")]).await;

        // One bundle, and the ledger names it.
        let folders = self.folders();
        let [folder] = folders.as_slice() else {
            panic!("not one bundle: {folders:?}")
        };
        let id = folder.file_name().expect("named").to_string_lossy().into_owned();
        let service = eventually("the active Service", LIMIT, async || self.service(&active).await).await;
        let annotations = service.metadata.annotations.unwrap_or_default();
        let ledger: Value = serde_json::from_str(&annotations["flipback.dev/ledger"]).expect("JSON");
        let flips = ledger["flips"].as_array().expect("a list");
        assert_eq!(flips.len(), 1, "{ledger:#}");
        assert_eq!(flips[0]["incident"], id.as_str());
        let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
        let incident: Value = serde_json::from_str(&incident).expect("JSON");
        assert_eq!(incident["outcome"]["result"], "rolled_back", "{incident:#}");
        let timeline = incident["timeline"].as_array().expect("a story");
        assert_eq!(
            timeline.iter().filter(|entry| entry["moment"] == "arrived").count(),
            1,
            "{incident:#}"
        );
        // At once, even where the report is just being made anew.
        self.check_whole(folder).await;
        // By a program that knows nothing of us, and may meet a list that is just being replaced.
        let holds = async || support::bundle::holds(folder).then_some(());
        eventually(&format!("the list of {} to hold", folder.display()), LIMIT, holds).await;

        // One thread, and each of its messages under one name.
        let told = self.told();
        let threads: BTreeSet<&String> = told.values().collect();
        assert_eq!(threads.len(), 1, "{told:#?}");
        let mut heard: Vec<&str> = told.keys().filter_map(|id| id.rsplit_once('.')).map(|(_, topic)| topic).collect();
        heard.sort_unstable();
        let mut expected = topics.to_vec();
        expected.sort_unstable();
        assert_eq!(heard, expected, "{told:#?}");
    }
}

fn is_hidden(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Told of every flip, to its end.
const ROLLED_BACK: [&str; 4] = ["rollback_initiated", "rollback_completed", "evidence_ready", "recovered"];

/// Brings the daemon to the step, with green live and down, and kills it there.
async fn kill_at(scene: &Scene, step: Step, daemon: &mut Daemon, lever: &mut Option<Lever>) {
    let chat = &scene.ground.chat;
    match step {
        Step::FirstMessage => {
            eventually("the first message", LIMIT, async || {
                let deliveries = chat.deliveries();
                let initiated = |topic: &Value| *topic == "rollback_initiated";
                deliveries.iter().any(|one| initiated(&one.body["data"]["topic"])).then_some(())
            })
            .await;
        }
        Step::MessagesHalfSent => {
            scene.wait_folder("a whole bundle", |folder| !is_hidden(folder)).await;
            scene.wait_waiting(&["webhook"], "evidence_ready").await;
        }
        _ => {
            let lever = lever.as_mut().expect("such a step is held");
            lever.caught(LIMIT).await;
            match step {
                Step::SnapshotWritten => {
                    scene
                        .wait_folder("the snapshot", |folder| {
                            is_hidden(folder) && folder.join("incident.json").exists() && folder.join("decision.jsonl").exists()
                        })
                        .await;
                }
                Step::ToldToSome => scene.wait_waiting(&["slack", "teams", "webhook"], "rollback_initiated").await,
                Step::Verifying => tokio::time::sleep(Duration::from_millis(200)).await,
                Step::CaptureHalfDone => {
                    scene
                        .wait_folder("the manifests", |folder| folder.join("manifests/service.shop-active.json").exists())
                        .await;
                }
                _ => {}
            }
        }
    }
    daemon.process.kill();
}

/// One kill of a rule's flip at a step, and the start after it.
async fn killed_flip(step: Step) -> Option<()> {
    let scene = Scene::open("every_step_of_a_flip_survives_a_kill").await?;
    let ground = &scene.ground;
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    let silent = matches!(step, Step::ToldToSome | Step::FirstMessage | Step::MessagesHalfSent);
    ground.chat.set_silent(silent);
    let mut lever = scene.bar(step);
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    let checked = AssertUnwindSafe(async {
        kill_at(&scene, step, &mut daemon, &mut lever).await;
        ground.chat.set_silent(false);
        match step {
            Step::NoSnapshot => scene.forget(None),
            Step::ToldToSome => scene.forget(Some("webhook")),
            _ => {}
        }
        if step != Step::PatchLate {
            lever.iter().for_each(Lever::lose);
        }
        // The next run's own patch, should it come first, is not held.
        lever.iter().for_each(Lever::no_more);
        daemon = ground.start(&[]).await;
        if step == Step::PatchLate {
            lever.iter().for_each(Lever::lift);
        }
        scene.check_one_of_each(&ROLLED_BACK).await;
    });
    if let Err(panic) = checked.catch_unwind().await {
        let _ = writeln!(
            std::io::stderr(),
            "killed at {step:?}; the daemon said:\n{}",
            daemon.process.output()
        );
        std::panic::resume_unwind(panic);
    }
    daemon.terminate().await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_flip_survives_a_kill() {
    let kills = kills();
    let steps = steps();
    let rounds = (0..kills).flat_map(|_| steps.iter().copied());
    // Each in a task of its own, so that none waits while another reads a long audit log.
    let mut done = stream::iter(rounds)
        .map(|step| tokio::spawn(killed_flip(step)))
        .buffer_unordered(AT_ONCE);
    let mut count = 0;
    while let Some(killed) = done.next().await {
        let killed = killed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        count += usize::from(killed.is_some());
        if count % steps.len() == 0 {
            let _ = writeln!(std::io::stderr(), "{count} kills");
        }
    }
    // None at all where the real parts are not here, which is said.
    assert!(count == 0 || count == kills * steps.len(), "{count} of {}", kills * steps.len());
    println!("{count} kills -9 at {} steps: one flip, one bundle, one thread each", steps.len());
}

// === what a person asked for ===

/// Asks for a rollback and does not wait for its answer.
fn ask(daemon: &Daemon) -> tokio::task::JoinHandle<()> {
    let command = json!({"command": "rollback", "guard": daemon.guard, "by": "ann", "reason": "too slow", "dry_run": false});
    let (http, url) = (reqwest::Client::builder().no_proxy().build().expect("a client"), daemon.url.clone());
    tokio::spawn(async move {
        let request = http.post(format!("{url}/api/v1/commands")).bearer_auth(TOKEN).json(&command);
        // Its daemon is killed under it.
        let _ = request.send().await;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_asked_for_and_the_api_server_did_is_ended_by_the_next_run() {
    for _ in 0..kills() {
        let Some(scene) = Scene::open("what_a_person_asked_for_and_the_api_server_did_is_ended_by_the_next_run").await else {
            return;
        };
        let ground = &scene.ground;
        let mut daemon = ground.start(&[]).await;
        ground.release_green(&mut daemon).await;
        let mut lever = scene.hold(Held::After, &["PATCH"], &ground.shop.active());
        let asked = ask(&daemon);
        lever.caught(SOON).await;
        daemon.process.kill();
        lever.lose();
        asked.await.expect("it only asks");
        let mut daemon = ground.start(&[]).await;
        scene.check_one_of_each(&ROLLED_BACK).await;
        daemon.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_asked_for_and_nobody_did_is_told_to_have_failed() {
    for _ in 0..kills() {
        let Some(scene) = Scene::open("what_a_person_asked_for_and_nobody_did_is_told_to_have_failed").await else {
            return;
        };
        let ground = &scene.ground;
        let mut daemon = ground.start(&[]).await;
        ground.release_green(&mut daemon).await;
        let mut lever = scene.hold(Held::Before, &["PATCH"], &ground.shop.active());
        let asked = ask(&daemon);
        lever.caught(SOON).await;
        scene
            .wait_folder("the snapshot", |folder| folder.join("incident.json").exists())
            .await;
        daemon.process.kill();
        lever.lose();
        asked.await.expect("it only asks");
        // The person does it by hand, so that a patch that compares can never come through.
        ground.shop.switch_to("blue").await;
        let mut daemon = ground.start(&[]).await;
        scene.wait_told(&["rollback_initiated", "rollback_failed"]).await;
        scene.wait_folder("a whole bundle", |folder| !is_hidden(folder)).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(ground.flips().len(), 0, "{:#?}", ground.flips());
        assert_eq!(scene.folders().len(), 1, "{:?}", scene.folders());
        let threads: BTreeSet<String> = scene.told().into_values().collect();
        assert_eq!(threads.len(), 1, "{:#?}", scene.told());
        daemon.terminate().await;
    }
}

// === an attempt that nobody goes on with ===

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_cut_off_is_closed_and_kept_when_all_is_well_again() {
    for _ in 0..kills() {
        let Some(scene) = Scene::open("an_attempt_that_was_cut_off_is_closed_and_kept_when_all_is_well_again").await else {
            return;
        };
        let ground = &scene.ground;
        let mut daemon = ground.start(&[]).await;
        ground.release_green(&mut daemon).await;
        let mut lever = scene.hold(Held::Before, &["PATCH"], &ground.shop.active());
        ground.cluster.set_ready(&ground.namespace, "shop-green", false);
        lever.caught(LIMIT).await;
        scene
            .wait_folder("the snapshot", |folder| folder.join("decision.jsonl").exists())
            .await;
        daemon.process.kill();
        lever.lose();
        ground.cluster.set_ready(&ground.namespace, "shop-green", true);
        ground.cluster.wait_ready(&ground.namespace, "shop-green", true).await;
        let mut daemon = ground.start(&[]).await;
        scene.wait_told(&["rollback_initiated", "resolved", "evidence_ready"]).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(ground.flips().len(), 0, "{:#?}", ground.flips());
        let folders = scene.folders();
        let [folder] = folders.as_slice() else {
            panic!("not one bundle: {folders:?}")
        };
        assert!(!is_hidden(folder) && folder.join("decision.jsonl").exists(), "{folders:?}");
        let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
        let incident: Value = serde_json::from_str(&incident).expect("JSON");
        assert_eq!(incident["outcome"]["result"], "failed", "{incident:#}");
        let told = scene.told();
        assert_eq!(told.len(), 3, "{told:#?}");
        assert_eq!(told.into_values().collect::<BTreeSet<_>>().len(), 1);
        daemon.terminate().await;
    }
}
