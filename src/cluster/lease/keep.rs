//! Keeps this replica's part in leading: announces it, reads the Leases, and does what [`next`] says.
//!
//! One task, one round per `renew`: announce ourselves, read every shard's Lease, share the shards out, write. Everything has
//! a deadline, so that a hung API server costs a round and not the Lease's whole life; a round that failed is followed by
//! the next one sooner. Requests go through the client that never repeats one by itself.
//!
//! Replicas know of each other by one more Lease, `<name>-members` ([`super::members`]). Where it cannot be written, Leases are
//! taken and held all the same, only nobody makes room for anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

mod tell;

use super::{
    super::{Cluster, Fault, FaultKind, fence::Fence},
    Act, Observed, Record, Wish,
    members::{self, Members},
    next, object,
    sight::{Outseen, Sight, Standing},
    spread,
    word::Word,
};
use crate::{
    metrics::Metrics,
    model::{Clock, FIELD_MANAGER, GuardId, Lifted, ReplicaStatus, settings::ReplicaSettings},
};

/// A replica has seen enough to be given a shard of another's when it has run for so many durations.
const SEASONED_AFTER: u32 = 2;
/// Two replicas notice within two looks that their Prometheus is away, or back; one more for its answer.
const LOOKS_APART: u32 = 3;
/// Rounds that whoever has the better claim to a free shard gets before another takes it.
const COURTESY_ROUNDS: u32 = 2;
/// A round that failed is repeated after this part of the usual time.
const AGAIN_SOONER: u32 = 4;

/// This replica's part in leading. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Replicas(Arc<Shared>);

struct Shared {
    settings: ReplicaSettings,
    /// For how long another must have seen what we do not.
    patience: Duration,
    cluster: Arc<Cluster>,
    metrics: Metrics,
    /// For what people read in a Lease.
    clock: Clock,
    /// The holder's name in a Lease: this replica's, and of this process alone.
    me: String,
    origin: Instant,
    shards: Vec<Shard>,
    /// Shards that are not handed over now.
    busy: Mutex<BTreeSet<u32>>,
    /// What the conductor sees of its guards.
    sight: Mutex<Sight>,
    /// A person's word about all guards.
    word: Mutex<Word>,
    shown: watch::Sender<Arc<ReplicaStatus>>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shard {
    lease: String,
    fence: Fence,
    tenure: Mutex<Tenure>,
    made_room: AtomicBool,
}

/// One time of leading a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// Counts the times that this replica has become its leader.
    pub number: u64,
    /// Whoever led before did not give the Lease back: something may have been cut off.
    pub after_a_death: bool,
}

/// What the task remembers between two rounds.
#[derive(Default)]
struct Memory {
    leases: Vec<Known>,
    members: Members,
    outseen: Outseen,
    /// What was wrong in the last round.
    trouble: Option<String>,
}

/// A shard's Lease.
#[derive(Clone, Default)]
struct Known {
    observed: Option<Observed>,
    /// The object with the version that a write must carry.
    object: Option<Lease>,
}

// === impl Replicas ===

impl Replicas {
    /// Prepares everything and asks nothing yet; nobody leads.
    #[must_use]
    pub fn open(settings: ReplicaSettings, poll: Duration, cluster: Arc<Cluster>, clock: Clock, metrics: Metrics) -> Self {
        let origin = Instant::now();
        let shards = (0..settings.shards.max(1))
            .map(|shard| Shard {
                lease: format!("{}-shard-{shard}", settings.name),
                fence: Fence::closed(origin),
                tenure: Mutex::default(),
                made_room: AtomicBool::new(false),
            })
            .collect();
        let shared = Shared {
            // A process started anew is another holder: what the former one was about to write must run out first.
            me: members::holder(&settings.identity, clock.now()),
            patience: settings.duration.max(poll * LOOKS_APART),
            settings,
            cluster,
            metrics,
            clock,
            origin,
            shards,
            busy: Mutex::default(),
            sight: Mutex::default(),
            word: Mutex::default(),
            shown: watch::channel(Arc::default()).0,
            stop: CancellationToken::new(),
            task: Mutex::default(),
        };
        shared.publish(&Memory::default());
        Self(Arc::new(shared))
    }

    /// Begins to take part.
    pub fn start(&self) {
        let task = tokio::spawn(Arc::clone(&self.0).run());
        *self.0.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Stops taking part, and gives nothing back: whoever decides here is gone, and what it led must run out.
    pub fn abandon(&self) {
        if let Some(task) = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    /// The shard of a guard.
    #[must_use]
    pub fn shard(&self, guard: &GuardId) -> u32 {
        spread::shard_of(guard.as_str(), self.0.settings.shards)
    }

    /// What stands before the writes for a shard's guards.
    ///
    /// # Panics
    /// When there is no such shard.
    #[must_use]
    pub fn fence(&self, shard: u32) -> &Fence {
        &self.0.shards[shard as usize].fence
    }

    /// The shards that this replica leads right now; the tenure changes whenever it became their leader anew.
    #[must_use]
    pub fn leading(&self) -> BTreeMap<u32, Tenure> {
        let led = self.0.numbered().filter(|(_, shard)| shard.fence.leads());
        led.map(|(number, shard)| (number, *shard.tenure.lock().unwrap_or_else(PoisonError::into_inner)))
            .collect()
    }

    /// Who leads, as last seen. Changes when anything of it does.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<ReplicaStatus>> {
        self.0.shown.subscribe()
    }

    /// Shards that must not be handed to another replica right now, for the sake of a streak or a flip.
    pub fn occupied(&self, shards: BTreeSet<u32>) {
        *self.0.busy.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// Says what is seen: where it is nothing, of any guard, another replica that sees shall lead.
    pub fn looked(&self, sight: Sight) {
        *self.0.sight.lock().unwrap_or_else(PoisonError::into_inner) = sight;
    }

    /// Whether the last time of leading a shard ended by giving it to a replica that sees.
    ///
    /// # Panics
    /// When there is no such shard.
    #[must_use]
    pub fn made_room(&self, shard: u32) -> bool {
        self.0.shards[shard as usize].made_room.load(Ordering::Relaxed)
    }

    /// Passes a person's word on to all replicas, with the next round.
    pub fn lift(&self, word: Lifted) {
        self.0.word().said(word);
    }

    /// The newest such word that any replica was told.
    #[must_use]
    pub fn lifted(&self) -> Option<Lifted> {
        self.0.word().newest().cloned()
    }

    /// Gives every Lease back, so that another replica need not wait for it to run out, and takes no further part.
    ///
    /// A shard for which a write is still under way is not given back.
    pub async fn leave(&self, within: Duration) {
        self.0.stop.cancel();
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && tokio::time::timeout(within, task).await.is_err()
        {
            tracing::warn!("The Leases could not be given back in time: another replica waits until they have run out");
        }
    }
}

// === impl Shared ===

impl Shared {
    fn numbered(&self) -> impl Iterator<Item = (u32, &Shard)> {
        (0..).zip(&self.shards)
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let mut memory = Memory {
            leases: vec![Known::default(); self.shards.len()],
            ..Memory::default()
        };
        let mut rounds: u64 = 0;
        while !self.stop.is_cancelled() {
            let trouble = self.round(&mut memory).await;
            self.tell(&mut memory, trouble);
            self.publish(&memory);
            rounds += 1;
            let usual = self.settings.renew.mul_f64(jitter(&self.me, rounds));
            let wait = if memory.trouble.is_some() { usual / AGAIN_SOONER } else { usual };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.give_back(&memory).await;
    }

    /// How long one request may take: two of them, one after the other, must leave time for another round.
    fn deadline(&self) -> Duration {
        self.cluster.flip_timeout().min(self.settings.duration / 5)
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn api(&self) -> Result<Api<Lease>, String> {
        let client = self.cluster.writes().map_err(|error| error.to_string())?;
        Ok(Api::namespaced(client, &self.settings.namespace))
    }

    /// One look at everything, and what follows from it; answers with what went wrong.
    async fn round(&self, memory: &mut Memory) -> Option<String> {
        let api = match self.api() {
            Ok(api) => api,
            Err(why) => return Some(why),
        };
        let strike = memory.members.forgotten(self.settings.duration, self.now());
        let read = join_all(self.shards.iter().map(|shard| self.read(&api, shard)));
        let (announced, read) = tokio::join!(self.announce(&api, self.standing(memory, self.now()), &strike), read);
        let now = self.now();
        let mut trouble = None;
        match announced {
            Ok(lines) => memory.members.met(&lines, &self.me, now),
            Err(fault) => trouble = Some(self.failed("announce this replica in", &self.members_lease(), &fault)),
        }
        for ((known, read), shard) in memory.leases.iter_mut().zip(read).zip(&self.shards) {
            match read {
                Ok(object) => {
                    let record = object.as_ref().map(Record::of);
                    known.observed = Some(Observed::see(known.observed.take(), record, now));
                    known.object = object;
                }
                Err(fault) => trouble = Some(self.failed("read", &shard.lease, &fault)),
            }
        }
        let others = memory.members.alive(self.settings.duration, now);
        memory.outseen.look(self.sight() == Sight::Blind, &others, now);
        let outseen = memory.outseen.lasts(self.patience, now);
        let wishes = self.wishes(memory, now);
        let acts = self.shards.iter().zip(&memory.leases).zip(wishes);
        let done = join_all(acts.map(|((shard, known), wish)| self.act(&api, shard, known, wish, outseen))).await;
        for ((known, done), shard) in memory.leases.iter_mut().zip(done).zip(&self.shards) {
            match done {
                Ok(Some(object)) => {
                    known.observed = Some(Observed::see(known.observed.take(), Some(Record::of(&object)), self.now()));
                    known.object = Some(object);
                }
                Ok(None) => {}
                // Somebody else was quicker: the next round sees who.
                Err(fault) if matches!(fault.kind, FaultKind::Conflict) => {}
                Err(fault) => trouble = Some(self.failed("write", &shard.lease, &fault)),
            }
        }
        trouble
    }

    async fn read(&self, api: &Api<Lease>, shard: &Shard) -> Result<Option<Lease>, Fault> {
        match self.within(api.get_opt(&shard.lease)).await {
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(None),
            answer => answer,
        }
    }

    /// A request with a deadline of its own.
    async fn within<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.deadline(), request).await {
            Ok(answer) => answer.map_err(|error| Fault::from(&error)),
            Err(_) => Err(Fault::deadline(self.deadline())),
        }
    }

    /// Who is alive, and how each stands.
    fn alive(&self, memory: &Memory, now: Duration) -> BTreeMap<String, Standing> {
        let mut alive = memory.members.alive(self.settings.duration, now);
        // A holder is alive, whether it could announce itself or not.
        for holder in memory.leases.iter().filter_map(|known| self.holder(known, now)) {
            alive.entry(holder.to_owned()).or_insert(Standing {
                seasoned: false,
                sees: false,
                yields: false,
            });
        }
        alive.insert(self.me.clone(), self.standing(memory, now));
        alive
    }

    fn standing(&self, memory: &Memory, now: Duration) -> Standing {
        Standing {
            seasoned: self.is_seasoned(),
            sees: self.sight() == Sight::Sees,
            yields: memory.outseen.lasts(self.patience, now),
        }
    }

    fn sight(&self) -> Sight {
        *self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_seasoned(&self) -> bool {
        self.now() >= self.settings.duration * SEASONED_AFTER
    }

    fn holder<'a>(&self, known: &'a Known, now: Duration) -> Option<&'a str> {
        known.observed.as_ref()?.holder(self.settings.duration, now)
    }

    fn wishes(&self, memory: &Memory, now: Duration) -> Vec<Wish> {
        let holders: Vec<Option<String>> = memory
            .leases
            .iter()
            .map(|known| self.holder(known, now).map(str::to_owned))
            .collect();
        let assigned = spread::assign(&holders, &self.alive(memory, now));
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outseen = memory.outseen.lasts(self.patience, now);
        let mut wishes = Vec::new();
        for (((number, shard), holder), assigned) in self.numbered().zip(holders).zip(assigned) {
            let ours = holder.as_deref() == Some(self.me.as_str());
            let to_another = assigned.is_some_and(|assigned| assigned != self.me);
            wishes.push(if !to_another {
                Wish::Hold
            } else if ours && !busy.contains(&number) {
                // Before the fence closes, which is what the conductor sees.
                shard.made_room.store(outseen, Ordering::Relaxed);
                Wish::Give {
                    writing: !shard.fence.close(),
                }
            } else if ours {
                Wish::Hold
            } else {
                Wish::After(self.settings.renew * COURTESY_ROUNDS)
            });
            if !matches!(wishes.last(), Some(Wish::Give { .. })) {
                shard.fence.reopen();
            }
        }
        wishes
    }

    /// Does what is to be done about one Lease; `None`: nothing was written.
    async fn act(&self, api: &Api<Lease>, shard: &Shard, known: &Known, wish: Wish, outseen: bool) -> Result<Option<Lease>, Fault> {
        // Not read in this life: nothing is known, nothing is done.
        let Some(observed) = &known.observed else { return Ok(None) };
        let named = observed.record.as_ref().is_some_and(|record| record.holder == self.me);
        if !named && observed.record.is_some() {
            shard.fence.end();
        }
        // Counted from before the request: whoever sees the renewal counts from later.
        let sent = self.now();
        let settings = &self.settings;
        let read = known.object.clone().unwrap_or_default();
        let act = next(observed, &self.me, settings.duration, sent, wish);
        let written = match act {
            Act::Follow => return Ok(None),
            Act::Create => {
                self.within(api.create(
                    &posted(),
                    &object::made(&settings.namespace, &shard.lease, settings.duration, self.clock.now()),
                ))
                .await
            }
            Act::Take | Act::Renew => {
                self.within(api.replace(
                    &shard.lease,
                    &posted(),
                    &object::held(&read, &self.me, settings.duration, self.clock.now()),
                ))
                .await
            }
            Act::Release => {
                shard.fence.end();
                self.within(api.replace(&shard.lease, &posted(), &object::freed(&read, self.clock.now())))
                    .await
            }
        }?;
        match act {
            Act::Take => {
                let given_back = observed
                    .record
                    .as_ref()
                    .is_some_and(|record| record.holder.is_empty() && record.duration.is_zero());
                let mut tenure = shard.tenure.lock().unwrap_or_else(PoisonError::into_inner);
                *tenure = Tenure {
                    number: tenure.number + 1,
                    after_a_death: !given_back,
                };
                shard.made_room.store(false, Ordering::Relaxed);
                shard.fence.extend(sent.saturating_add(settings.duration));
                tracing::info!(lease = shard.lease, "This replica leads");
            }
            Act::Renew => shard.fence.extend(sent.saturating_add(settings.duration)),
            Act::Release if outseen => {
                tracing::warn!(
                    lease = shard.lease,
                    "Lease given to a replica that sees: this one is blind for every guard whose route it can read"
                );
            }
            Act::Release => tracing::info!(lease = shard.lease, "Lease given to another replica"),
            Act::Create | Act::Follow => {}
        }
        Ok(Some(written))
    }

    fn members_lease(&self) -> String {
        format!("{}-members", self.settings.name)
    }

    /// Writes our line, strikes off those that have long been silent, and answers with all lines.
    async fn announce(&self, api: &Api<Lease>, standing: Standing, strike: &[String]) -> Result<BTreeMap<String, String>, Fault> {
        let line = members::line(self.clock.now(), standing);
        let mut lines: serde_json::Map<String, Value> = strike.iter().map(|name| (members::key(name), Value::Null)).collect();
        lines.insert(members::key(&self.me), Value::String(line.clone()));
        lines.extend(self.word().line().map(|(key, text)| (key.to_owned(), Value::String(text))));
        let patch = json!({"metadata": {"annotations": lines}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = self.members_lease();
        let written = match self.within(api.patch(&name, &params, &Patch::Merge(patch))).await {
            Err(fault) if fault.kind == FaultKind::NotFound => {
                let mut metadata = object::metadata(&self.settings.namespace, &name);
                metadata.annotations = Some(BTreeMap::from([(members::key(&self.me), line)]));
                let made = self.within(api.create(&posted(), &Lease { metadata, spec: None })).await;
                match made {
                    // Another replica made it in the same moment: our line follows in the next round.
                    Err(fault) if fault.kind == FaultKind::Conflict => return Ok(BTreeMap::new()),
                    made => made?,
                }
            }
            written => written?,
        };
        let lines = written.metadata.annotations.unwrap_or_default();
        self.word().met(&lines);
        Ok(lines)
    }

    /// Gives back what we hold, and strikes ourselves off.
    async fn give_back(&self, memory: &Memory) {
        let Ok(api) = self.api() else { return };
        let api = &api;
        let releases = self.shards.iter().zip(&memory.leases).map(|(shard, known)| async move {
            if !shard.fence.leads() {
                return;
            }
            if !shard.fence.close() {
                tracing::warn!(lease = shard.lease, "A write is under way: this Lease runs out by itself");
                return;
            }
            shard.fence.end();
            let read = known.object.clone().unwrap_or_default();
            match self
                .within(api.replace(&shard.lease, &posted(), &object::freed(&read, self.clock.now())))
                .await
            {
                Ok(_) => tracing::info!(lease = shard.lease, "Lease given back"),
                Err(fault) => tracing::warn!(lease = shard.lease, error = %fault, "Failed to give the Lease back"),
            }
        });
        let patch = Patch::Merge(json!({"metadata": {"annotations": {members::key(&self.me): null}}}));
        let (name, params) = (self.members_lease(), PatchParams::default());
        let farewell = self.within(api.patch(&name, &params, &patch));
        let (_, left) = tokio::join!(join_all(releases), farewell);
        if let Err(fault) = left {
            tracing::debug!(error = %fault, "Failed to take leave of the other replicas");
        }
    }
}

/// From 0.9 to 1.1, another for each round and replica, without drawing lots.
fn jitter(me: &str, round: u64) -> f64 {
    let drawn = u32::try_from(spread::score(me, &round.to_string()) >> 32).unwrap_or_default();
    0.9 + 0.2 * f64::from(drawn) / f64::from(u32::MAX)
}

fn posted() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
