//! What the command line does where no daemon runs: one look at everything, or one command, with the daemon's own rooms.
//!
//! One look has no streaks: a share of bad requests needs two samples. What is shown in their place is the bad share of the last
//! minutes, which the Prometheus knows without us.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Failure, chain, command::note};
use crate::{
    cluster::Cluster,
    config::Config,
    decide::{self, Engine},
    metrics::Metrics,
    model::{
        Color, ColorStatus, Command, CommandError, CommandReply, ConfigStatus, FleetStatus, GuardId, GuardSpec, GuardStatus, Judging,
        Observation, Phase, RuleKind, RuleSpec, RuleStatus, ScalarRule, Status, View, maintenance, status::unit,
    },
    monitor,
    observe::{Observer, QueryReport},
    router::{self, Router},
};

/// How long the first lists of a cluster may take.
pub const SYNC: Duration = Duration::from_secs(10);

/// The rooms, open, without a conductor.
pub struct Rooms {
    /// By name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// By guard, in the configuration's order.
    pub guards: Vec<(Arc<GuardSpec>, Arc<dyn Router>)>,
    /// Measures.
    pub observer: Observer,
    stop: CancellationToken,
}

impl Rooms {
    /// Opens the clusters of the given guards and waits for their first lists; what cannot be read stays a state.
    ///
    /// # Errors
    /// [`Failure`] when no client can be made at all.
    pub async fn open(config: &Config, guards: &[Arc<GuardSpec>]) -> Result<Self, Failure> {
        let metrics = Metrics::new().map_err(|error| Failure::unknown(chain(&error)))?;
        let observer = Observer::new(guards, &config.clusters, config.probe_resolve.clone(), metrics.clone())
            .map_err(|error| Failure::unknown(chain(&error)))?;
        let stop = CancellationToken::new();
        let mut clusters = BTreeMap::new();
        for settings in &config.clusters {
            let of_it = guards.iter().filter(|spec| spec.cluster == settings.name);
            let namespaces: BTreeSet<String> = of_it.map(|spec| spec.namespace.clone()).collect();
            if !namespaces.is_empty() {
                let cluster = Cluster::open(settings.clone(), namespaces, metrics.clone(), stop.child_token());
                clusters.insert(settings.name.clone(), cluster);
            }
        }
        // A failure is told by each guard's view, and by `check`.
        futures::future::join_all(clusters.values().map(|cluster| cluster.synced(SYNC))).await;
        let guards = guards
            .iter()
            .filter_map(|spec| {
                let cluster = clusters.get(&spec.cluster)?;
                Some((Arc::clone(spec), router::open(spec, Arc::clone(cluster))))
            })
            .collect();
        Ok(Self {
            clusters,
            guards,
            observer,
            stop,
        })
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One look at some guards, as a status.
///
/// # Errors
/// [`Failure`] when no client can be made at all.
pub async fn look(config: &Config, guards: &[Arc<GuardSpec>], now: Timestamp) -> Result<Status, Failure> {
    let rooms = Rooms::open(config, guards).await?;
    let views: BTreeMap<GuardId, View> = rooms.guards.iter().map(|(spec, router)| (spec.id.clone(), router.view())).collect();
    let (mut readings, reports) = tokio::join!(
        rooms.observer.observe(&views, now),
        futures::future::join_all(rooms.guards.iter().map(|(spec, _)| rooms.observer.inspect(&spec.id, now)))
    );
    let shown = rooms
        .guards
        .iter()
        .zip(reports)
        .map(|((spec, _), reports)| {
            let seen = Observation {
                at: now,
                view: views
                    .get(&spec.id)
                    .cloned()
                    .unwrap_or_else(|| View::Unreadable("not looked at".to_owned())),
                readings: readings.remove(&spec.id).unwrap_or_default(),
                hold: maintenance::held(&spec.maintenance, now),
            };
            one(spec, &seen, &reports, now)
        })
        .collect();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now,
        at: now,
        poll_seconds: config.poll.as_secs_f64(),
        guards: shown,
        notifications_pending: 0,
        chats: Vec::new(),
        fleet: FleetStatus::default(),
        config: ConfigStatus::default(),
        replica: None,
    })
}

/// One guard after one look.
fn one(spec: &Arc<GuardSpec>, seen: &Observation, reports: &[QueryReport], now: Timestamp) -> GuardStatus {
    let decision = Engine::new(Arc::clone(spec)).step(seen);
    let traffic = match &seen.view {
        View::Known(traffic) => Some(&**traffic),
        View::UnknownColor { .. } | View::Unreadable(_) => None,
    };
    let active = traffic.map(|traffic| traffic.active.clone());
    let ledger = traffic.map(|traffic| traffic.ledger.clone()).unwrap_or_default();
    let side = |color: &Color| traffic.and_then(|traffic| traffic.sides.get(color).cloned()).unwrap_or_default();
    let colors = spec.colors.keys().map(|color| {
        let side = side(color);
        ColorStatus {
            color: color.clone(),
            ready: side.ready,
            desired: side.desired,
            known_bad: side.release.as_ref().is_some_and(|release| ledger.is_bad(&release.id)),
            release: side.release,
        }
    });
    let rules: Vec<RuleStatus> = spec
        .rules
        .iter()
        .map(|rule| {
            let report = reports
                .iter()
                .find(|report| report.rule == rule.name && Some(&report.color) == active.as_ref());
            let state = decision.rules.iter().find(|state| state.rule == rule.name);
            let beside = traffic.map(|traffic| &traffic.standby);
            let standby = reports
                .iter()
                .find(|report| report.rule == rule.name && Some(&report.color) == beside)
                .and_then(|report| report.number);
            let mut shown = glance(rule, spec.policy.mode, standby, report);
            if let Some(state) = state {
                shown.of = state.of;
                shown.sample_at = state.sample_at;
                // Probes and endpoints are told by one look; counters are not.
                if matches!(rule.kind, RuleKind::Probe(_) | RuleKind::Endpoints(_)) {
                    shown.value = state.value;
                    shown.below = state.below;
                    shown.why.clone_from(&state.why);
                    shown.outcome = state.outcome.word().to_owned();
                    (shown.bad, shown.total) = (state.bad, state.total);
                }
            }
            shown
        })
        .collect();
    let (phase, why) = phase(decision.phase, decision.why, &rules);
    GuardStatus {
        guard: spec.id.clone(),
        mode: spec.mode,
        object: spec.route.object(),
        phase,
        why,
        standby: traffic.map(|traffic| traffic.standby.clone()),
        active,
        colors: colors.collect(),
        rules,
        switched_at: traffic.and_then(|traffic| traffic.switched_at),
        watch_until: None,
        cooldown_until: decide::cooldown_until(&ledger, &spec.policy).filter(|until| *until > now),
        paused_by: traffic.and_then(|traffic| traffic.paused_at(now)).map(|pause| pause.by.clone()),
        paused_until: traffic.and_then(|traffic| traffic.paused_at(now)).and_then(|pause| pause.until),
        maintenance: maintenance::status(&spec.maintenance, now),
        last_incident: None,
        events: Vec::new(),
        shard: None,
        history: Some(Arc::new(decide::flip_history(spec, traffic, now))),
    }
}

/// A rule as one look tells it: the share of the last minutes against the threshold, or the present number against its limit.
///
/// Of a number with several limits the first that is broken is shown, else the upper one.
fn glance(rule: &RuleSpec, judging: Judging, standby: Option<f64>, report: Option<&QueryReport>) -> RuleStatus {
    let number = report.and_then(|report| report.number);
    let absent = report.and_then(|report| report.absent.as_ref());
    let (value, threshold, below) = match &rule.kind {
        RuleKind::ErrorRate(counter) => (report.and_then(|report| report.bad_share), counter.threshold, false),
        // As people who think in 99.9 % configured it.
        RuleKind::Availability(counter) => {
            let good = report.and_then(|report| report.bad_share).map(|bad| 1.0 - bad);
            (good, counter.threshold, true)
        }
        // In classic mode there is a time to show, else a share.
        RuleKind::Latency(latency) if number.is_some() => (number, latency.threshold.as_secs_f64(), false),
        RuleKind::Latency(latency) => (report.and_then(|report| report.bad_share), latency.share(), false),
        RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => {
            let (threshold, below) = limit(scalar, number, standby);
            (number, threshold, below)
        }
        RuleKind::Probe(probe) => (None, probe.threshold, false),
        RuleKind::Endpoints(_) => (None, 1.0, true),
    };
    let when = if number.is_some() { "right now" } else { "in the last 5 minutes" };
    let side = if below { "under" } else { "over" };
    // What was absent is no value, whatever else could be read.
    let (outcome, why) = match (value, absent) {
        (_, Some(absence)) => ("inconclusive", absence.to_string()),
        (Some(value), None) if (below && value < threshold) || (!below && value > threshold) => {
            ("breach", format!("{side} the threshold {when}"))
        }
        (Some(_), None) => ("pass", format!("within the threshold {when}")),
        (None, None) if report.is_none() => (
            "inconclusive",
            "nothing was measured: it is not known which color is active".to_owned(),
        ),
        (None, None) => ("waiting", "no requests in the last 5 minutes, so one look cannot tell".to_owned()),
    };
    RuleStatus {
        rule: rule.name.clone(),
        kind: rule.kind.as_str().to_owned(),
        outcome: outcome.to_owned(),
        streak: 0,
        of: 0,
        value,
        threshold,
        below,
        unit: unit::of(rule, judging),
        bad: None,
        total: None,
        why,
        sample_at: None,
        history: Vec::new(),
    }
}

/// The limit that a number is shown against, and whether it is a lower one.
fn limit(rule: &ScalarRule, number: Option<f64>, standby: Option<f64>) -> (f64, bool) {
    let relative = rule.max_ratio_to_standby.zip(standby).map(|(ratio, standby)| ratio * standby);
    let upper = match (rule.max, relative) {
        (Some(max), Some(relative)) => Some(max.min(relative)),
        (max, relative) => max.or(relative),
    };
    match (upper, rule.min) {
        (Some(upper), Some(min)) if number.is_some_and(|number| number < min && number <= upper) => (min, true),
        (Some(upper), _) => (upper, false),
        (None, Some(min)) => (min, true),
        // Only compared with the time before the switch, which one look does not know.
        (None, None) => (f64::INFINITY, false),
    }
}

/// The engine has seen one look and would say `starting`; what the look shows is said in its place.
fn phase(engine: Phase, why: String, rules: &[RuleStatus]) -> (Phase, String) {
    if !matches!(engine, Phase::Starting | Phase::Watching | Phase::Steady | Phase::Breaching) {
        return (engine, why);
    }
    let with = |outcome: &str| rules.iter().find(|rule| rule.outcome == outcome);
    if let Some(rule) = with("breach") {
        return (Phase::Breaching, format!("{}: {}", rule.rule, rule.why));
    }
    if let Some(rule) = with("inconclusive") {
        return (Phase::Blind, format!("{}: {}", rule.rule, rule.why));
    }
    if let Some(rule) = with("waiting").filter(|rule| matches!(rule.kind.as_str(), "error_rate" | "availability" | "latency")) {
        return (Phase::Starting, format!("{}: {}", rule.rule, rule.why));
    }
    (Phase::Steady, "one look: nothing is over its threshold".to_owned())
}

/// The folder in a daemon's data directory for what is done beside it.
const BY_HAND: &str = "by-hand";

/// Carries out one command from here. With a daemon `beside`, its data directory is left alone: two writers would disturb it.
///
/// # Errors
/// [`CommandError`] as the daemon would answer.
pub async fn command(config: Config, command: Command, beside: bool) -> Result<CommandReply, CommandError> {
    let mut config = config;
    // The other guards' clusters are not waited for: this may be an emergency.
    let Some(guard) = command.guard().cloned() else {
        return Err(CommandError::Refused("no daemon runs here that could be told".to_owned()));
    };
    config.guards.retain(|spec| spec.id == guard);
    config
        .clusters
        .retain(|cluster| config.guards.iter().any(|guard| guard.cluster == cluster.name));
    if config.guards.is_empty() {
        return Err(CommandError::UnknownGuard(guard.to_string()));
    }
    if beside || !is_writable(&config.data_dir) {
        let own = own_data_dirs(&config.data_dir).into_iter().find(|folder| is_writable(folder));
        let theirs = format!("{} is not ours to write", config.data_dir.display());
        match &own {
            Some(own) => note(&format!("Evidence goes to {} ({theirs}).", own.display())),
            None => note(&format!("No evidence can be kept: {theirs}, and no other folder can be either.")),
        }
        config.data_dir = own.unwrap_or_else(|| config.data_dir.join(BY_HAND));
    }
    monitor::command(config, command).await
}

/// Whether files can be made in a folder, which is made if need be.
fn is_writable(folder: &std::path::Path) -> bool {
    std::fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok()
}

/// Whether files could be made in a folder, or in the one where it would be made; makes nothing that stays.
pub fn may_write(folder: &std::path::Path) -> bool {
    let there = folder.ancestors().find(|folder| folder.exists() || folder.as_os_str().is_empty());
    let there = there
        .filter(|there| !there.as_os_str().is_empty())
        .unwrap_or(std::path::Path::new("."));
    tempfile::tempfile_in(there).is_ok()
}

/// Where data directories of the person's own may lie, the best one first. In a container nothing but the daemon's volume can be written,
/// and a folder of its own there disturbs nobody.
fn own_data_dirs(theirs: &std::path::Path) -> Vec<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    let own = own.into_iter().map(|own| own.join("flipback"));
    own.chain([theirs.join(BY_HAND), std::env::temp_dir().join("flipback")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RuleName;

    fn rule(name: &str, outcome: &str) -> RuleStatus {
        RuleStatus {
            rule: RuleName::new(name).expect("valid"),
            kind: "error_rate".into(),
            outcome: outcome.into(),
            streak: 0,
            of: 3,
            value: None,
            threshold: 0.05,
            below: false,
            unit: None,
            bad: None,
            total: None,
            why: "because".into(),
            sample_at: None,
            history: Vec::new(),
        }
    }

    /// In the pod of `deploy/monitor.yaml` the daemon's volume is all that can be written.
    #[test]
    fn what_is_done_beside_a_daemon_is_kept_in_its_volume_where_there_is_no_better_place() {
        let volume = tempfile::tempdir().expect("a folder");
        let folders = own_data_dirs(volume.path());
        let by_hand = volume.path().join("by-hand");
        let (at, last) = (folders.iter().position(|folder| *folder == by_hand), folders.len() - 1);
        assert!(
            at.is_some_and(|at| at < last),
            "{folders:?}: before what is lost with the container"
        );
        assert!(is_writable(&by_hand) && by_hand.is_dir());
        assert!(!is_writable(std::path::Path::new("/proc/nowhere")));
    }

    #[test]
    fn one_look_says_bad_before_blind_before_well() {
        let said = |outcomes: &[&str]| {
            let rules: Vec<RuleStatus> = outcomes.iter().map(|outcome| rule("error_rate", outcome)).collect();
            phase(Phase::Starting, String::new(), &rules).0
        };
        assert_eq!(said(&["pass", "inconclusive", "breach"]), Phase::Breaching);
        assert_eq!(said(&["pass", "inconclusive"]), Phase::Blind);
        assert_eq!(said(&["pass", "waiting"]), Phase::Starting);
        assert_eq!(said(&["pass", "pass"]), Phase::Steady);
    }

    #[test]
    fn what_the_engine_knows_for_sure_stays() {
        let (phase, why) = phase(Phase::Unreadable, "no such Service".into(), &[rule("error_rate", "breach")]);
        assert_eq!((phase, why.as_str()), (Phase::Unreadable, "no such Service"));
    }

    fn scalar(max: Option<f64>, min: Option<f64>, ratio: Option<f64>) -> RuleSpec {
        let scalar = ScalarRule {
            expr: "x".into(),
            max,
            min,
            max_ratio_to_standby: ratio,
            ..ScalarRule::default()
        };
        RuleSpec::new(RuleName::new("x").expect("valid"), RuleKind::Saturation(scalar))
    }

    fn number(number: f64) -> QueryReport {
        QueryReport {
            number: Some(number),
            ..QueryReport::new(&Color::new("blue").expect("valid"), &scalar(Some(1.0), None, None))
        }
    }

    #[test]
    fn a_number_is_shown_against_the_limit_that_matters() {
        let glanced = |rule: &RuleSpec, value: f64, standby: Option<f64>| {
            let shown = glance(rule, Judging::Intervals, standby, Some(&number(value)));
            assert_eq!(
                shown.below,
                shown.threshold.total_cmp(&2.0).is_eq(),
                "only the minimum is a lower limit"
            );
            (shown.outcome, shown.threshold)
        };
        let both = scalar(Some(10.0), Some(2.0), None);
        assert_eq!(glanced(&both, 5.0, None), ("pass".to_owned(), 10.0));
        assert_eq!(glanced(&both, 11.0, None), ("breach".to_owned(), 10.0));
        assert_eq!(glanced(&both, 1.0, None), ("breach".to_owned(), 2.0));
        assert_eq!(glanced(&scalar(None, Some(2.0), None), 1.0, None), ("breach".to_owned(), 2.0));
        let relative = scalar(None, None, Some(2.0));
        assert_eq!(glanced(&relative, 7.0, Some(3.0)), ("breach".to_owned(), 6.0));
        assert_eq!(glanced(&relative, 5.0, Some(3.0)), ("pass".to_owned(), 6.0));
        assert_eq!(glanced(&relative, 5.0, None).0, "pass", "nothing to compare with");
    }

    #[test]
    fn what_is_absent_is_no_pass() {
        let absent = QueryReport {
            absent: Some(crate::model::Absence::Empty),
            ..number(0.0)
        };
        assert_eq!(
            glance(&scalar(Some(1.0), None, None), Judging::Intervals, None, Some(&absent)).outcome,
            "inconclusive"
        );
    }

    #[test]
    fn whether_a_folder_may_be_written_is_asked_without_making_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let new = folder.path().join("new/one");
        assert!(may_write(&new));
        assert!(!new.exists() && !folder.path().join("new").exists());
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("writable");
        assert!(!may_write(&file) && !may_write(&file.join("below")));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_writable(&folder.path().join("new/one")));
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("writable");
        assert!(!is_writable(&file));
    }
}
