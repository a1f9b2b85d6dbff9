//! What stays of a guard under another configuration, and of one that was taken out of it, should it come back.
//!
//! A guard may be taken out by a slip and put back a minute later, and then goes on where it was. Names come and go for ever, though (an
//! environment for each pull request), so what is kept of the ones that are gone is bounded in number and in time, and holds neither
//! caches nor a connection. Its judgement is kept no longer than a streak would last: evidence from before an absence and evidence from
//! after it are not breaches in a row. Its story, which is most of it, lies on the disk too, and is read there again after a while. What it
//! did itself it knows for as long as that could be taken for an earlier run's work, which is taken up and told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Episode, Guarded,
    relieve::Relieving,
    reload::judged_alike,
    resume::{Remains, YOUNG},
    scale::Scaling,
    show,
};
use crate::{
    cluster::{Cluster, Fence},
    decide::Engine,
    model::{Decision, GuardId, GuardSpec, Incident, IncidentSummary, RuleName, View, status::EventLine},
    notify::OpenThread,
};

/// What a guard lived through is known for so long after it was taken out. What is not known any more is taken for an earlier run's, and of
/// that what is younger than this is told anew.
const KEPT: Duration = YOUNG;
/// And of so many guards; a large installation that is taken out as a whole by mistake.
const KEPT_MAX: usize = 500;
/// Its story is known for so long: a slip is noticed by then.
const STORY_KEPT: Duration = Duration::from_secs(15 * 60);

/// What a guard lived through.
pub(super) struct Past {
    judgement: Option<Box<Judgement>>,
    thread: Option<String>,
    last: Option<Arc<Incident>>,
    open: Option<Arc<Incident>>,
    left_open: Vec<OpenThread>,
    calm_since: Option<Timestamp>,
    decided_on: Option<String>,
    begun: Option<CancellationToken>,
    remains: Remains,
    attempts: super::late::Attempts,
    flipping: bool,
    last_incident: Option<IncidentSummary>,
    events: VecDeque<EventLine>,
    scaling: Scaling,
    relief: Relieving,
}

/// What only means something while it is judged as before.
struct Judgement {
    spec: Arc<GuardSpec>,
    /// Where it was; it does not keep that alive.
    place: Weak<Cluster>,
    engine: Engine,
    episode: Option<Episode>,
    decision: Option<Decision>,
    view: Option<View>,
    history: BTreeMap<RuleName, VecDeque<f64>>,
}

/// Guards that were taken out of the configuration, and when. In boxes: a tree keeps room for several times what is in it.
#[derive(Default)]
pub(super) struct Gone(BTreeMap<GuardId, (Timestamp, Box<Past>)>);

impl From<Guarded> for Past {
    fn from(guard: Guarded) -> Self {
        Self {
            judgement: Some(Box::new(Judgement {
                place: Arc::downgrade(&guard.cluster),
                spec: guard.spec,
                engine: guard.engine,
                episode: guard.episode,
                decision: guard.decision,
                view: guard.view,
                history: guard.history,
            })),
            thread: guard.thread,
            last: guard.last,
            open: guard.open,
            left_open: guard.left_open,
            calm_since: guard.calm_since,
            decided_on: guard.decided_on,
            begun: guard.begun,
            remains: guard.remains,
            attempts: guard.attempts,
            flipping: guard.flipping,
            last_incident: guard.last_incident,
            events: guard.events,
            scaling: guard.scaling,
            relief: guard.relief,
        }
    }
}

impl Past {
    /// The same guard under another configuration: what it lived through stays, and where it is judged as before, its streaks too.
    pub(super) fn under(self, spec: &Arc<GuardSpec>, cluster: &Arc<Cluster>, share: Option<(u32, &Fence)>, now: Timestamp) -> Guarded {
        let here = Arc::downgrade(cluster);
        let alike = |former: &Judgement| Weak::ptr_eq(&former.place, &here) && judged_alike(&former.spec, spec);
        let judgement = self.judgement.filter(|former| alike(former)).and_then(|judgement| {
            let engine = Engine::resume(Arc::clone(spec), judgement.engine)?;
            Some(Judgement { engine, ..*judgement })
        });
        let mut guard = Guarded {
            last: self.last,
            open: self.open,
            thread: self.thread,
            last_incident: self.last_incident,
            calm_since: self.calm_since,
            left_open: self.left_open,
            events: self.events,
            // What is under way goes on, and is not begun twice.
            flipping: self.flipping,
            begun: self.begun,
            decided_on: self.decided_on,
            remains: self.remains,
            attempts: self.attempts,
            relief: self.relief,
            scaling: self.scaling,
            ..Guarded::new(spec, cluster, share)
        };
        let how = match judgement {
            Some(judgement) => {
                guard.engine = judgement.engine;
                guard.episode = judgement.episode;
                (guard.decision, guard.view, guard.history) = (judgement.decision, judgement.view, judgement.history);
                "its streaks stay"
            }
            None => "it is judged anew from here on",
        };
        guard.note(now, format!("Its configuration was changed; {how}"));
        guard
    }

    /// Forgets its judgement once that is older than a streak gets, and later its story, which the disk has too.
    fn age(&mut self, since: Timestamp, now: Timestamp) {
        let away = show::since(now, since);
        self.judgement.take_if(|judgement| away >= judgement.spec.policy.expire);
        if away >= STORY_KEPT {
            (self.last, self.last_incident, self.events) = (None, None, VecDeque::new());
        }
    }
}

impl Gone {
    /// Keeps what a guard lived through; beyond the bound, what was gone the longest goes.
    pub(super) fn keep(&mut self, id: GuardId, past: Past, now: Timestamp) {
        self.0.insert(id, (now, Box::new(past)));
        while self.0.len() > KEPT_MAX {
            let oldest = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { return };
            self.0.remove(&oldest);
        }
    }

    /// What a guard lived through, if that is still known.
    pub(super) fn take(&mut self, id: &GuardId, now: Timestamp) -> Option<Past> {
        let (since, mut past) = self.0.remove(id)?;
        past.age(since, now);
        Some(*past)
    }

    /// Forgets what is too old.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, (since, past)| {
            past.age(*since, now);
            show::since(now, *since) < KEPT
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::Metrics,
        model::{Color, ColorSpec, Connections, EvidenceSpec, Mode, Policy, RouteSpec, ServiceRoute, settings::ClusterSettings},
        monitor::resume::tests::an_incident,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn id(name: &str) -> GuardId {
        GuardId::new("", "shop", name).expect("valid")
    }

    fn cluster() -> Arc<Cluster> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = ClusterSettings {
            kubeconfig: Some("/nowhere/kubeconfig".into()),
            ..ClusterSettings::default()
        };
        Cluster::open(
            settings,
            std::collections::BTreeSet::new(),
            Metrics::new().expect("registers"),
            CancellationToken::new(),
        )
    }

    fn spec() -> Arc<GuardSpec> {
        let side = |name: &str| {
            let spec = ColorSpec {
                value: name.to_owned(),
                deployment: None,
                service: None,
            };
            (Color::new(name).expect("valid"), spec)
        };
        Arc::new(GuardSpec {
            id: id("web"),
            cluster: String::new(),
            namespace: "shop".into(),
            route: RouteSpec::Service(ServiceRoute {
                active: "web".into(),
                preview: None,
                selector_key: "color".into(),
            }),
            colors: [side("blue"), side("green")].into(),
            rules: Vec::new(),
            policy: Policy::default(),
            mode: Mode::Enforce,
            scale_up: None,
            connections: Connections::default(),
            maintenance: Vec::new(),
            evidence: EvidenceSpec::default(),
            chats: Vec::new(),
            config_hash: "c".into(),
        })
    }

    fn past(spec: &Arc<GuardSpec>, cluster: &Arc<Cluster>) -> Past {
        let mut guard = Guarded::new(spec, cluster, None);
        guard.thread = Some("a thread".to_owned());
        Past::from(guard)
    }

    #[tokio::test]
    async fn what_is_known_of_guards_that_are_gone_is_bounded_and_the_newest_stay() {
        let (spec, cluster) = (spec(), cluster());
        let mut gone = Gone::default();
        for n in 0..KEPT_MAX + 20 {
            gone.keep(id(&format!("pr-{n}")), past(&spec, &cluster), at(n as i64));
        }
        assert_eq!(gone.0.len(), KEPT_MAX);
        let now = at(KEPT_MAX as i64 + 20);
        assert!(gone.take(&id("pr-19"), now).is_none() && gone.take(&id("pr-20"), now).is_some());
        assert!(gone.take(&id(&format!("pr-{}", KEPT_MAX + 19)), now).is_some());
        gone.forget(at(KEPT_MAX as i64 + 20 + KEPT.as_secs() as i64));
        assert!(gone.0.is_empty());
    }

    #[tokio::test]
    async fn a_guard_that_comes_back_soon_keeps_its_judgement_and_one_that_comes_back_late_its_story() {
        let (spec, cluster) = (spec(), cluster());
        let mut gone = Gone::default();
        let expire = spec.policy.expire.as_secs() as i64;
        for (away, kept) in [(expire - 1, true), (expire, false)] {
            gone.keep(id("web"), past(&spec, &cluster), at(0));
            let back = gone.take(&id("web"), at(away)).expect("it is known");
            assert_eq!(back.judgement.is_some(), kept);
            let guard = back.under(&spec, &cluster, None, at(away));
            assert_eq!(guard.thread.as_deref(), Some("a thread"));
        }
    }

    #[tokio::test]
    async fn the_story_of_a_guard_that_is_gone_is_left_to_the_disk_after_a_while() {
        let (spec, cluster) = (spec(), cluster());
        let story = STORY_KEPT.as_secs() as i64;
        for (away, kept) in [(story - 1, true), (story, false), (KEPT.as_secs() as i64 - 1, false)] {
            let mut guard = Guarded::new(&spec, &cluster, None);
            guard.last = Some(Arc::new(an_incident().1));
            guard.note(at(0), "It was here".to_owned());
            let mut gone = Gone::default();
            gone.keep(id("web"), Past::from(guard), at(0));
            gone.forget(at(away));
            let back = gone.take(&id("web"), at(away)).expect("it is known");
            let guard = back.under(&spec, &cluster, None, at(away));
            let remembers = guard.events.iter().any(|line| &*line.what == "It was here");
            assert_eq!((guard.last.is_some(), remembers), (kept, kept), "after {away} s");
        }
    }

    #[tokio::test]
    async fn a_guard_that_is_gone_does_not_keep_its_cluster() {
        let (spec, cluster) = (spec(), cluster());
        let mut gone = Gone::default();
        gone.keep(id("web"), past(&spec, &cluster), at(0));
        let place = Arc::downgrade(&cluster);
        drop(cluster);
        assert!(place.upgrade().is_none(), "its caches would live on");
        // And another in its place is no reason to go on with streaks.
        let other = self::cluster();
        let guard = gone.take(&id("web"), at(1)).expect("it is known").under(&spec, &other, None, at(1));
        assert!(guard.events.front().is_some_and(|line| line.what.contains("judged anew")));
    }
}
