//! When a judgement becomes a flip, and what is kept of it: policies and the bounds of evidence.

use std::time::Duration;

use crate::model::{AfterWatch, Connections, EvidenceSpec, Judging, Policy, Reassert, Relief, ScaleUp};

use super::{
    Problem, duration,
    environment::Scripts,
    raw::{Share, Table},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// More breaches in a row than this are no longer a reaction.
pub(super) const CONSECUTIVE_MAX: u32 = 100;
/// The longest span that classic mode looks back over: what is older says nothing of the release that serves now.
const WINDOW_MAX: Duration = HOUR;

/// The policy of `table` over `base`.
pub(super) fn policy(table: Table<'_>, base: &Policy, scripts: &Scripts) -> Policy {
    let mut table = table;
    for (name, node) in [
        ("consecutive", &scripts.consecutive),
        ("warm_up", &scripts.grace),
        ("warm_up_latency", &scripts.grace),
    ] {
        if let Some(node) = node {
            table.force(name, node.clone());
        }
    }
    if table.whisper("poll").is_some() {
        table.problems.add(
            table
                .problem("poll", "no poll here")
                .hint("poll is one value for the whole daemon: set it at the top of the file"),
        );
    }
    let any = Duration::ZERO..=DAY;
    let some = SECOND..=DAY;
    let policy = Policy {
        reassert: reassert(table.table_or_empty("reassert"), &base.reassert),
        mode: table.choice("mode", JUDGING).unwrap_or(base.mode),
        poll: base.poll,
        consecutive: table.count("consecutive", 1..=CONSECUTIVE_MAX).unwrap_or(base.consecutive),
        min_bad: table.count("min_bad", 1..=1_000_000).unwrap_or(base.min_bad),
        min_requests: table.count("min_requests", 1..=u32::MAX).or(base.min_requests),
        stretch: table.duration("stretch", some.clone()).unwrap_or(base.stretch),
        confidence: table.share("confidence", Share::Confidence).unwrap_or(base.confidence),
        severe_share: table.share("severe_share", Share::ToOne).unwrap_or(base.severe_share),
        severe_bad: table.count("severe_bad", 1..=1_000_000).unwrap_or(base.severe_bad),
        slow_window: table.duration("slow_window", some.clone()).unwrap_or(base.slow_window),
        slow_hold: table.duration("slow_hold", any.clone()).unwrap_or(base.slow_hold),
        slow_bad: table.count("slow_bad", 1..=1_000_000).unwrap_or(base.slow_bad),
        warm_up: table.duration("warm_up", any.clone()).unwrap_or(base.warm_up),
        warm_up_latency: table.duration("warm_up_latency", any.clone()).unwrap_or(base.warm_up_latency),
        watch: table.duration("watch", any.clone()).unwrap_or(base.watch),
        after_watch: table.choice("after_watch", AFTER_WATCH).unwrap_or(base.after_watch),
        expire: table.duration("expire", some.clone()).unwrap_or(base.expire),
        blind_after: table.duration("blind_after", some.clone()).unwrap_or(base.blind_after),
        blind_repeat: table.duration("blind_repeat", some).unwrap_or(base.blind_repeat),
        cooldown: table.duration("cooldown", any).unwrap_or(base.cooldown),
        flips_per_day: table.count("flips_per_day", 1..=100).unwrap_or(base.flips_per_day),
        standby_share: table.share("standby_share", Share::Closed).unwrap_or(base.standby_share),
        degradation: table.share("degradation", Share::ToOne).unwrap_or(base.degradation),
        window: table.duration("window", SECOND..=WINDOW_MAX).unwrap_or(base.window),
        window_latency: table.duration("window_latency", SECOND..=WINDOW_MAX).unwrap_or(base.window_latency),
    };
    consistent(&table, &policy);
    table.close();
    policy
}

/// More often than this is no answer to a controller but a fight.
const REASSERT_MAX: u32 = 10;

fn reassert(table: Table<'_>, base: &Reassert) -> Reassert {
    let reassert = Reassert {
        times: table.count("times", 0..=REASSERT_MAX).unwrap_or(base.times),
        pause: table.duration("pause", SECOND..=HOUR).unwrap_or(base.pause),
        managers: table.texts("managers").unwrap_or_else(|| base.managers.clone()),
    };
    if reassert.times > 0 && reassert.managers.is_empty() {
        let problem = table.problem("managers", "at least one field manager, in which * stands for any text");
        table
            .problems
            .add(problem.hint("times = 0 answers nobody, which is what an empty list would mean"));
    }
    table.close();
    reassert
}

/// How a standby that is scaled down is brought up: `scale_up` of `table` over the defaults.
pub(super) fn scale_up(table: Table<'_>) -> ScaleUp {
    let base = ScaleUp::default();
    let scale_up = ScaleUp {
        replicas: table.count("replicas", 1..=1000).unwrap_or(base.replicas),
        deadline: table.duration("deadline", SECOND..=HOUR).unwrap_or(base.deadline),
    };
    table.close();
    scale_up
}

/// What happens to the pods that were left.
pub(super) fn connections(table: Table<'_>) -> Connections {
    let base = Connections::default();
    let connections = Connections {
        action: table.choice("action", RELIEF).unwrap_or(base.action),
        at_once: table.count("at_once", 1..=1000).unwrap_or(base.at_once),
        pause: table.duration("pause", Duration::ZERO..=HOUR).unwrap_or(base.pause),
    };
    table.close();
    connections
}

const RELIEF: &[(&str, Relief)] = &[("keep", Relief::Keep), ("isolate", Relief::Isolate), ("evict", Relief::Evict)];

const JUDGING: &[(&str, Judging)] = &[("intervals", Judging::Intervals), ("classic", Judging::Classic)];
const AFTER_WATCH: &[(&str, AfterWatch)] = &[("slow", AfterWatch::Slow), ("full", AfterWatch::Full), ("alert", AfterWatch::Alert)];

/// Values that are sound alone and impossible together.
fn consistent(table: &Table<'_>, policy: &Policy) {
    let print = duration::print;
    let clash = |name: &str, is: Duration, sound: bool, allowed: String, why: &str| {
        if !sound {
            let problem = table.problem(name, allowed);
            let found = print(is);
            table.problems.add(Problem {
                found,
                ..problem.hint(why)
            });
        }
    };
    clash(
        "stretch",
        policy.stretch,
        policy.stretch >= policy.poll,
        format!("at least poll, which is {}", print(policy.poll)),
        "an interval cannot close before the next look",
    );
    clash(
        "expire",
        policy.expire,
        policy.expire > policy.stretch,
        format!("more than stretch, which is {}", print(policy.stretch)),
        "a streak would expire while its next interval is still collecting",
    );
    clash(
        "blind_after",
        policy.blind_after,
        policy.blind_after >= policy.poll * 2,
        format!("at least two polls, which is {}", print(policy.poll * 2)),
        "one look without data would already be blindness",
    );
    clash(
        "slow_window",
        policy.slow_window,
        policy.slow_window >= policy.poll * 4,
        format!("at least four polls, which is {}", print(policy.poll * 4)),
        "the slow path needs more than a look or two",
    );
    clash(
        "watch",
        policy.watch,
        policy.watch > policy.warm_up.max(policy.warm_up_latency) || policy.watch.is_zero(),
        format!(
            "0s, or more than the warm-up, which is {}",
            print(policy.warm_up.max(policy.warm_up_latency))
        ),
        "the watch would end before anything is judged",
    );
}

/// The keys of a guard's evidence.
pub(super) const EVIDENCE_KEYS: [&str; 7] = ["log_lines", "log_bytes", "pods_max", "before", "after", "deadline", "follow_up"];
/// What holds for the evidence of all guards, and stands elsewhere.
const OF_ALL_GUARDS: [&str; 4] = ["redact", "public_url", "retention", "copy"];

/// The evidence's bounds of `table` over `base`.
pub(super) fn evidence(table: Table<'_>, base: &EvidenceSpec) -> EvidenceSpec {
    for name in OF_ALL_GUARDS {
        if table.whisper(name).is_some() {
            let problem = table.problem(name, "what may differ from guard to guard");
            table
                .problems
                .add(problem.hint(format!("did you mean evidence.{name}? It holds for all guards")));
        }
    }
    let evidence = EvidenceSpec {
        log_lines: table.count("log_lines", 0..=100_000).unwrap_or(base.log_lines),
        log_bytes: table.bytes("log_bytes", 0..=64 * 1024 * 1024).unwrap_or(base.log_bytes),
        pods_max: table.count("pods_max", 0..=1000).unwrap_or(base.pods_max),
        before: table.duration("before", Duration::ZERO..=DAY).unwrap_or(base.before),
        after: table.duration("after", Duration::ZERO..=HOUR).unwrap_or(base.after),
        deadline: table.duration("deadline", SECOND..=HOUR).unwrap_or(base.deadline),
        follow_up: table.duration("follow_up", Duration::ZERO..=DAY).unwrap_or(base.follow_up),
    };
    if evidence.deadline <= evidence.after {
        let found = duration::print(evidence.deadline);
        let problem = table
            .problem("deadline", format!("more than after, which is {}", duration::print(evidence.after)))
            .hint("the capture would end before the metrics after the flip exist");
        table.problems.add(Problem { found, ..problem });
    }
    table.close();
    evidence
}
