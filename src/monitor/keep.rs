//! The proof of what was done: captured in the background, told when it is there, told louder when it is not, and completed
//! once it is known what came after.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{ERRANDS_MAX, Monitor, late, show, tell};
use crate::{
    cluster::Cluster,
    evidence::{EvidenceError, Keeper, Ranges, Sources},
    model::{Actor, Announcement, AuditEntry, Clock, GuardId, GuardSpec, Incident, Moment, TimelineEntry, Topic},
    notify::{Outbox, Pushed},
    observe::Measure,
};

/// How often a line is offered to an incident whose folder does not exist yet.
const AMEND_TRIES: u32 = 10;
/// Between two offers; a sound disk has written the first file long before.
const AMEND_AGAIN: Duration = Duration::from_millis(200);
/// How often the evidence of one incident is tried to be kept: with the pauses below for about half an hour.
const KEEP_TRIES: usize = 9;
/// Before the first further try.
const KEEP_AGAIN_MIN: Duration = Duration::from_secs(5);
/// Before any.
const KEEP_AGAIN_MAX: Duration = Duration::from_secs(5 * 60);
/// What an earlier run left without its second pass is completed only while Prometheus can be expected to remember it.
const FOLLOW_UP_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Lines of one incident that say of a chat that it was not told: one that refuses for good while a guard stays blocked would add to it
/// for ever.
const LOST_MAX: usize = 20;
/// After a start the first looks go first.
const FOLLOW_UP_AFTER_START: Duration = Duration::from_secs(30);

/// A second pass that is owed.
pub(super) struct FollowUp {
    guard: GuardId,
    due: Timestamp,
    /// It is never further away than this, however the clock is stepped.
    wait: Duration,
    topic: Topic,
}

/// Everything that keeping an incident needs, however long it takes.
struct Archivist {
    keeper: Arc<Keeper>,
    clock: Clock,
    observer: Arc<dyn Measure>,
    cluster: Arc<Cluster>,
    spec: Arc<GuardSpec>,
    outbox: Outbox,
    journal: crate::audit::Journal,
    /// Cancelled once the first attempt to keep the evidence has ended.
    captured: CancellationToken,
}

impl Archivist {
    /// Where the evidence comes from; made anew for each try.
    fn sources(&self, record: Option<String>) -> Sources {
        let (observer, id) = (Arc::clone(&self.observer), self.spec.id.clone());
        let ranges: Ranges = Box::new(move |from: Timestamp, to: Timestamp| {
            async move {
                let step = show::step(from, to);
                observer.range(&id, from, to, step).await.map_err(|error| tell::chain(&error))
            }
            .boxed()
        });
        Sources {
            record,
            client: self.cluster.reads().map_err(|error| tell::chain(&error)),
            ranges,
        }
    }

    /// Keeps an incident, and tells what became of it. A disk that refuses is told at once, and tried again: what can be
    /// captured later is better than nothing.
    async fn keep(self, incident: Incident, topic: Topic, record: Option<String>) {
        let mut pauses = pauses();
        let name = incident.id.clone();
        let mut told = false;
        loop {
            let kept = self.kept(&incident, record.clone()).await;
            self.captured.cancel();
            let error = match kept {
                Ok(folder) => {
                    tracing::info!(incident = %name, folder = %folder.display(), "Evidence kept");
                    let incident = named(incident, &folder);
                    self.note(&incident, "evidence_kept", folder.display().to_string());
                    self.ready(&incident, topic);
                    if let Some(replaced) = &incident.replaces {
                        let_go(&self.keeper, replaced).await;
                    }
                    if told {
                        self.over(&incident, topic, Some(&folder), "its evidence could be kept after all");
                    }
                    pruned(&self.keeper, &self.journal, &self.clock).await;
                    return;
                }
                Err(error) => tell::chain(&error),
            };
            tracing::error!(incident = %name, %error, "Failed to keep the evidence");
            if !told {
                told = true;
                self.note(&incident, "evidence_lost", error.clone());
                self.outbox
                    .push(tell::evidence_lost(&incident, &error, self.clock.now(), &self.keeper, &self.spec));
            }
            let Some(pause) = pauses.next() else {
                self.over(
                    &incident,
                    topic,
                    None,
                    "its evidence is lost for good: the disk has refused it for half an hour",
                );
                return;
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One try. What was kept as failed and has moved traffic all the same is corrected where it lies.
    async fn kept(&self, incident: &Incident, record: Option<String>) -> Result<PathBuf, EvidenceError> {
        if late::is_taken_back(incident) {
            match self.keeper.correct(incident).await {
                // The disk had refused it, or nobody had begun it yet.
                Err(EvidenceError::Missing { .. }) => {}
                corrected => return corrected,
            }
        }
        self.keeper.keep(incident.clone(), &self.spec, self.sources(record)).await
    }

    /// Closes the thread that lost evidence has opened, where it is about nothing else: a person's switch by itself.
    fn over(&self, incident: &Incident, topic: Topic, kept: Option<&Path>, why: &str) {
        if topic == Topic::Switched && incident.thread() == incident.id {
            let over = tell::evidence_over(incident, why, self.clock.now(), &self.keeper, &self.spec);
            self.outbox.push(match kept {
                Some(_) => over,
                None => Announcement {
                    evidence: None,
                    link: None,
                    picture: None,
                    ..over
                },
            });
        }
    }

    /// Tells that the report can be opened, where somebody waits for it.
    fn ready(&self, incident: &Incident, topic: Topic) {
        if tell::is_awaited(incident, topic) {
            self.outbox.push(tell::evidence_ready(
                incident,
                Topic::EvidenceReady,
                self.clock.now(),
                &self.keeper,
                &self.spec,
            ));
        }
    }

    /// Captures what came after, and says that the incident is over where it is.
    async fn follow_up(self, id: String, topic: Topic) {
        let mut pauses = pauses();
        let incident = loop {
            let completed = self.keeper.follow_up(&id, &self.spec, self.sources(None), self.clock.now()).await;
            let read = match completed {
                Ok(_) => self.keeper.read(&id).await,
                Err(error) => Err(error),
            };
            let error = match read {
                Ok(incident) => break incident,
                Err(error) => error,
            };
            tracing::warn!(incident = %id, error = %tell::chain(&error), "Failed to complete the evidence");
            let missing = matches!(error, EvidenceError::Missing { .. });
            let Some(pause) = pauses.next().filter(|_| !missing) else { return };
            tokio::time::sleep(pause).await;
        };
        tracing::info!(incident = %id, "Evidence completed with what came after");
        pruned(&self.keeper, &self.journal, &self.clock).await;
        if tell::ends_well(&incident) && topic != Topic::Switched {
            self.outbox.push(tell::evidence_ready(
                &incident,
                Topic::Resolved,
                self.clock.now(),
                &self.keeper,
                &self.spec,
            ));
        }
    }

    fn note(&self, incident: &Incident, action: &str, why: String) {
        self.journal.write(AuditEntry {
            at: self.clock.now(),
            actor: Actor::Flipback,
            guard: Some(incident.case.guard.clone()),
            action: action.to_owned(),
            why,
            incident: Some(incident.id.clone()),
        });
    }
}

/// Adds a line to an incident's story. The incident's own first line may still be on its way to the disk.
pub(super) async fn amend(keeper: &Keeper, incident: &str, entry: TimelineEntry) {
    for left in (0..AMEND_TRIES).rev() {
        match keeper.amend(incident, entry.clone()).await {
            Err(EvidenceError::Missing { .. }) if left > 0 => tokio::time::sleep(AMEND_AGAIN).await,
            Err(error) => {
                tracing::warn!(%incident, error = %tell::chain(&error), "Failed to add to the evidence");
                return;
            }
            Ok(()) => return,
        }
    }
}

/// [`amend`], once the message that tells of it cannot be lost any more.
async fn amend_once_kept(keeper: &Keeper, incident: &str, entry: TimelineEntry, told: Pushed) {
    if !told.kept().await {
        tracing::debug!(%incident, "The disk does not keep what is told: its line is tried all the same");
    }
    amend(keeper, incident, entry).await;
}

/// Lets go of the bundle of an incident whose story another tells on, now that the other's is whole.
async fn let_go(keeper: &Keeper, incident: &str) {
    let mut pauses = pauses();
    while let Err(error) = keeper.let_go(incident).await {
        let Some(pause) = pauses.next() else {
            tracing::warn!(%incident, error = %tell::chain(&error), "Failed to let go of evidence that a later incident has taken up");
            return;
        };
        tokio::time::sleep(pause).await;
    }
}

/// The pauses between tries at the same evidence.
fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(KEEP_AGAIN_MIN)
        .with_max_delay(KEEP_AGAIN_MAX)
        .with_jitter()
        .with_max_times(KEEP_TRIES - 1)
        .build()
}

/// The incident under the name that its folder got: another one where its own was taken.
fn named(incident: Incident, folder: &Path) -> Incident {
    let thread = incident.thread().to_owned();
    match folder.file_name().and_then(|name| name.to_str()) {
        Some(name) if name != incident.id => Incident {
            id: name.to_owned(),
            thread: Some(thread),
            ..incident
        },
        _ => incident,
    }
}

/// Lets go what exceeds the limits, and says so in the journal.
async fn pruned(keeper: &Keeper, journal: &crate::audit::Journal, clock: &Clock) {
    for (bundle, reason) in keeper.tidy(clock.now()).await {
        journal.write(AuditEntry {
            at: clock.now(),
            actor: Actor::Flipback,
            guard: None,
            action: "evidence_pruned".to_owned(),
            why: format!("{} went: {reason}", bundle.id),
            incident: Some(bundle.id),
        });
    }
}

impl Monitor {
    /// Lets go, at the start, what has grown too old meanwhile.
    pub(super) fn tidy(&mut self) {
        let (keeper, journal, clock) = (Arc::clone(&self.keeper), self.journal.clone(), self.clock.clone());
        self.errand(async move { pruned(&keeper, &journal, &clock).await });
    }

    fn archivist(&self, id: &GuardId) -> Option<Archivist> {
        let guard = self.guards.get(id)?;
        Some(Archivist {
            keeper: Arc::clone(&self.keeper),
            clock: self.clock.clone(),
            observer: Arc::clone(&self.observer),
            cluster: Arc::clone(&guard.cluster),
            spec: Arc::clone(&guard.spec),
            outbox: self.outbox.clone(),
            journal: self.journal.clone(),
            captured: CancellationToken::new(),
        })
    }

    /// Captures the evidence of an incident, in the background, and remembers that the second pass is owed.
    pub(super) fn keep(
        &mut self,
        id: &GuardId,
        incident: Incident,
        topic: Topic,
        record: Option<String>,
    ) -> Option<BoxFuture<'static, ()>> {
        let mut archivist = self.archivist(id)?;
        // Of what is only corrected the capture was begun before, and may still be going on.
        if let Some(guard) = self.guards.get_mut(id).filter(|_| !late::is_taken_back(&incident)) {
            archivist.captured = guard.relief.capturing(&incident.id);
        }
        self.owe(&archivist.spec, &incident, topic);
        Some(archivist.keep(incident, topic, record).boxed())
    }

    fn owe(&mut self, spec: &GuardSpec, incident: &Incident, topic: Topic) {
        let wait = spec.evidence.follow_up;
        if wait.is_zero() {
            return;
        }
        // Beyond the range of timestamps only for a configuration of millennia.
        let due = incident.case.at.checked_add(wait).unwrap_or(incident.case.at);
        let guard = spec.id.clone();
        let owed = FollowUp {
            guard,
            due,
            wait: wait.max(FOLLOW_UP_AFTER_START),
            topic,
        };
        self.follow_ups.insert(incident.id.clone(), owed);
    }

    /// What earlier runs left without its second pass.
    pub(super) fn remember_follow_ups(&mut self, incidents: Vec<Incident>, started: Timestamp) {
        let earliest = started.checked_add(FOLLOW_UP_AFTER_START).unwrap_or(started);
        let replaced: BTreeSet<String> = incidents.iter().filter_map(|incident| incident.replaces.clone()).collect();
        let incidents = incidents.into_iter().filter(|incident| !replaced.contains(&incident.id));
        for incident in incidents {
            let Some(guard) = self.guards.get(&incident.case.guard) else {
                continue;
            };
            if show::since(started, incident.case.at) > FOLLOW_UP_AGE_MAX {
                continue;
            }
            let spec = Arc::clone(&guard.spec);
            let topic = tell::topic(&incident);
            self.owe(&spec, &incident, topic);
            if let Some(owed) = self.follow_ups.get_mut(&incident.id) {
                owed.due = owed.due.max(earliest);
            }
        }
    }

    /// Of what a later incident tells on, an earlier run may have had no time to let go.
    pub(super) fn finish_replacing(&mut self, kept: &[Incident]) {
        let replaced: Vec<String> = kept.iter().filter_map(|incident| incident.replaces.clone()).collect();
        for incident in replaced.into_iter().filter(|replaced| kept.iter().any(|kept| kept.id == *replaced)) {
            let keeper = Arc::clone(&self.keeper);
            self.errand(async move { let_go(&keeper, &incident).await });
        }
    }

    /// Begins the second passes whose time has come.
    pub(super) fn follow_up(&mut self, now: Timestamp) {
        for owed in self.follow_ups.values_mut() {
            owed.due = show::due_within(owed.due, owed.wait, now);
        }
        let (due, later): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.follow_ups)
            .into_iter()
            .partition(|(_, owed)| owed.due <= now);
        self.follow_ups = later;
        for (incident, FollowUp { guard, topic, .. }) in due {
            if let Some(archivist) = self.archivist(&guard) {
                self.errand(archivist.follow_up(incident, topic));
            }
        }
    }

    /// Says where people look of messages that will never arrive: on the page, in the journal, in the bundle.
    pub(super) fn given_up(&mut self) {
        for lost in self.outbox.take_given_up() {
            let about = &lost.announcement;
            let what = format!("The chat {} was not told ({}): {}", lost.chat, about.topic.as_str(), lost.why);
            self.audit(
                lost.at,
                Actor::Flipback,
                Some(&about.guard),
                "message_lost",
                &what,
                about.incident.as_deref(),
            );
            if let Some(guard) = self.guards.get_mut(&about.guard) {
                guard.note(lost.at, what.clone());
            }
            let incident = about.incident.clone();
            if let Some(incident) = incident.filter(|incident| self.story(&about.guard, incident).is_none_or(takes_another_loss)) {
                self.amend(incident, TimelineEntry::of(Moment::NotTold, lost.at, what));
            }
        }
    }

    /// The story of an incident of a guard, as far as it is remembered.
    fn story(&self, guard: &GuardId, incident: &str) -> Option<&[TimelineEntry]> {
        let guard = self.guards.get(guard)?;
        let mut remembered = guard.last.iter().chain(&guard.open);
        remembered
            .find(|remembered| remembered.id == incident)
            .map(|found| found.timeline.as_slice())
    }

    /// Writes a line into the journal.
    pub(super) fn audit(&self, at: Timestamp, actor: Actor, guard: Option<&GuardId>, action: &str, why: &str, incident: Option<&str>) {
        self.journal.write(AuditEntry {
            at,
            actor,
            guard: guard.cloned(),
            action: action.to_owned(),
            why: why.to_owned(),
            incident: incident.map(str::to_owned),
        });
    }

    /// Adds a line to an incident's story.
    pub(super) fn amend(&mut self, incident: String, entry: TimelineEntry) {
        self.learn(&incident, &entry);
        let keeper = Arc::clone(&self.keeper);
        self.errand(async move { amend(&keeper, &incident, entry).await });
    }

    /// Adds a line to an incident's story that people are told of: to the one on the disk only once no crash can lose the message any
    /// more. What lies there says to the next run that it was told, and however old the incident is by then, it is believed.
    pub(super) fn amend_told(&mut self, incident: String, entry: TimelineEntry, told: Pushed) {
        self.learn(&incident, &entry);
        let keeper = Arc::clone(&self.keeper);
        self.errand(async move { amend_once_kept(&keeper, &incident, entry, told).await });
    }

    /// What is remembered of an incident here tells how often its turns were told.
    fn learn(&mut self, incident: &str, entry: &TimelineEntry) {
        for guard in self.guards.values_mut() {
            let is_one = guard
                .last
                .as_ref()
                .zip(guard.open.as_ref())
                .is_some_and(|(last, open)| Arc::ptr_eq(last, open));
            if is_one {
                guard.open = None;
            }
            let remembered = [&mut guard.last, &mut guard.open].into_iter().flatten();
            for remembered in remembered.filter(|remembered| remembered.id == incident) {
                Arc::make_mut(remembered).timeline.push(entry.clone());
            }
            if is_one {
                guard.open.clone_from(&guard.last);
            }
        }
    }

    /// Runs something nobody waits for.
    pub(super) fn errand(&mut self, errand: impl Future<Output = ()> + Send + 'static) {
        while self.errands.try_join_next().is_some() {}
        if self.errands.len() < ERRANDS_MAX {
            self.errands.spawn(errand);
        } else {
            tracing::error!(max = ERRANDS_MAX, "Too much is being recorded at once: one piece is dropped");
        }
    }
}

/// Whether an incident's story still tells of a further message that a chat was not told.
fn takes_another_loss(story: &[TimelineEntry]) -> bool {
    let lost = story.iter().filter(|entry| entry.moment == Some(Moment::NotTold));
    lost.count() < LOST_MAX
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        evidence::Sources,
        metrics::Metrics,
        model::{
            Moment,
            settings::{Channel, ChatSettings, EvidenceSettings, Secret},
        },
        notify::OutboxTask,
    };

    struct Scene {
        folder: tempfile::TempDir,
        keeper: Keeper,
        incident: Incident,
        outbox: Outbox,
        task: OutboxTask,
    }

    /// An incident that is kept, and an outbox whose task does not run yet: what is pushed lies in memory only.
    async fn scene() -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Metrics::new().expect("registers");
        let keeper = Keeper::open(folder.path().to_owned(), EvidenceSettings::default(), metrics.clone());
        let (spec, incident) = super::super::resume::tests::an_incident();
        let nothing: Ranges = Box::new(|_, _| async { Ok(Vec::new()) }.boxed());
        let sources = Sources {
            record: None,
            client: Err("there is no cluster here".into()),
            ranges: nothing,
        };
        keeper.keep(incident.clone(), &spec, sources).await.expect("kept");
        let url = Secret::Value(secrecy::SecretString::from("http://127.0.0.1:9/"));
        let chats = vec![ChatSettings::new("slack", Channel::Slack { url })];
        let (outbox, task) = Outbox::open(folder.path().join("outbox"), chats, metrics);
        Scene {
            folder,
            keeper,
            incident,
            outbox,
            task,
        }
    }

    impl Scene {
        fn run(task: OutboxTask, stop: &CancellationToken) -> JoinHandle<()> {
            tokio::spawn(task.run(stop.clone(), CancellationToken::new(), Clock::new(|| Timestamp::UNIX_EPOCH)))
        }

        async fn story(&self) -> Vec<Option<Moment>> {
            let incident = self.keeper.read(&self.incident.id).await.expect("kept");
            incident.timeline.iter().map(|entry| entry.moment).collect()
        }
    }

    /// Guards what a kill between the two would lose: a story that says "told" is believed by the next run, however old it is.
    #[tokio::test]
    async fn a_story_says_that_it_was_told_only_once_no_crash_can_lose_the_message() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let scene = scene().await;
        let announcement = crate::model::Announcement::example(Topic::Recovered);
        let told = scene.outbox.push(announcement);
        let entry = TimelineEntry::of(Moment::Recovered, scene.incident.case.at, "Well again");
        let (keeper, id) = (scene.keeper.clone(), scene.incident.id.clone());
        let amending = tokio::spawn(async move { amend_once_kept(&keeper, &id, entry, told).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(
            !scene.story().await.contains(&Some(Moment::Recovered)),
            "the message lies in memory only"
        );
        let stop = CancellationToken::new();
        let Scene { task, .. } = scene;
        let running = Scene::run(task, &stop);
        tokio::time::timeout(Duration::from_secs(30), amending)
            .await
            .expect("in time")
            .expect("no panic");
        let folder = scene.folder.path().join("outbox");
        let incident = scene.keeper.read(&scene.incident.id).await.expect("kept");
        assert!(incident.timeline.iter().any(|entry| entry.moment == Some(Moment::Recovered)));
        assert!(folder.exists(), "and the message is in its file by then");
        stop.cancel();
        running.await.expect("it ends");
    }

    #[tokio::test]
    async fn what_another_incident_tells_on_is_let_go_of_unless_it_was_pinned() {
        let scene = scene().await;
        let bundle = scene.keeper.folder(&scene.incident.id);
        std::fs::write(bundle.join(".pinned"), "").expect("written");
        let_go(&scene.keeper, &scene.incident.id).await;
        assert!(bundle.exists(), "a person wants to keep it");
        std::fs::remove_file(bundle.join(".pinned")).expect("ours");
        let_go(&scene.keeper, &scene.incident.id).await;
        assert!(!bundle.exists());
        let_go(&scene.keeper, &scene.incident.id).await;
    }

    #[test]
    fn a_story_does_not_grow_for_ever_by_what_a_chat_was_not_told() {
        let mut story = vec![TimelineEntry::remark(Timestamp::UNIX_EPOCH, "Decided")];
        for _ in 0..10 * LOST_MAX {
            if takes_another_loss(&story) {
                story.push(TimelineEntry::of(
                    Moment::NotTold,
                    Timestamp::UNIX_EPOCH,
                    "The chat slack was not told".to_owned(),
                ));
            }
        }
        assert_eq!(story.len(), 1 + LOST_MAX);
    }
}
