//! The conductor: the only file that knows the order of things.
//!
//! `run` waits; `begin` and `judge` are the two halves of one tick; `act` carries a decision out. Time enters in `run`
//! and is handed on. A flip runs in a task of its own from the moment it is decided: neither a slow Prometheus, nor a
//! chat, nor the disk, nor another guard's flip stands before it. What became of it comes back through `settled`, for
//! the story; the engine itself learns of success only from the next observation, as it learns of a human's flip.

pub mod act;
mod arrive;
mod caught;
mod clear;
mod gone;
mod hold;
mod keep;
mod late;
mod lead;
mod left;
mod lifted;
mod meddler;
mod person;
mod recall;
mod relieve;
mod reload;
mod resume;
mod scale;
pub mod show;
pub mod tell;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, OptionFuture},
};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Journal, JournalTask},
    cluster::{Cluster, Replicas},
    config::Config,
    decide::{Engine, record::Recorder},
    evidence::{self, Keeper},
    metrics::Metrics,
    model::{
        Actor, Clock, Color, Command, CommandError, CommandReply, ConfigStatus, Decision, FleetStatus, GuardId, GuardSpec, Incident,
        IncidentSummary, Observation, Owner, Phase, Reading, RuleName, Status, Verdict, View, settings::ClusterSettings, status::EventLine,
    },
    notify::{self, OpenThread, Outbox, OutboxTask},
    observe::{Measure, ObserveError, Observer},
    router::Router,
    serve::Request,
};
use act::{Order, Step};
use arrive::Looking;
use gone::Gone;
use hold::Holds;
use keep::FollowUp;
use lead::Part;
use recall::Recalled;
use relieve::Relieving;
use reload::InForce;
pub use reload::News;
use scale::Scaling;

/// Requests that wait for the conductor; a person gives one at a time.
pub const COMMANDS_MAX: usize = 16;
/// Other configurations that wait to be heard of; each is some seconds after the one before.
const NEWS_MAX: usize = 4;
/// Events a guard shows.
const EVENTS_MAX: usize = 30;
/// Values a rule's sparkline shows.
const HISTORY_MAX: usize = 60;
/// A healthy API server answers the first lists well within this; a dead one shall not hold up the first verdict longer.
const FIRST_LISTS: Duration = Duration::from_secs(5);
/// SIGTERM ends the daemon within 5 s; the conductor has so many of them. What the last words take to be kept comes after it.
pub const CONDUCTOR_FINISH: Duration = Duration::from_millis(3500);
/// Flips in progress get most of it.
const FLIPS_FINISH: Duration = Duration::from_secs(3);
/// Giving the Leases back takes two requests that are on their way together.
const LEASES_RETURN: Duration = Duration::from_millis(500);
/// Evidence gets so much of what remains; what is cut is finished at the next start.
const ERRANDS_FINISH: Duration = Duration::from_millis(700);
/// Evidence, events and verifications under way at once; each is bounded in time by its own room.
const ERRANDS_MAX: usize = 4096;
/// Without a daemon a standby that is being scaled up is looked at this often.
const WISH_LOOKS: Duration = Duration::from_millis(500);
/// While a release stays bad and cannot be flipped, people hear of it this often.
pub(crate) const TELL_AGAIN: Duration = Duration::from_secs(5 * 60);

/// Readings of all guards.
type Readings = BTreeMap<GuardId, BTreeMap<Color, BTreeMap<RuleName, Reading>>>;

/// Why the conductor could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The observers could not be built.
    #[error("failed to prepare the queries")]
    Observe(#[source] crate::observe::ObserveError),
    /// The metrics could not be registered.
    #[error("failed to register the metrics")]
    Metrics(#[source] crate::metrics::MetricsError),
}

/// How a cluster is opened.
type OpenCluster = dyn Fn(ClusterSettings, BTreeSet<String>, Metrics, CancellationToken) -> Arc<Cluster> + Send + Sync;
/// How what measures is made.
type OpenMeasure = dyn Fn(&Config, &Metrics) -> Result<Arc<dyn Measure>, ObserveError> + Send + Sync;

/// What the daemon stands on. A simulation brings its own; everything between is the same.
#[derive(Clone)]
pub struct World {
    /// Time enters here and nowhere else.
    pub clock: Clock,
    /// Opens clusters.
    pub cluster: Arc<OpenCluster>,
    /// Makes what measures.
    pub measure: Arc<OpenMeasure>,
    /// Makes what delivers to a chat.
    pub notifier: notify::Opener,
    /// Draws the pictures of bundles.
    pub pen: evidence::report::Pen,
}

impl World {
    /// The one outside.
    #[must_use]
    pub fn real() -> Self {
        #[expect(clippy::disallowed_methods, reason = "time enters the daemon here and nowhere else")]
        let clock = Clock::new(Timestamp::now);
        Self {
            clock,
            cluster: Arc::new(Cluster::open),
            measure: Arc::new(|config, metrics| {
                let observer = Observer::new(&config.guards, &config.clusters, config.probe_resolve.clone(), metrics.clone())?;
                Ok(Arc::new(observer))
            }),
            notifier: Arc::new(notify::open),
            pen: evidence::report::PEN,
        }
    }
}

/// Everything a guard needs between two looks.
struct Guarded {
    spec: Arc<GuardSpec>,
    router: Arc<dyn Router>,
    cluster: Arc<Cluster>,
    /// Its share of the guards, where several daemons share them.
    shard: Option<u32>,
    engine: Engine,
    /// The thread of messages of its newest incident.
    thread: Option<String>,
    /// The newest incident of this run. As a rule it is the open one, and the episode's, too: of these there is one in memory.
    last: Option<Arc<Incident>>,
    /// The newest incident of a thread of messages that has not been closed.
    open: Option<Arc<Incident>>,
    /// What an earlier run has begun to tell and not ended.
    left_open: Vec<OpenThread>,
    /// Since when nothing has been wrong, while a thread is open.
    calm_since: Option<Timestamp>,
    /// What the engine saw lately, for the record of what it decides.
    recorder: Recorder,
    /// The trace that led to the flip that is under way.
    decided_on: Option<String>,
    /// Cancelled once the evidence of the flip that is under way is begun, or could not be.
    begun: Option<CancellationToken>,
    /// What earlier runs left.
    remains: resume::Remains,
    /// What came to nothing, as far as was seen.
    attempts: late::Attempts,
    /// It was led, and was given to a replica that sees what this one does not.
    made_room: bool,
    /// A flip is under way: further verdicts wait for it.
    flipping: bool,
    /// The bad time that is going on.
    episode: Option<Episode>,
    decision: Option<Decision>,
    view: Option<View>,
    last_incident: Option<IncidentSummary>,
    /// Who else writes the route, as it was told last.
    owner: Option<Owner>,
    events: VecDeque<EventLine>,
    history: BTreeMap<RuleName, VecDeque<f64>>,
    /// Bringing the standby up.
    scaling: Scaling,
    /// Taking pods of the color that was left out of service.
    relief: Relieving,
}

/// One stretch of badness and what was last said of it.
struct Episode {
    incident: Arc<Incident>,
    told_at: Timestamp,
    /// How often its outcome was told.
    told: usize,
}

/// The conductor.
pub struct Monitor {
    guards: BTreeMap<GuardId, Guarded>,
    /// Its part among several daemons; `None`: it is the only one.
    part: Option<Part>,
    clusters: Vec<Arc<Cluster>>,
    clock: Clock,
    observer: Arc<dyn Measure>,
    keeper: Arc<Keeper>,
    outbox: Outbox,
    journal: Journal,
    metrics: Metrics,
    poll: Duration,
    started_at: Timestamp,
    status: watch::Sender<Arc<Status>>,
    /// Flips under way.
    flips: JoinSet<Step>,
    /// Flips that moved traffic and whose arrival is being looked at, by incident.
    arrivals: BTreeMap<String, Looking>,
    /// Evidence, events: nobody waits for them.
    errands: JoinSet<()>,
    /// What is read of the disk for guards that a reload has added.
    reads: JoinSet<recall::Read>,
    /// Second passes that are owed, by incident.
    follow_ups: BTreeMap<String, FollowUp>,
    /// Our own server shows the evidence.
    served: bool,
    /// No daemon: one command is carried out, and what it waits for is waited for here.
    alone: bool,
    /// What stands against flips from outside.
    holds: Holds,
    /// The fleet as the newest look found it.
    fleet: FleetStatus,
    /// What rooms are opened with.
    world: World,
    /// Ends everything that was opened.
    stop: CancellationToken,
    in_force: InForce,
    /// Other configurations, as they are noticed.
    news: mpsc::Receiver<News>,
    /// Guards that were taken out of the configuration.
    gone: Gone,
}

/// What `assemble` hands out besides the conductor.
pub struct Parts {
    /// The conductor.
    pub monitor: Monitor,
    /// Delivers messages.
    pub outbox: OutboxTask,
    /// Writes the journal.
    pub journal: JournalTask,
    /// What the page, the API and the command line show.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where the conductor hears of other configurations.
    pub news: mpsc::Sender<News>,
    /// The metrics all rooms count through.
    pub metrics: Metrics,
}

/// Builds every room from configuration. Nothing here needs the network: what cannot be reached, or not
/// written, is a state, not an error.
///
/// # Errors
/// [`MonitorError`] when a client cannot be built.
pub fn assemble(config: &Config, world: &World, stop: &CancellationToken) -> Result<Parts, MonitorError> {
    let now = world.clock.now();
    let metrics = Metrics::new().map_err(MonitorError::Metrics)?;
    let observer = (world.measure)(config, &metrics).map_err(MonitorError::Observe)?;
    let keeper = Keeper::open_with(config.data_dir.clone(), config.evidence.clone(), metrics.clone(), world.pen);
    let keeper = Arc::new(match &config.replicas {
        Some(replicas) => keeper.of_replica(&replicas.identity),
        None => keeper,
    });
    let (journal, journal_task) = Journal::open(config.data_dir.join("audit"), config.audit, metrics.clone());
    let (outbox, outbox_task) = Outbox::open_with(
        config.data_dir.join("outbox"),
        config.chats.clone(),
        metrics.clone(),
        Arc::clone(&world.notifier),
    );
    let (tell, news) = mpsc::channel(NEWS_MAX);
    let mut clusters = BTreeMap::new();
    for settings in &config.clusters {
        let namespaces = reload::namespaces(config, settings);
        let cluster = (world.cluster)(settings.clone(), namespaces, metrics.clone(), stop.child_token());
        clusters.insert(settings.name.clone(), cluster);
    }
    let replicas = config
        .replicas
        .as_ref()
        .and_then(|settings| clusters.get(&settings.cluster).map(|cluster| (settings, Arc::clone(cluster))))
        .map(|(settings, cluster)| Replicas::open(settings.clone(), config.poll, cluster, world.clock.clone(), metrics.clone()));
    let served = config.serve.evidence.is_some();
    let (begun, known) = (keeper.unfinished(), Arc::new(keeper.known()));
    let recalled = Recalled::new(&keeper, keeper.kept(), begun, known, served);
    let guards = config
        .guards
        .iter()
        .filter_map(|spec| clusters.get(&spec.cluster).map(|cluster| (spec, cluster)))
        .map(|(spec, cluster)| {
            show::introduce(&metrics, spec);
            let shard = replicas.as_ref().map(|replicas| replicas.shard(&spec.id));
            let share = replicas.as_ref().zip(shard).map(|(replicas, shard)| (shard, replicas.fence(shard)));
            let mut guarded = Guarded::new(spec, cluster, share);
            guarded.recall(&recalled, now);
            (spec.id.clone(), guarded)
        })
        .collect();
    let (status, receiver) = watch::channel(Arc::new(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now,
        at: now,
        poll_seconds: config.poll.as_secs_f64(),
        guards: Vec::new(),
        notifications_pending: 0,
        chats: Vec::new(),
        fleet: FleetStatus::default(),
        config: ConfigStatus::default(),
        replica: None,
    }));
    let mut monitor = Monitor {
        guards,
        part: replicas.map(Part::new),
        clusters: clusters.into_values().collect(),
        clock: world.clock.clone(),
        observer,
        keeper,
        outbox,
        journal,
        metrics: metrics.clone(),
        poll: config.poll,
        started_at: now,
        status,
        flips: JoinSet::new(),
        arrivals: BTreeMap::new(),
        errands: JoinSet::new(),
        reads: JoinSet::new(),
        follow_ups: BTreeMap::new(),
        served,
        alone: false,
        holds: Holds::new(config.blast_radius, lifted::read(&config.data_dir, now)),
        fleet: FleetStatus::default(),
        world: world.clone(),
        stop: stop.clone(),
        in_force: InForce::new(config, now),
        news,
        gone: Gone::default(),
    };
    monitor.finish_strangers(&recalled.begun);
    monitor.finish_replacing(&recalled.kept);
    monitor.show_config("", now);
    let owed = monitor.keeper.awaiting();
    monitor.remember_follow_ups(owed, now);
    Ok(Parts {
        news: tell,
        monitor,
        outbox: outbox_task,
        journal: journal_task,
        status: receiver,
        metrics,
    })
}

/// Carries out one command without a daemon: same road, same evidence, same messages.
///
/// # Errors
/// [`CommandError`] as the daemon would answer it; what keeps the rooms from opening is `Failed`.
pub async fn command(mut config: Config, command: Command) -> Result<CommandReply, CommandError> {
    // A person who acts past the daemon acts past all replicas; the compare-and-swap stands between them.
    config.replicas = None;
    let stop = CancellationToken::new();
    let world = World::real();
    let clock = world.clock.clone();
    let parts = assemble(&config, &world, &stop).map_err(|error| CommandError::Failed(tell::chain(&error)))?;
    let mut monitor = parts.monitor;
    monitor.alone = true;
    let sender = tokio::spawn(parts.outbox.run(stop.clone(), CancellationToken::new(), clock.clone()));
    let scribe = tokio::spawn(parts.journal.run(stop.clone()));
    first_lists(monitor.clusters.clone()).await;
    let (reply, answer) = oneshot::channel();
    monitor.command(Request { command, reply }, clock.now());
    loop {
        while let Some(done) = monitor.flips.join_next().await {
            monitor.settled(done, clock.now());
        }
        // A standby that is being scaled up: nobody else would look whether it can serve by now.
        if !monitor.wishes() {
            break;
        }
        tokio::time::sleep(WISH_LOOKS).await;
        monitor.grant_all(clock.now());
    }
    let captured = async {
        while monitor.errands.join_next().await.is_some() {}
        monitor.keeper.rendered().await;
    };
    let longest = config.guards.iter().map(|spec| spec.evidence.deadline).max().unwrap_or_default();
    if tokio::time::timeout(longest + Duration::from_secs(5), captured).await.is_err() {
        tracing::warn!("Evidence was cut short");
    }
    stop.cancel();
    // The outbox bounds its own drain; what it could not send stays on disk.
    let _ = tokio::time::timeout(Duration::from_secs(10), sender).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), scribe).await;
    answer.await.unwrap_or(Err(CommandError::Busy))
}

/// Waits for the first lists of all clusters, bounded.
async fn first_lists(clusters: Vec<Arc<Cluster>>) {
    futures::future::join_all(clusters.iter().map(|cluster| cluster.synced(FIRST_LISTS))).await;
}

/// What the conductor waits for between two commands.
enum Look {
    /// The first lists of the watch caches, and what a changed configuration asks for before a look.
    Lists,
    /// The readings of a tick.
    Readings(Readings),
}

impl Monitor {
    /// Looks at every guard once per poll until stopped, then finishes what is under way.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Request>, stop: CancellationToken) {
        let plural = if self.guards.len() == 1 { "guard" } else { "guards" };
        let watched = format!("flipback {} watches {} {plural}", env!("CARGO_PKG_VERSION"), self.guards.len());
        self.audit(self.clock.now(), Actor::Flipback, None, "started", &watched, None);
        self.tidy();
        self.still_lifted(self.clock.now());
        if let Some(part) = &self.part {
            part.start();
        }
        let lists = first_lists(self.clusters.clone());
        let mut look: Option<BoxFuture<'static, Look>> = Some(lists.map(|()| Look::Lists).boxed());
        let mut timer = tokio::time::interval(self.poll);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(ready) = self.take_config(self.clock.now()) {
                // Readings under way are of other rules.
                look = Some(ready.map(|()| Look::Lists).boxed());
                timer = tokio::time::interval(self.poll);
                timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            let idle = look.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.flips.join_next() => self.settled(done, self.clock.now()),
                Some(read) = self.reads.join_next() => self.learned(read),
                Some(news) = self.news.recv() => self.heard_of(news, self.clock.now()),
                Some(request) = commands.recv() => self.command(request, self.clock.now()),
                Some(looked) = OptionFuture::from(look.as_mut()) => {
                    look = None;
                    match looked {
                        // The first look begins at once, not a poll later.
                        Look::Lists => timer.reset_immediately(),
                        Look::Readings(readings) => self.judge(readings, self.clock.now()),
                    }
                }
                _ = timer.tick(), if idle => {
                    let readings = self.begin(self.clock.now());
                    look = Some(readings.map(Look::Readings).boxed());
                }
                Some(_) = self.errands.join_next() => {}
                Some(()) = OptionFuture::from(self.part.as_mut().map(Part::changed)) => {
                    let now = self.clock.now();
                    // What a follower has seen become bad, it acts on at once: the next look need not wait for the poll.
                    if self.follow_leases(now) {
                        timer.reset_immediately();
                    }
                    self.publish_again(now);
                }
            }
        }
        self.finish().await;
        self.audit(self.clock.now(), Actor::Flipback, None, "stopped", "asked to stop", None);
    }

    /// First half of a tick: what is live, and the measurements of it, on their way.
    fn begin(&self, now: Timestamp) -> impl Future<Output = Readings> + Send + 'static {
        self.metrics.last_tick.set(now.as_second());
        let views: BTreeMap<GuardId, View> = self.guards.iter().map(|(id, guard)| (id.clone(), guard.router.view())).collect();
        let observer = Arc::clone(&self.observer);
        let timer = self.metrics.tick_duration.start_timer();
        async move {
            let readings = observer.observe(&views, now).await;
            timer.observe_duration();
            readings
        }
    }

    /// Second half of a tick: judge, act, show.
    fn judge(&mut self, mut readings: Readings, now: Timestamp) {
        self.follow_leases(now);
        self.take_up_threads();
        let ids: Vec<GuardId> = self.guards.keys().cloned().collect();
        let mut fleet = self.fleet(now);
        for id in ids {
            let readings = readings.remove(&id).unwrap_or_default();
            let Some(view) = self.guards.get(&id).map(|guard| guard.router.view()) else {
                continue;
            };
            // Before the engine looks: what an earlier run has moved is not to be told as somebody's switch.
            if let (Some(guard), View::Known(traffic)) = (self.guards.get_mut(&id), &view) {
                guard.remains.sees(&traffic.ledger, now);
            }
            if self.leads(&id) {
                self.resume(&id, &view, now);
            }
            self.own_up(&id, &view, now);
            self.look_again(&id, &view, now);
            let hold = self.hold(&id, &fleet, now);
            let leads = self.leads(&id);
            let Some(guard) = self.guards.get_mut(&id) else { continue };
            let seen = Observation {
                at: now,
                view,
                readings,
                hold,
            };
            guard.recorder.look(&guard.engine, &seen);
            let decision = guard.engine.step(&seen);
            guard.recorder.decided(&decision);
            tracing::debug!(guard = %id, phase = decision.phase.as_str(), why = %decision.why, "Looked");
            guard.remember(&decision, &seen);
            show::count(&self.metrics, &id, guard.decision.as_ref(), &decision, &seen.view, leads);
            // A follower's streaks are as warm as its leader's; what follows from them is the leader's to do and to say.
            if self.leads(&id) {
                self.meet(&id, &seen);
                self.notes(&id, &decision, &seen);
                self.act(&id, &decision, &seen);
                self.end_left(&id, &decision, &seen);
            } else {
                self.close_own(&id, &decision, &seen);
            }
            self.counted(&id, &mut fleet);
            if let Some(guard) = self.guards.get_mut(&id) {
                guard.decision = Some(decision);
                guard.view = Some(seen.view);
            }
        }
        self.occupy();
        self.follow_up(now);
        self.given_up();
        self.gone.forget(now);
        self.tell_of_many(&fleet, now);
        self.fleet = self.fleet_status(&fleet, now);
        self.publish(now);
    }

    /// Carries a verdict out, once per episode.
    fn act(&mut self, id: &GuardId, decision: &Decision, seen: &Observation) {
        let View::Known(traffic) = &seen.view else { return };
        let Some(guard) = self.guards.get_mut(id) else { return };
        if decision.verdict != Verdict::Hold {
            guard.calm_since = None;
        }
        match &decision.verdict {
            Verdict::Hold => {
                // A held or still growing streak belongs to the episode; calm ends it.
                if !matches!(decision.phase, Phase::Breaching | Phase::Blind | Phase::Blocked | Phase::Suppressed) {
                    guard.episode = None;
                    if !guard.scaling.is_wished() {
                        guard.scaling.forget();
                    }
                }
                self.calm(id, decision, traffic, seen.at);
            }
            Verdict::Rollback(case) => {
                if guard.flipping {
                    return;
                }
                // What a person waits for is done now.
                let reply = guard.scaling.granted();
                let incident = guard.incident((**case).clone(), traffic.seen.clone());
                let order = Order {
                    incident,
                    automatic: true,
                    bad: true,
                    dry_run: false,
                    known: traffic.ledger.last().map(|flip| flip.incident.clone()),
                    reply,
                };
                self.start(id, order);
            }
            Verdict::Suppressed(case, suppression) => {
                let outcome = crate::model::IncidentOutcome::Suppressed {
                    suppression: suppression.clone(),
                };
                self.refuse(id, case, traffic.seen.clone(), outcome, None, &decision.why);
            }
            Verdict::Blocked(case, refusal) => {
                // Asked for before anything is written down about it.
                self.raise(id, case, refusal, traffic, seen.at);
                let outcome = crate::model::IncidentOutcome::Blocked { refusal: refusal.clone() };
                self.refuse(id, case, traffic.seen.clone(), outcome, None, &decision.why);
            }
        }
        self.grant(id, seen.at);
        self.relieve(id, traffic, seen.at);
    }

    /// Carries out a person's request.
    fn command(&mut self, request: Request, now: Timestamp) {
        let Request { command, reply } = request;
        if let Some(error) = command.guard().and_then(|guard| self.elsewhere(guard)) {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Err(error));
            return;
        }
        let answered = match &command {
            Command::Rollback {
                guard,
                from,
                by,
                reason,
                dry_run,
            } => {
                if let Some(error) = self.left_already(guard, from.as_ref()) {
                    self.audit(
                        now,
                        Actor::Person { name: by.clone() },
                        Some(guard),
                        "refused",
                        &error.to_string(),
                        None,
                    );
                    // A caller that went away is no concern of ours.
                    let _ = reply.send(Err(error));
                    return;
                }
                self.manual(&guard.clone(), None, (by, reason), *dry_run, reply, now);
                return;
            }
            Command::Switch {
                guard,
                to,
                by,
                reason,
                dry_run,
            } => {
                self.manual(&guard.clone(), Some(to.clone()), (by, reason), *dry_run, reply, now);
                return;
            }
            Command::Pause { guard, by, reason, until } => {
                let pause = crate::model::Pause {
                    by: by.clone(),
                    at: now,
                    reason: reason.clone(),
                    until: *until,
                };
                self.pause(guard, Some(pause), by, reply)
            }
            Command::Clear { guard, clear, by, reason } => {
                let word = crate::model::Clearance {
                    by: by.clone(),
                    at: now,
                    reason: reason.clone(),
                };
                self.clear(guard, clear.clone(), word, reply)
            }
            Command::Resume { guard, by } => self.pause(guard, None, by, reply),
            Command::Override { lasts, by, reason } => {
                self.lift(*lasts, by, reason, reply, now);
                return;
            }
        };
        if let Some((reply, error)) = answered {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Err(error));
        }
    }

    /// Lets flips in progress finish and evidence write what it can; the rest is resumed at the next start.
    async fn finish(&mut self) {
        let until = tokio::time::Instant::now() + CONDUCTOR_FINISH;
        let flips = async {
            while let Some(done) = self.flips.join_next().await {
                self.settled(done, self.clock.now());
            }
        };
        if tokio::time::timeout(FLIPS_FINISH, flips).await.is_err() {
            tracing::error!("A flip was still unanswered when the daemon had to stop: look at the Service");
        }
        self.stop_looking(self.clock.now());
        // Flips are over: another replica need not wait until the Leases have run out.
        if let Some(part) = &self.part {
            part.leave(LEASES_RETURN).await;
        }
        let errands = async {
            while self.errands.join_next().await.is_some() {}
            self.keeper.rendered().await;
        };
        let errands_until = until.min(tokio::time::Instant::now() + ERRANDS_FINISH);
        if tokio::time::timeout_at(errands_until, errands).await.is_err() {
            tracing::warn!(count = self.errands.len(), "Evidence is finished at the next start");
        }
        // Reports may use what flips did not need; what is not made in time is made by the next start.
        if tokio::time::timeout_at(until, self.keeper.rendered()).await.is_err() {
            tracing::info!("Reports are made anew at the next start");
        }
    }

    /// Shows what came to be known between two looks. Before the first one there is nothing to show, and /readyz would take it for one.
    fn publish_again(&mut self, now: Timestamp) {
        if self.guards.values().any(|guard| guard.decision.is_some()) {
            self.publish(now);
        }
    }

    /// Shows the present state on the page, the API and the command line.
    fn publish(&mut self, now: Timestamp) {
        let guards = self.guards.values().map(|guard| guard.status(now)).collect();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            at: now,
            poll_seconds: self.poll.as_secs_f64(),
            guards,
            notifications_pending: self.outbox.pending(),
            chats: self.outbox.health(),
            fleet: self.fleet.clone(),
            config: self.in_force.status.clone(),
            replica: self.part.as_ref().map(Part::status),
        };
        self.status.send_replace(Arc::new(status));
    }
}
