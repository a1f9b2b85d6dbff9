//! Another configuration while the daemon runs: what stays is left alone, what changed is opened anew.
//!
//! Who reads and checks the file is `cli`; what arrives here is sound, or is a refusal to be shown. It is taken as a whole or not at all,
//! between two looks, and never while a flip is under way: a guard is not taken away from under it. A guard whose configuration is the
//! same keeps its engine, its record and its router; one that differs only in what is not judged by (chats, windows, evidence) keeps its
//! streaks; any other begins anew, as after a start. Clusters, what is known of Prometheus servers, the outbox and the journal stay where
//! their settings do.
//!
//! What a running process cannot change is refused with the sentence that says so: a file that is half in force would be a trap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, join},
};
use jiff::Timestamp;

use super::{Guarded, Monitor, first_lists, gone::Past, show, tell};
use crate::{
    cluster::{Cluster, Fence},
    config::Config,
    decide::{Engine, record::Recorder},
    model::{Actor, ConfigStatus, GuardId, GuardSpec, Moment, RefusedConfig, TimelineEntry, settings::ClusterSettings},
    observe::Measure,
    router,
};

/// Names in one line of the journal.
const NAMES_MAX: usize = 10;

/// What became of the file.
#[derive(Debug)]
pub enum News {
    /// It is another one, and sound.
    Changed {
        /// What it says.
        config: Box<Config>,
        /// Short hash of its text.
        hash: String,
    },
    /// It is another one, and cannot be used.
    Refused {
        /// Every problem, for a person.
        why: String,
    },
}

/// The configuration in force, and one that waits for flips to end.
pub(super) struct InForce {
    pub(super) config: Config,
    pub(super) status: ConfigStatus,
    pending: Option<(Box<Config>, String)>,
}

impl InForce {
    pub(super) fn new(config: &Config, now: Timestamp) -> Self {
        Self {
            status: ConfigStatus {
                file: config.origin.as_ref().map(|file| file.display().to_string()),
                hash: config.hash.clone(),
                loaded_at: Some(now),
                refused: None,
            },
            config: config.clone(),
            pending: None,
        }
    }
}

/// What was changed, by the guards' names.
#[derive(Default)]
struct Changes {
    added: Vec<GuardId>,
    changed: Vec<GuardId>,
    removed: Vec<GuardId>,
}

impl Monitor {
    /// Takes note of another configuration; `true` when looks under way are of no use any more.
    pub(super) fn heard_of(&mut self, news: News, now: Timestamp) {
        match news {
            News::Refused { why } => self.refuse_config(why, now),
            News::Changed { config, hash } => {
                if !self.flips.is_empty() {
                    tracing::info!(hash, "The changed configuration waits for a flip that is under way");
                }
                self.in_force.pending = Some((config, hash));
            }
        }
    }

    /// Takes a configuration that waits, unless a flip is under way. Answers, once it did, with what the next look waits for: the first
    /// lists of clusters that were opened, and the past of guards that were added. Both waits are bounded.
    pub(super) fn take_config(&mut self, now: Timestamp) -> Option<BoxFuture<'static, ()>> {
        if !self.flips.is_empty() {
            return None;
        }
        let (config, hash) = self.in_force.pending.take()?;
        let fixed = fixed(&self.in_force.config, &config);
        if !fixed.is_empty() {
            self.refuse_config(fixed.join("\n"), now);
            return None;
        }
        let measure = match self.measure_for(&config) {
            Ok(measure) => measure,
            Err(error) => {
                self.refuse_config(tell::chain(&error), now);
                return None;
            }
        };
        Some(self.apply(*config, hash, measure, now))
    }

    fn measure_for(&self, config: &Config) -> Result<Arc<dyn Measure>, crate::observe::ObserveError> {
        let resolve = config.probe_resolve.clone();
        let successor = self
            .observer
            .successor(&config.guards, &config.clusters, resolve, self.metrics.clone());
        successor.unwrap_or_else(|| (self.world.measure)(config, &self.metrics))
    }

    fn apply(&mut self, config: Config, hash: String, measure: Arc<dyn Measure>, now: Timestamp) -> BoxFuture<'static, ()> {
        self.observer = measure;
        self.poll = config.poll;
        self.holds.radius = config.blast_radius;
        if config.evidence != self.in_force.config.evidence {
            self.keeper = Arc::new(self.keeper.under(config.evidence.clone()));
        }
        if config.chats != self.in_force.config.chats {
            self.outbox.change_chats(config.chats.clone());
        }
        let (clusters, opened) = self.clusters_for(&config);
        let changes = self.guards_for(&config, &clusters, now);
        let fresh = changes
            .added
            .iter()
            .filter(|id| self.guards.get(*id).is_some_and(|guard| guard.last.is_none()));
        let past = self.read_for(fresh.cloned().collect(), now);
        for cluster in &self.clusters {
            if !clusters.values().any(|kept| Arc::ptr_eq(kept, cluster)) {
                cluster.close();
            }
        }
        let gone: Vec<String> = self.in_force.config.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let gone = gone
            .iter()
            .map(String::as_str)
            .filter(|name| !clusters.contains_key(*name))
            .collect();
        self.metrics.forget_clusters(&gone);
        self.clusters = clusters.into_values().collect();
        let former = std::mem::replace(&mut self.in_force.status.hash, hash.clone());
        self.in_force.status.loaded_at = Some(now);
        self.in_force.status.refused = None;
        self.in_force.config = config;
        self.show_config(&former, now);
        let what = changes.sentence();
        tracing::info!(hash, what, "Took a changed configuration");
        self.audit(
            now,
            Actor::Flipback,
            None,
            "reloaded",
            &format!("configuration {hash}: {what}"),
            None,
        );
        self.publish(now);
        join(first_lists(opened), past).map(drop).boxed()
    }

    /// The clusters of a configuration: those whose connection stays are kept, and watch what is guarded by now.
    fn clusters_for(&self, config: &Config) -> (BTreeMap<String, Arc<Cluster>>, Vec<Arc<Cluster>>) {
        let mut opened = Vec::new();
        let clusters = config.clusters.iter().map(|settings| {
            let namespaces = namespaces(config, settings);
            let kept = self.clusters.iter().find(|cluster| connected_alike(cluster.settings(), settings));
            let cluster = match kept {
                Some(cluster) => {
                    cluster.watch_only(namespaces);
                    Arc::clone(cluster)
                }
                None => {
                    let cluster = (self.world.cluster)(settings.clone(), namespaces, self.metrics.clone(), self.stop.child_token());
                    opened.push(Arc::clone(&cluster));
                    cluster
                }
            };
            (settings.name.clone(), cluster)
        });
        (clusters.collect(), opened)
    }

    fn guards_for(&mut self, config: &Config, clusters: &BTreeMap<String, Arc<Cluster>>, now: Timestamp) -> Changes {
        let mut changes = Changes::default();
        let mut former = std::mem::take(&mut self.guards);
        let stays: BTreeSet<&GuardId> = config
            .guards
            .iter()
            .filter(|spec| {
                former
                    .get(&spec.id)
                    .zip(clusters.get(&spec.cluster))
                    .is_some_and(|(guard, cluster)| guard.is(spec, cluster))
            })
            .map(|spec| &spec.id)
            .collect();
        let ended = former.keys().filter(|id| !stays.contains(id)).map(GuardId::as_str).collect();
        self.metrics.forget(&ended);
        for spec in &config.guards {
            let Some(cluster) = clusters.get(&spec.cluster) else { continue };
            let share = self.part.as_ref().map(|part| part.share(&spec.id));
            let guard = match former.remove(&spec.id) {
                Some(guard) if stays.contains(&spec.id) => guard,
                Some(guard) => {
                    changes.changed.push(spec.id.clone());
                    show::introduce(&self.metrics, spec);
                    Past::from(guard).under(spec, cluster, share, now)
                }
                None => {
                    changes.added.push(spec.id.clone());
                    show::introduce(&self.metrics, spec);
                    let former = self.gone.take(&spec.id, now);
                    former.map_or_else(
                        || Guarded::new(spec, cluster, share),
                        |former| former.under(spec, cluster, share, now),
                    )
                }
            };
            self.guards.insert(spec.id.clone(), guard);
        }
        for (id, guard) in former {
            self.dismiss(id.clone(), guard, now);
            changes.removed.push(id);
        }
        changes
    }

    /// Lets a guard go that is no longer configured: nobody is left to close its threads of messages later.
    fn dismiss(&mut self, id: GuardId, mut guard: Guarded, now: Timestamp) {
        self.abandon_threads(&guard.spec, now);
        if let Some(incident) = guard.open.take() {
            let what = "No longer guarded: taken out of the configuration".to_owned();
            self.amend(incident.id.clone(), TimelineEntry::of(Moment::Resolved, now, what));
        }
        guard.left_open.clear();
        guard.episode = None;
        self.gone.keep(id, Past::from(guard), now);
    }

    fn refuse_config(&mut self, why: String, now: Timestamp) {
        if self.in_force.status.refused.as_ref().is_some_and(|refused| refused.why == why) {
            return;
        }
        tracing::error!(why, "The changed configuration is refused: the one before it stays in force");
        self.audit(now, Actor::Flipback, None, "reload_refused", &why, None);
        self.in_force.status.refused = Some(RefusedConfig { at: now, why });
        self.metrics.config_successful.set(0);
        self.publish(now);
    }

    /// Shows in the metrics which configuration is in force.
    pub(super) fn show_config(&self, former: &str, now: Timestamp) {
        let hash = &self.in_force.status.hash;
        if former != hash {
            // There may be none of it.
            let _ = self.metrics.config_info.remove_label_values(&[former]);
        }
        self.metrics.config_info.with_label_values(&[hash]).set(1);
        self.metrics.config_taken.set(now.as_second());
        self.metrics.config_successful.set(1);
    }
}

impl Guarded {
    /// Whether it is this guard already, in every respect.
    fn is(&self, spec: &GuardSpec, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(&self.cluster, cluster) && self.spec.config_hash == spec.config_hash
    }

    /// A guard of which nothing is known yet.
    pub(super) fn new(spec: &Arc<GuardSpec>, cluster: &Arc<Cluster>, share: Option<(u32, &Fence)>) -> Self {
        Self {
            router: router::fenced(spec, Arc::clone(cluster), share.map(|(_, fence)| fence)),
            cluster: Arc::clone(cluster),
            shard: share.map(|(shard, _)| shard),
            engine: Engine::new(Arc::clone(spec)),
            recorder: Recorder::new(Arc::clone(spec)),
            decided_on: None,
            begun: None,
            remains: super::resume::Remains::default(),
            attempts: super::late::Attempts::default(),
            made_room: false,
            flipping: false,
            episode: None,
            decision: None,
            view: None,
            last_incident: None,
            thread: None,
            calm_since: None,
            last: None,
            open: None,
            left_open: Vec::new(),
            owner: None,
            events: std::collections::VecDeque::new(),
            history: BTreeMap::new(),
            scaling: super::scale::Scaling::default(),
            relief: super::relieve::Relieving::default(),
            spec: Arc::clone(spec),
        }
    }
}

impl Changes {
    fn sentence(&self) -> String {
        let said = |what: &str, guards: &[GuardId]| {
            let names: Vec<&str> = guards.iter().take(NAMES_MAX).map(GuardId::as_str).collect();
            let more = guards.len().saturating_sub(NAMES_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (!guards.is_empty()).then(|| format!("{what} {}{more}", names.join(", ")))
        };
        let parts = [
            said("added", &self.added),
            said("changed", &self.changed),
            said("removed", &self.removed),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            "no guard was changed".to_owned()
        } else {
            parts.join("; ")
        }
    }
}

/// The namespaces of a cluster in which something is guarded.
pub(super) fn namespaces(config: &Config, cluster: &ClusterSettings) -> BTreeSet<String> {
    let own = config.guards.iter().filter(|spec| spec.cluster == cluster.name);
    own.map(|spec| spec.namespace.clone()).collect()
}

/// Whether the API server of both is reached in the same way; where its Prometheus is does not matter to it.
fn connected_alike(one: &ClusterSettings, other: &ClusterSettings) -> bool {
    let bare = |settings: &ClusterSettings| ClusterSettings {
        prometheus: None,
        ..settings.clone()
    };
    bare(one) == bare(other)
}

/// Whether two configurations of a guard lead every look to the same verdict.
pub(super) fn judged_alike(one: &GuardSpec, other: &GuardSpec) -> bool {
    one.cluster == other.cluster
        && one.namespace == other.namespace
        && one.route == other.route
        && one.colors == other.colors
        && one.rules == other.rules
        && one.policy == other.policy
}

/// What differs and cannot be changed while the process runs, one sentence each.
fn fixed(one: &Config, other: &Config) -> Vec<String> {
    let checks = [
        ("data_dir", one.data_dir != other.data_dir),
        ("[serve]", one.serve != other.serve),
        ("[audit]", one.audit != other.audit),
        ("[log]", one.log != other.log),
        ("[replicas]", one.replicas != other.replicas),
    ];
    // Leading rests on this one's connection, and nobody leads while it is made anew.
    let of_leases = |config: &'_ Config| {
        let settings = config.replicas.as_ref()?;
        config.clusters.iter().find(|cluster| cluster.name == settings.cluster).cloned()
    };
    let alike = match (of_leases(one), of_leases(other)) {
        (Some(one), Some(other)) => connected_alike(&one, &other),
        _ => true,
    };
    let named = checks.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key);
    let differ = named.chain((!alike).then_some("the connection of the cluster with the replicas' Leases"));
    differ
        .map(|key| {
            format!("{key} cannot change while flipback runs: restart it, or put {key} back; nothing of the changed file is in force")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_a_running_process_cannot_change_is_named() {
        let one = Config::default();
        assert_eq!(fixed(&one, &one), Vec::<String>::new());
        let other = Config {
            data_dir: PathBuf::from("/elsewhere"),
            poll: std::time::Duration::from_secs(9),
            ..Config::default()
        };
        assert_eq!(
            fixed(&one, &other),
            ["data_dir cannot change while flipback runs: restart it, or put data_dir back; nothing of the changed file is in force"]
        );
        let mut other = Config::default();
        other.serve.listen = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        other.audit.files += 1;
        other.log.filter = "debug".into();
        assert_eq!(fixed(&one, &other).len(), 3);
    }

    #[test]
    fn the_connection_that_leading_rests_on_stays_as_it_is() {
        let with = |context: &str, replicas: bool| Config {
            clusters: vec![ClusterSettings {
                context: Some(context.into()),
                ..ClusterSettings::default()
            }],
            replicas: replicas.then(crate::model::settings::ReplicaSettings::default),
            ..Config::default()
        };
        assert_eq!(
            fixed(&with("a", false), &with("b", false)),
            Vec::<String>::new(),
            "it leads by nothing"
        );
        assert_eq!(fixed(&with("a", true), &with("a", true)), Vec::<String>::new());
        let refused = fixed(&with("a", true), &with("b", true));
        assert!(
            refused[0].starts_with("the connection of the cluster with the replicas' Leases cannot change"),
            "{refused:?}"
        );
    }

    #[test]
    fn streaks_stay_where_only_what_is_not_judged_by_has_changed() {
        let (spec, _) = super::super::resume::tests::an_incident();
        let alike = |change: fn(&mut GuardSpec)| {
            let mut other = spec.clone();
            change(&mut other);
            other.config_hash = "another".into();
            judged_alike(&spec, &other)
        };
        assert!(alike(|other| other.chats = vec!["pager".into()]));
        assert!(alike(|other| other.evidence.log_lines += 1));
        assert!(alike(|other| other.connections.at_once += 1));
        assert!(alike(|other| other.mode = crate::model::Mode::Monitor));
        assert!(!alike(|other| other.policy.consecutive += 1));
        assert!(!alike(|other| other.namespace = "elsewhere".into()));
        assert!(!alike(|other| other.colors.clear()));
    }

    #[test]
    fn a_prometheus_elsewhere_leaves_the_connection_alone() {
        let one = ClusterSettings::default();
        let mut other = one.clone();
        other.prometheus = Some(crate::model::settings::PrometheusSettings {
            url: "http://prometheus:9090".parse().expect("a URL"),
            timeout: std::time::Duration::from_secs(4),
            bearer: None,
            basic: None,
            ca_file: None,
            client_certificate: None,
            headers: BTreeMap::new(),
        });
        assert!(connected_alike(&one, &other));
        other.context = Some("elsewhere".into());
        assert!(!connected_alike(&one, &other));
    }
}
