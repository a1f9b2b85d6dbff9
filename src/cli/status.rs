//! `flipback status`: every guard in a line, or one guard whole.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use jiff::Timestamp;

use super::{
    BAD, Daemon, Failure, Form, Global, HEALTHY, Output, UNKNOWN,
    command::{self, note, resolve},
    paint::{self, Cell, columns, figure, limit, styled},
    standalone,
};
use crate::model::{ChatStatus, GuardId, GuardStatus, Mode, Phase, ReplicaStatus, RuleStatus, ShardStatus, Status};

/// Arguments of `flipback status`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback status
  flipback status web
  flipback status --output json | jq '.guards[].phase'
  flipback status web && echo healthy

Exit codes: 0 healthy, 1 breaching or rolled back, 2 cannot tell.")]
pub struct StatusArgs {
    /// The guard: its name, or its last part where only one guard has it; all of them when left out
    pub guard: Option<String>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// A status older than this, and than three polls, tells nothing of now.
const FRESH_SECONDS: f64 = 30.0;

/// Shows the status; the exit code sums it up.
///
/// # Errors
/// [`Failure`] when there is none to be had.
pub async fn status(global: &Global, args: &StatusArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = command::load(global, &args.daemon)?;
    let asked = if args.daemon.alone {
        None
    } else {
        command::reach(&args.daemon, config.as_ref()).await?
    };
    let mut fresh = true;
    let mut status = match (asked, config) {
        (Some((daemon, status)), _) => {
            let age = super::now().duration_since(status.at).as_secs_f64();
            fresh = age <= (3.0 * status.poll_seconds).max(FRESH_SECONDS);
            if !fresh {
                note(&format!(
                    "The daemon at {} last looked {age:.0} s ago: what follows is old.",
                    daemon.base()
                ));
            }
            status
        }
        (None, Some(config)) => {
            note("No daemon was asked: this is one look from here. Streaks and history are known to a running daemon only.");
            let guards: Vec<_> = match &args.guard {
                Some(guard) => {
                    let id = resolve(config.guards.iter().map(|guard| &guard.id), guard).map_err(Failure::usage)?;
                    config.guards.iter().filter(|guard| guard.id == id).map(Arc::clone).collect()
                }
                None => config.guards.clone(),
            };
            standalone::look(&config, &guards, super::now()).await?
        }
        (None, None) => return Err(Failure::usage("neither a configuration nor a daemon's address")),
    };
    if let Some(guard) = &args.guard {
        let id = resolve(status.guards.iter().map(|guard| &guard.guard), guard).map_err(Failure::usage)?;
        status.guards.retain(|guard| guard.guard == id);
    }
    match args.form.output {
        Output::Json => command::print_json(&status),
        Output::Table => anstream::print!("{}", table(&status)),
    }
    Ok(if fresh { sum(&status.guards) } else { UNKNOWN })
}

/// The exit code of some guards: bad before unknown before healthy.
fn sum(guards: &[GuardStatus]) -> u8 {
    let codes: Vec<u8> = guards.iter().map(of_one).collect();
    if codes.contains(&BAD) {
        BAD
    } else if codes.is_empty() || codes.contains(&UNKNOWN) {
        UNKNOWN
    } else {
        HEALTHY
    }
}

fn of_one(guard: &GuardStatus) -> u8 {
    let breaching = guard.rules.iter().any(|rule| rule.outcome == "breach");
    match guard.phase {
        Phase::Breaching | Phase::RolledBack | Phase::Blocked | Phase::Suppressed | Phase::Disarmed => BAD,
        Phase::Paused if breaching => BAD,
        Phase::Watching | Phase::Steady | Phase::Paused => HEALTHY,
        Phase::Starting | Phase::Blind | Phase::UnknownColor | Phase::Unreadable => UNKNOWN,
    }
}

/// The whole status for people: a list of several guards, or one in detail.
fn table(status: &Status) -> String {
    let mut out = match status.guards.as_slice() {
        [] => "no guards\n".to_owned(),
        [one] => detail(one, status.at),
        several => list(several),
    };
    out.push_str(&fleet(status));
    out.push_str(&refused(status));
    if let Some(replica) = &status.replica {
        out.push_str(&format!("\n{}\n", styled(&sharing(replica), paint::DIM)));
    }
    out.push_str(&chats(&status.chats, status.at));
    out
}

/// That many guards fail at once, or that a person lets them flip; nothing where neither is so.
fn fleet(status: &Status) -> String {
    let fleet = &status.fleet;
    let mut out = String::new();
    if !fleet.held.is_empty() {
        let names: Vec<&str> = fleet.held.iter().map(GuardId::as_str).collect();
        out.push_str(&format!(
            "\n{}\n  {} guards were rolled back lately, where at most {} may; held: {}\n  `flipback override` lets them flip\n",
            styled("many guards are failing at once: suspect a shared cause", paint::BAD),
            fleet.flipped.len(),
            fleet.limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string()),
            names.join(", "),
        ));
    }
    if let Some(until) = fleet.lifted_until {
        let by = fleet.lifted_by.as_deref().unwrap_or("somebody");
        out.push_str(&format!("\nany number of guards may flip until {until}, by {by}\n"));
    }
    out
}

/// That a changed configuration was not taken; nothing where it was.
fn refused(status: &Status) -> String {
    let Some(refused) = &status.config.refused else {
        return String::new();
    };
    let head = format!(
        "the configuration that was changed {} is not in force: the one before it is",
        ago(refused.at, status.at)
    );
    let lines: String = refused.why.lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{}\n{lines}", styled(&head, paint::BAD))
}

/// Who acts, where several daemons share the guards, in a line.
fn sharing(replica: &ReplicaStatus) -> String {
    let numbers = |shards: &[&ShardStatus]| shards.iter().map(|shard| shard.shard.to_string()).collect::<Vec<_>>().join(", ");
    let ours: Vec<&ShardStatus> = replica.shards.iter().filter(|shard| shard.ours).collect();
    let name = &replica.name;
    let mut said = match (ours.as_slice(), replica.shards.len()) {
        ([], _) => format!("{name} only follows"),
        (_, 1) => format!("{name} leads"),
        (ours, all) => format!("{name} leads shard {} of {all}", numbers(ours)),
    };
    let mut others: BTreeMap<&str, Vec<&ShardStatus>> = BTreeMap::new();
    for shard in replica.shards.iter().filter(|shard| !shard.ours) {
        others.entry(shard.leader.as_deref().unwrap_or("nobody")).or_default().push(shard);
    }
    for (leader, shards) in others {
        said.push_str(&match replica.shards.len() {
            1 => format!("; {leader} leads"),
            _ => format!("; {leader} leads shard {}", numbers(&shards)),
        });
    }
    said.push_str(&format!("; alive: {}", replica.alive.join(", ")));
    if let Some(trouble) = &replica.trouble {
        said.push_str(&format!("; {trouble}"));
    }
    said
}

/// Chats that are not told, or were not; nothing where all is well.
fn chats(chats: &[ChatStatus], at: Timestamp) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let troubled = chats.iter().filter(|chat| chat.trouble.is_some() || chat.given_up > 0);
    let rows: Vec<Vec<Cell>> = troubled
        .map(|chat| {
            let waiting = match chat.waiting_since {
                Some(since) if chat.waiting > 0 => format!("{}, {}", chat.waiting, ago(since, at).replace(" ago", "")),
                _ => chat.waiting.to_string(),
            };
            let lost = if chat.given_up > 0 { paint::BAD } else { paint::DIM };
            let why = chat.trouble.as_deref().unwrap_or("it takes messages again");
            vec![
                Cell::new(chat.name.as_str(), paint::BOLD),
                Cell::plain(chat.kind.as_str()),
                Cell::new(waiting, if chat.waiting > 0 { paint::WARN } else { paint::DIM }),
                Cell::new(chat.given_up.to_string(), lost),
                Cell::plain(why),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut all = vec![vec![
        title("CHAT"),
        title("KIND"),
        title("WAITING"),
        title("GIVEN UP"),
        title("WHY"),
    ]];
    all.extend(rows);
    format!("\n{}", columns(&all, 0))
}

fn list(guards: &[GuardStatus]) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![
        title("GUARD"),
        title("PHASE"),
        title("ACTIVE"),
        title("STANDBY"),
        title("WHY"),
    ]];
    rows.extend(guards.iter().map(|guard| {
        vec![
            Cell::new(guard.guard.as_str(), paint::BOLD),
            Cell::new(phase_word(guard), paint::phase(guard.phase)),
            Cell::plain(side(guard, guard.active.as_ref())),
            Cell::plain(side(guard, guard.standby.as_ref())),
            Cell::plain(shortened(&guard.why)),
        ]
    }));
    columns(&rows, 0)
}

fn phase_word(guard: &GuardStatus) -> String {
    match (guard.mode, &guard.maintenance) {
        (Mode::Enforce, None) => guard.phase.to_string(),
        (Mode::Enforce, Some(_)) => format!("{} (maintenance)", guard.phase),
        (Mode::Monitor, _) => format!("{} (monitor)", guard.phase),
    }
}

/// `blue 3/3`.
fn side(guard: &GuardStatus, color: Option<&crate::model::Color>) -> String {
    let Some(color) = color else { return "?".to_owned() };
    let ready = guard
        .colors
        .iter()
        .find(|side| side.color == *color)
        .map(|side| match side.desired {
            Some(desired) => format!(" {}/{desired}", side.ready),
            None => format!(" {}", side.ready),
        });
    format!("{color}{}", ready.unwrap_or_default())
}

/// A sentence that fits a line.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 70;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(CHARS_MAX - 1).collect();
    cut.push('…');
    cut
}

fn detail(guard: &GuardStatus, at: Timestamp) -> String {
    let mut out = format!(
        "{}  {}  {}\n",
        styled(guard.guard.as_str(), paint::BOLD),
        styled(&phase_word(guard), paint::phase(guard.phase)),
        styled(&guard.object, paint::DIM),
    );
    if !guard.why.is_empty() {
        out.push_str(&format!("  {}\n", guard.why));
    }
    out.push('\n');
    out.push_str(&colors(guard));
    out.push('\n');
    out.push_str(&rules(&guard.rules));
    let facts = facts(guard, at);
    if !facts.is_empty() {
        out.push('\n');
        out.push_str(&columns(&facts, 2));
    }
    out
}

fn colors(guard: &GuardStatus) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![title("COLOR"), title(""), title("READY"), title("RELEASE"), title("IMAGES")]];
    rows.extend(guard.colors.iter().map(|side| {
        let (position, style) = if guard.active.as_ref() == Some(&side.color) {
            ("active", paint::BOLD)
        } else if guard.standby.as_ref() == Some(&side.color) {
            ("standby", paint::PLAIN)
        } else {
            ("", paint::DIM)
        };
        let ready = side
            .desired
            .map_or_else(|| side.ready.to_string(), |desired| format!("{}/{desired}", side.ready));
        let (id, images) = side.release.as_ref().map_or(("?".to_owned(), String::new()), |release| {
            let mark = if side.known_bad { " (rolled back from)" } else { "" };
            (format!("{}{mark}", release.id), release.images.join(", "))
        });
        vec![
            Cell::new(side.color.as_str(), style),
            Cell::new(position, style),
            Cell::new(ready, if side.ready == 0 { paint::BAD } else { paint::GOOD }),
            Cell::new(id, if side.known_bad { paint::BAD } else { paint::PLAIN }),
            Cell::plain(images),
        ]
    }));
    columns(&rows, 2)
}

fn rules(rules: &[RuleStatus]) -> String {
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![
        title("RULE"),
        title("OUTCOME"),
        title("STREAK"),
        title("LAST"),
        title("LIMIT"),
        title("WHY"),
    ]];
    rows.extend(rules.iter().map(|rule| {
        let style = match rule.outcome.as_str() {
            "breach" => paint::BAD,
            "pass" => paint::GOOD,
            "inconclusive" => paint::WARN,
            _ => paint::DIM,
        };
        vec![
            Cell::plain(rule.rule.as_str()),
            Cell::new(rule.outcome.as_str(), style),
            Cell::new(
                format!("{}/{}", rule.streak, rule.of),
                if rule.streak > 0 { paint::WARN } else { paint::DIM },
            ),
            Cell::new(rule.value.map_or_else(|| "-".to_owned(), |value| figure(rule.unit(), value)), style),
            Cell::plain(limit(rule.unit(), rule.threshold, rule.below)),
            Cell::plain(rule.why.as_str()),
        ]
    }));
    columns(&rows, 2)
}

fn facts(guard: &GuardStatus, at: Timestamp) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    let mut fact = |name: &str, what: String| rows.push(vec![Cell::new(name, paint::DIM), Cell::plain(what)]);
    if let Some(switched) = guard.switched_at {
        fact("switched", ago(switched, at));
    }
    if let Some(until) = guard.watch_until {
        fact("watched until", until.to_string());
    }
    if let Some(until) = guard.cooldown_until {
        fact("cooldown until", until.to_string());
    }
    if let Some(by) = &guard.paused_by {
        let until = guard.paused_until.map(|until| format!(" until {until}")).unwrap_or_default();
        fact("paused by", format!("{by}{until}"));
    }
    if let Some(maintenance) = &guard.maintenance {
        fact(
            "maintenance",
            format!("{}, no automatic flip until {}", maintenance.name, maintenance.until),
        );
    }
    if let Some(incident) = &guard.last_incident {
        let took = incident.took_ms.map(|took| format!(" in {took:.0} ms")).unwrap_or_default();
        fact(
            "last incident",
            format!(
                "{}{took}, {} -> {}, by {}, {}",
                incident.result.replace('_', " "),
                incident.from,
                incident.to,
                incident.trigger,
                ago(incident.at, at)
            ),
        );
        fact("", incident.why.clone());
        fact(
            "evidence",
            incident.evidence.clone().unwrap_or_else(|| "not yet complete".to_owned()),
        );
    }
    for event in guard.events.iter().take(5) {
        fact(&ago(event.at, at), event.what.to_string());
    }
    rows
}

/// `3m 20s ago`.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0).unsigned_abs();
    // A day-old incident needs no seconds.
    let coarse = match seconds {
        0..=3599 => seconds,
        3600..=86_399 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    };
    format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(coarse)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Color, ColorStatus, GuardId, IncidentSummary, Release, RuleName, status::EventLine};

    fn guard(name: &str, phase: Phase) -> GuardStatus {
        let color = |name: &str| Color::new(name).expect("valid");
        let side = |name: &str, ready, known_bad| ColorStatus {
            color: color(name),
            ready,
            desired: Some(3),
            release: Some(Release {
                id: format!("{name}-7f3a"),
                images: vec![format!("shop/web:{name}")],
            }),
            known_bad,
        };
        let rule = |name: &str, kind: &str, outcome: &str, streak, value| RuleStatus {
            rule: RuleName::new(name).expect("valid"),
            kind: kind.into(),
            outcome: outcome.into(),
            streak,
            of: 3,
            value,
            threshold: if kind == "endpoints" { 1.0 } else { 0.05 },
            below: false,
            unit: None,
            bad: None,
            total: None,
            why: "12 of 100 requests failed, which is more than 5 %".into(),
            sample_at: None,
            history: Vec::new(),
        };
        GuardStatus {
            shard: None,
            guard: GuardId::new("", "shop", name).expect("valid"),
            mode: Mode::Enforce,
            object: "Service/web".into(),
            phase,
            why: "error_rate: 12 % over 5 %, 2 of 3".into(),
            active: Some(color("green")),
            standby: Some(color("blue")),
            colors: vec![side("blue", 3, false), side("green", 0, true)],
            rules: vec![
                rule("error_rate", "error_rate", "breach", 2, Some(0.12)),
                rule("latency_p95", "latency", "inconclusive", 0, None),
                rule("endpoints", "endpoints", "pass", 0, Some(3.0)),
            ],
            switched_at: Some(Timestamp::from_second(1_800_000_000).expect("in range")),
            watch_until: None,
            cooldown_until: None,
            paused_by: None,
            paused_until: None,
            maintenance: None,
            history: None,
            last_incident: Some(IncidentSummary {
                id: "shop.web_x".into(),
                at: Timestamp::from_second(1_799_900_000).expect("in range"),
                from: color("green"),
                to: color("blue"),
                result: "rolled_back".into(),
                trigger: "error_rate".into(),
                why: "12 % over 5 %".into(),
                took_ms: Some(11.7),
                evidence: Some("/var/lib/flipback/incidents/shop.web_x".into()),
                report: None,
            }),
            events: vec![EventLine {
                at: Timestamp::from_second(1_800_000_000).expect("in range"),
                what: "switched from blue to green".into(),
            }],
        }
    }

    fn shown(guards: Vec<GuardStatus>) -> String {
        let status = Status {
            at: Timestamp::from_second(1_800_000_100).expect("in range"),
            guards,
            ..Status::default()
        };
        anstream::adapter::strip_str(&table(&status)).to_string()
    }

    #[test]
    fn one_guard_is_shown_whole() {
        insta::assert_snapshot!(shown(vec![guard("web", Phase::Breaching)]));
    }

    #[test]
    fn chats_in_trouble_are_shown_and_the_others_are_not() {
        let chat = |name: &str, waiting, given_up, trouble: Option<&str>| ChatStatus {
            name: name.into(),
            kind: "slack".into(),
            waiting,
            waiting_since: (waiting > 0).then(|| Timestamp::from_second(1_799_999_850).expect("in range")),
            delivered_at: None,
            given_up,
            trouble: trouble.map(str::to_owned),
        };
        let chats = vec![
            chat("fine", 1, 0, None),
            chat(
                "late",
                3,
                0,
                Some("it did not answer within 10 s; see whether this host reaches it"),
            ),
            chat("gone", 0, 2, Some("HTTP 404; make a new webhook")),
            chat("again", 0, 1, None),
        ];
        let status = |chats: Vec<ChatStatus>| Status {
            at: Timestamp::from_second(1_800_000_100).expect("in range"),
            guards: vec![guard("web", Phase::Steady), guard("api", Phase::Steady)],
            chats,
            ..Status::default()
        };
        let shown = |status: &Status| anstream::adapter::strip_str(&table(status)).to_string();
        insta::assert_snapshot!(shown(&status(chats)));
        assert!(!shown(&status(vec![chat("fine", 1, 0, None)])).contains("fine"));
    }

    #[test]
    fn several_guards_take_a_line_each() {
        insta::assert_snapshot!(shown(vec![guard("web", Phase::Breaching), guard("api", Phase::Steady)]));
    }

    #[test]
    fn who_leads_is_told_in_a_line() {
        let shard = |shard, leader: &str| ShardStatus {
            shard,
            leader: (!leader.is_empty()).then(|| leader.to_owned()),
            ours: leader == "flipback-0",
        };
        let of = |leaders: &[&str]| ReplicaStatus {
            name: "flipback-0".into(),
            alive: vec!["flipback-0".into(), "flipback-1".into()],
            shards: (0..).zip(leaders).map(|(number, leader)| shard(number, leader)).collect(),
            trouble: None,
        };
        let said: Vec<String> = [
            of(&["flipback-0"]),
            of(&["flipback-1"]),
            of(&["flipback-0", "flipback-1", "flipback-0", ""]),
            ReplicaStatus {
                trouble: Some("failed to read the Lease \"ops/flipback-shard-0\": not allowed".into()),
                ..of(&[""])
            },
        ]
        .iter()
        .map(sharing)
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        flipback-0 leads; alive: flipback-0, flipback-1
        flipback-0 only follows; flipback-1 leads; alive: flipback-0, flipback-1
        flipback-0 leads shard 0, 2 of 4; flipback-1 leads shard 1; nobody leads shard 3; alive: flipback-0, flipback-1
        flipback-0 only follows; nobody leads; alive: flipback-0, flipback-1; failed to read the Lease "ops/flipback-shard-0": not allowed
        "#);
    }

    #[test]
    fn the_exit_code_is_the_worst_that_is_known() {
        let code = |phases: &[Phase]| {
            let mut guards: Vec<GuardStatus> = phases.iter().map(|phase| guard("web", *phase)).collect();
            guards.iter_mut().for_each(|guard| guard.rules.clear());
            sum(&guards)
        };
        assert_eq!(code(&[Phase::Steady, Phase::Watching, Phase::Paused]), HEALTHY);
        assert_eq!(code(&[Phase::Steady, Phase::Blind]), UNKNOWN);
        assert_eq!(code(&[Phase::Blind, Phase::RolledBack]), BAD);
        assert_eq!(code(&[Phase::Starting]), UNKNOWN);
        assert_eq!(code(&[]), UNKNOWN);
        assert_eq!(sum(&[guard("web", Phase::Paused)]), BAD, "paused while breaching is not healthy");
    }
}
