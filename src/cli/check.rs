//! `flipback check`: is the configuration right, and does the world answer as it needs? Changes nothing, tells nobody (unless asked to).
//!
//! Each finding is one line with what to do. What is wrong here is what would be blind, refused or silent later, when it matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clap::Args;
use serde::Serialize;

use super::{
    BAD, Failure, Form, Global, HEALTHY, Output, USAGE, chain,
    command::{self, resolve},
    paint::{self, percent, styled},
    standalone::{Rooms, may_write},
};
use crate::{
    cluster::{Cluster, lease},
    config::{Config, Flags},
    model::{
        Absence, Advice, Announcement, Color, GuardId, GuardSpec, Mode, RouteSpec, RuleSpec, ScalarRule, Topic, Traffic, View,
        settings::ChatSettings,
    },
    notify,
    observe::{Buckets, QueryReport, figure},
    router::Router,
    words::Message,
};

/// Arguments of `flipback check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback check --config flipback.toml
  flipback check web
  flipback check --offline            (the configuration only)
  flipback check --send-test          (and a test message to every chat)

Exit codes: 0 all well, or only warnings; 1 something is wrong; 64 the configuration is wrong.")]
pub struct CheckArgs {
    /// The guard: its name, or its last part where only one guard has it; all of them when left out
    pub guard: Option<String>,
    /// Read the configuration and ask nobody
    #[arg(long)]
    pub offline: bool,
    /// Send a test message to every chat
    #[arg(long, conflicts_with = "offline")]
    pub send_test: bool,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// How a finding ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warning,
    /// It does not work.
    Wrong,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `configuration`, `guard shop/web`, `chat slack`.
    pub about: String,
    /// How it ranks.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// All findings, in the order of the road: configuration, guards, chats.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, about: &str, level: Level, what: impl Into<String>) -> &mut Finding {
        self.list.push(Finding {
            about: about.to_owned(),
            level,
            what: what.into(),
            todo: None,
        });
        self.list.last_mut().expect("just pushed")
    }
}

impl Finding {
    fn todo(&mut self, todo: impl Into<String>) {
        self.todo = Some(todo.into());
    }
}

/// Checks everything; the exit code sums it up.
///
/// # Errors
/// [`Failure`] when no client can be made at all, or no guard has the given name.
pub async fn check(global: &Global, args: &CheckArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = match global.load(Flags::default()) {
        Ok(config) => config,
        Err(errors) => {
            match args.form.output {
                Output::Json => command::print_json(&errors),
                Output::Table => anstream::println!("{} {errors}", styled("✗", paint::BAD)),
            }
            return Ok(USAGE);
        }
    };
    let guards: Vec<Arc<GuardSpec>> = match &args.guard {
        Some(guard) => {
            let id = resolve(config.guards.iter().map(|guard| &guard.id), guard).map_err(Failure::usage)?;
            config.guards.iter().filter(|guard| guard.id == id).map(Arc::clone).collect()
        }
        None => config.guards.clone(),
    };
    let mut findings = Findings::default();
    configuration(&mut findings, &config);
    if !args.offline {
        live(&mut findings, &config, &guards).await?;
    }
    for chat in &config.chats {
        self::chat(&mut findings, chat, args.send_test.then_some(&guards)).await;
    }
    match args.form.output {
        Output::Json => command::print_json(&findings.list),
        Output::Table => anstream::print!("{}", table(&findings.list)),
    }
    let wrong = findings.list.iter().any(|finding| finding.level == Level::Wrong);
    Ok(if wrong { BAD } else { HEALTHY })
}

fn configuration(findings: &mut Findings, config: &Config) {
    const ABOUT: &str = "configuration";
    let origin = config
        .origin
        .as_ref()
        .map_or("no file".to_owned(), |path| path.display().to_string());
    let guards = config.guards.len();
    let plural = if guards == 1 { "guard" } else { "guards" };
    findings.add(ABOUT, Level::Ok, format!("{origin}: {guards} {plural}"));
    if !config.variables.is_empty() {
        findings.add(ABOUT, Level::Ok, format!("obeys {}", config.variables.join(", ")));
    }
    for warning in &config.warnings {
        findings.add(ABOUT, Level::Warning, warning.clone());
    }
    let folder = config.data_dir.display();
    if may_write(&config.data_dir) {
        findings.add(ABOUT, Level::Ok, format!("evidence and undelivered messages go to {folder}"));
    } else {
        // The daemon may run as somebody else, so this is no error by itself.
        findings
            .add(
                ABOUT,
                Level::Warning,
                format!(
                    "{folder} cannot be written by whoever runs this check: such a daemon keeps no evidence and no message over a restart"
                ),
            )
            .todo("give the daemon's account the folder, or set data_dir");
    }
    if !config.chats.is_empty() && config.evidence.public_url.is_none() {
        let what = "messages name the folder of the evidence and link to no report: evidence.public_url says where a browser finds it";
        findings.add(ABOUT, Level::Ok, what);
    }
    match config.serve.token.as_ref().map(crate::model::settings::Secret::read) {
        Some(Ok(_)) => {
            findings.add(ABOUT, Level::Ok, "a token guards commands over HTTP");
        }
        Some(Err(error)) => findings
            .add(ABOUT, Level::Wrong, chain(&error))
            .todo("put the token there, or correct serve.token_file: no command is taken over HTTP"),
        None if !config.serve.listen.ip().is_loopback() => findings
            .add(ABOUT, Level::Warning, "no token: commands are refused over HTTP")
            .todo("set serve.token_file, or run commands where the cluster can be reached"),
        None => {}
    }
    if config.chats.is_empty() {
        findings
            .add(ABOUT, Level::Warning, "no chat: nobody is told of a rollback")
            .todo("add [chats.<name>] or set SLACK_WEBHOOK_URL");
    }
}

async fn live(findings: &mut Findings, config: &Config, guards: &[Arc<GuardSpec>]) -> Result<(), Failure> {
    let rooms = Rooms::open(config, guards).await?;
    for (name, cluster) in &rooms.clusters {
        let about = if name.is_empty() {
            "cluster".to_owned()
        } else {
            format!("cluster {name}")
        };
        match cluster.health() {
            Ok(()) => {
                let nameless = name.is_empty() && !config.chats.is_empty();
                let hint = "; it has no name, so no message says which it is: [clusters.<name>] gives it one";
                let hint = if nameless { hint } else { "" };
                findings.add(&about, Level::Ok, format!("the API server answers and is watched{hint}"));
            }
            // A sentence that says what to do.
            Err(why) => {
                findings.add(&about, Level::Wrong, why);
            }
        }
    }
    replicas(findings, config, &rooms.clusters).await;
    let now = super::now();
    for (spec, router) in &rooms.guards {
        let about = format!("guard {}", spec.id);
        let sides = route(findings, &about, spec, &**router);
        rights(findings, &about, spec, &**router).await;
        let reports = rooms.observer.inspect(&spec.id, now).await;
        for report in &reports {
            let is_active = sides.as_ref().is_none_or(|(active, _)| *active == report.color);
            let rule = spec.rules.iter().find(|rule| rule.name == report.rule);
            query(findings, &about, report, rule, is_active);
        }
        if let Some((active, standby)) = &sides {
            ratios(findings, &about, &spec.rules, &reports, active, standby);
        }
    }
    Ok(())
}

/// Whether a replica could lead.
async fn replicas(findings: &mut Findings, config: &Config, clusters: &BTreeMap<String, Arc<Cluster>>) {
    const ABOUT: &str = "replicas";
    let Some(settings) = &config.replicas else { return };
    let Some(cluster) = clusters.get(&settings.cluster) else {
        let what = format!(
            "the rights on Leases in cluster {} are not asked for: none of these guards is in it",
            settings.cluster
        );
        findings.add(ABOUT, Level::Warning, what);
        return;
    };
    match lease::rights::lacking(cluster, settings).await {
        Ok(lacking) if lacking.is_empty() => {
            let shards = settings.shards;
            let plural = if shards == 1 { "shard" } else { "shards" };
            let what = format!("the account may lead {shards} {plural} in namespace {}", settings.namespace);
            findings.add(ABOUT, Level::Ok, what);
        }
        Ok(lacking) => findings
            .add(ABOUT, Level::Wrong, format!("the account may not: {}", lacking.join(", ")))
            .todo(format!(
                "apply deploy/monitor.yaml with a name for each shard in namespace {}: without a Lease nothing is flipped",
                settings.namespace
            )),
        Err(error) => {
            findings.add(ABOUT, Level::Wrong, chain(&error));
        }
    }
}

/// What is live, and could the other color take over? Answers with the active and the standby color.
fn route(findings: &mut Findings, about: &str, spec: &GuardSpec, router: &dyn Router) -> Option<(Color, Color)> {
    let object = spec.route.object();
    match router.view() {
        View::Known(traffic) => {
            let Traffic { active, standby, .. } = &*traffic;
            let (on, off) = (traffic.active_side().ready, traffic.standby_side().ready);
            findings.add(
                about,
                Level::Ok,
                format!("{object} serves {active} ({on} Ready), standby is {standby} ({off} Ready)"),
            );
            if let Some(wanted) = crate::decide::scale_target(spec, &traffic, standby).filter(|_| off == 0) {
                let said = format!("the standby color {standby} is scaled down: a rollback would first scale it up to {wanted} replicas");
                findings.add(about, Level::Ok, said);
            } else if off == 0 {
                findings
                    .add(
                        about,
                        Level::Warning,
                        format!("the standby color {standby} has no Ready endpoint: a rollback would be refused"),
                    )
                    .todo(format!("keep {standby} running, or scale it up before the next switch"));
            }
            owner(findings, about, spec, &traffic);
            if let Some(pause) = traffic.paused_at(super::now()) {
                findings
                    .add(about, Level::Warning, format!("paused by {} ({})", pause.by, pause.reason))
                    .todo(format!("flipback resume {}", spec.id));
            }
            for (color, side) in &traffic.sides {
                let named = spec.colors.get(color).and_then(|color| color.deployment.as_ref());
                if let (Some(deployment), None) = (named, side.desired) {
                    findings
                        .add(about, Level::Wrong, format!("the Deployment {deployment} of {color} is not there"))
                        .todo(format!("correct colors.{color}.deployment, or create it"));
                }
            }
            Some((traffic.active.clone(), traffic.standby.clone()))
        }
        View::UnknownColor { found, known } => {
            let RouteSpec::Service(route) = &spec.route;
            let key = &route.selector_key;
            let what = found.map_or_else(
                || format!("the selector of {object} has no {key:?}"),
                |value| format!("the selector of {object} has {key:?} at {value:?}, which is none of the guard's colors"),
            );
            findings.add(about, Level::Wrong, what).todo(format!(
                "expected one of {}: correct colors or route.selector_key",
                known.join(", ")
            ));
            None
        }
        View::Unreadable(why) => {
            findings.add(about, Level::Wrong, why);
            None
        }
    }
}

/// Who else writes the route, what they do to a flip, and what makes them leave it alone.
fn owner(findings: &mut Findings, about: &str, spec: &GuardSpec, traffic: &Traffic) {
    let Some(owner) = &traffic.owner else { return };
    let RouteSpec::Service(route) = &spec.route;
    let Advice { happens, todo, snippet } = owner.advice(route, &spec.namespace);
    let reassert = &spec.policy.reassert;
    let object = spec.route.object();
    let (level, answer) = match reassert.times {
        _ if spec.mode == Mode::Monitor => (Level::Ok, String::new()),
        0 => (Level::Warning, "; flipback does not fight it (policy.reassert is off)".to_owned()),
        times => (
            Level::Ok,
            format!("; flipback makes a rollback again up to {times} times (policy.reassert)"),
        ),
    };
    let finding = findings.add(about, level, format!("{owner} owns {object}: {happens}{answer}"));
    finding.todo(match snippet {
        Some(snippet) => format!("{todo}:\n{}", snippet.trim_end()),
        None => todo,
    });
    let level = if owner.holds_ledger { Level::Warning } else { Level::Ok };
    findings.add(about, level, owner.of_the_ledger());
}

async fn rights(findings: &mut Findings, about: &str, spec: &GuardSpec, router: &dyn Router) {
    match router.may_flip().await {
        Ok(rights) => {
            let lacking: BTreeSet<String> = rights
                .iter()
                .filter(|right| !right.allowed)
                .map(|right| {
                    let name = right.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                    format!("{} {}{name}", right.verb, right.resource)
                })
                .collect();
            if lacking.is_empty() {
                let what = match spec.mode {
                    Mode::Enforce => "the account has every right it needs to flip",
                    Mode::Monitor => "the account has every right it needs to watch (monitor mode)",
                };
                findings.add(about, Level::Ok, what);
            } else {
                let lacking: Vec<String> = lacking.into_iter().collect();
                findings
                    .add(about, Level::Wrong, format!("the account may not: {}", lacking.join(", ")))
                    .todo(format!(
                        "apply deploy/monitor.yaml with these names in namespace {}",
                        spec.namespace
                    ));
            }
        }
        Err(error) => {
            findings.add(about, Level::Wrong, chain(&error));
        }
    }
}

fn query(findings: &mut Findings, about: &str, report: &QueryReport, rule: Option<&RuleSpec>, is_active: bool) {
    let subject = format!("{} on {}", report.rule, report.color);
    let refused = report.buckets.as_ref().filter(|buckets| buckets.refusal.is_some());
    match (&report.value, &report.absent) {
        // Told below, with what to do.
        (_, Some(_)) if refused.is_some() => {}
        (_, Some(absence)) => {
            // A standby color without users has no requests, and that is as it should be.
            let level = if is_active { Level::Wrong } else { Level::Warning };
            let finding = findings.add(about, level, format!("{subject}: {absence}"));
            // A Prometheus that does not answer at all says itself what to do.
            if !matches!(absence, Absence::Error(_) | Absence::Timeout) {
                finding.todo(format!("ask Prometheus: {}", report.query));
            }
        }
        (Some(value), None) => {
            let mut what = format!("{subject}: {value}");
            if let Some(scalar) = rule.and_then(|rule| rule.kind.scalar()) {
                what.push_str(&limits(scalar));
            } else if let Some(share) = report.bad_share {
                what.push_str(&format!("; {} bad in the last 5 minutes", percent(share)));
            }
            if let Some(spacing) = report.scrape_spacing {
                what.push_str(&format!("; scraped every {}", humantime::format_duration(round(spacing))));
            }
            if let Some(time) = report.time_to_detect {
                what.push_str(&format!(
                    "; a total outage is decided in about {}",
                    humantime::format_duration(round(time))
                ));
            }
            findings.add(about, Level::Ok, what);
        }
        (None, None) => {}
    }
    if let Some((buckets, why)) = refused.and_then(|buckets| Some((buckets, buckets.refusal.as_ref()?))) {
        let finding = findings.add(about, Level::Wrong, format!("{subject}: {why}"));
        if !buckets.is_bound {
            finding.todo(format!("use {}", neighbours(buckets)));
        }
    }
    for warning in &report.warnings {
        findings.add(about, Level::Warning, format!("{subject}: {warning}"));
    }
}

/// `; at most 0.8`.
fn limits(rule: &ScalarRule) -> String {
    let unit = rule.unit.as_deref();
    let mut all = Vec::new();
    all.extend(rule.max.map(|max| format!("at most {}", figure(max, unit))));
    all.extend(rule.min.map(|min| format!("at least {}", figure(min, unit))));
    all.extend(
        rule.max_ratio_to_standby
            .map(|ratio| format!("at most {} times the standby's", figure(ratio, None))),
    );
    all.extend(
        rule.max_ratio_to_before
            .map(|ratio| format!("at most {} times what it was before the switch", figure(ratio, None))),
    );
    if all.is_empty() {
        String::new()
    } else {
        format!("; {}", all.join(", "))
    }
}

/// How the active color stands to the standby, of rules that compare the two.
fn ratios(findings: &mut Findings, about: &str, rules: &[RuleSpec], reports: &[QueryReport], active: &Color, standby: &Color) {
    for rule in rules {
        let Some((scalar, allowed)) = rule.kind.scalar().and_then(|scalar| Some((scalar, scalar.max_ratio_to_standby?))) else {
            continue;
        };
        let of = |color: &Color| {
            let report = reports.iter().find(|report| report.rule == rule.name && report.color == *color);
            report.filter(|report| report.absent.is_none()).and_then(|report| report.number)
        };
        let (Some(here), Some(there)) = (of(active), of(standby)) else {
            findings
                .add(
                    about,
                    Level::Warning,
                    format!(
                        "{}: there is no number on both colors to compare, so it gives no verdict",
                        rule.name
                    ),
                )
                .todo("keep traffic or a probe on the standby, or use max_ratio_to_before");
            continue;
        };
        let unit = scalar.unit.as_deref();
        let what = format!(
            "{}: {} on {active}, {} on {standby}; at most {} times as much is allowed",
            rule.name,
            figure(here, unit),
            figure(there, unit),
            figure(allowed, None)
        );
        if there <= 0.0 {
            findings
                .add(about, Level::Warning, what)
                .todo("a ratio to nothing says nothing: keep traffic on the standby, or use max_ratio_to_before");
        } else if here > allowed * there {
            findings
                .add(about, Level::Warning, format!("{what}: it would breach right now"))
                .todo("leave more room, or look at what is live");
        } else {
            findings.add(about, Level::Ok, what);
        }
    }
}

fn neighbours(buckets: &Buckets) -> String {
    // The highest finite bucket would be refused again.
    let above = buckets.above.filter(|above| buckets.bounds.iter().any(|bound| bound > above));
    match (buckets.below, above) {
        (Some(below), Some(above)) => format!("{below} or {above}, or add a bucket at {}", buckets.threshold),
        (Some(below), None) => format!("{below}, or add a bucket at {} and one above it", buckets.threshold),
        (None, Some(above)) => format!("{above}, or add a bucket at {}", buckets.threshold),
        (None, None) => "a histogram with finite buckets".to_owned(),
    }
}

/// Whole seconds: nobody plans by milliseconds.
fn round(duration: std::time::Duration) -> std::time::Duration {
    std::time::Duration::from_secs_f64(duration.as_secs_f64().round())
}

/// A chat's secret is there; with guards, a test message is sent.
async fn chat(findings: &mut Findings, chat: &ChatSettings, test: Option<&Vec<Arc<GuardSpec>>>) {
    let about = format!("chat {}", chat.name);
    let mut unreadable = false;
    for secret in chat.channel.secrets() {
        if let Err(error) = secret.read() {
            unreadable = true;
            findings
                .add(&about, Level::Wrong, chain(&error))
                .todo(format!("put the secret there, or correct the file's name in chats.{}", chat.name));
        }
    }
    if unreadable {
        return;
    }
    let Some(spec) = test.and_then(|guards| guards.first()) else {
        findings.add(
            &about,
            Level::Ok,
            "has its credentials (not contacted; --send-test sends a test message)",
        );
        return;
    };
    let announcement = announcement(spec);
    let message = Message::by(&announcement, &chat.templates);
    let parcel = notify::Parcel {
        announcement: &announcement,
        message: &message,
        thread: None,
    };
    match notify::open(chat).deliver(parcel).await {
        Ok(_) => {
            findings.add(&about, Level::Ok, "took a test message");
        }
        Err(error) => {
            findings.add(&about, Level::Wrong, format!("did not take a test message: {}", chain(&error)));
        }
    }
}

fn announcement(spec: &GuardSpec) -> Announcement {
    let at = super::now();
    let id: &GuardId = &spec.id;
    Announcement {
        id: format!("{}_test_{}", id.file_name(), at.as_millisecond()),
        guard: id.clone(),
        at,
        why: "this is a test message of `flipback check --send-test`".to_owned(),
        cluster: spec.cluster.clone(),
        namespace: spec.namespace.clone(),
        object: spec.route.object(),
        ..Announcement::example(Topic::Test)
    }
}

fn table(findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut about = "";
    for finding in findings {
        if finding.about != about {
            about = &finding.about;
            out.push_str(&format!("{}\n", styled(about, paint::BOLD)));
        }
        let mark = match finding.level {
            Level::Ok => styled("✓", paint::GOOD),
            Level::Warning => styled("!", paint::WARN),
            Level::Wrong => styled("✗", paint::BAD),
        };
        out.push_str(&format!("  {mark} {}\n", finding.what));
        if let Some(todo) = &finding.todo {
            // What is to be copied keeps its own indentation below ours.
            let todo = todo.replace('\n', "\n         ");
            out.push_str(&format!("      {}\n", styled(&format!("-> {todo}"), paint::DIM)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&match (count(Level::Wrong), count(Level::Warning)) {
        (0, 0) => "\nall well\n".to_owned(),
        (0, warnings) => format!("\nno errors, {warnings} to look at\n"),
        (wrong, warnings) => format!("\n{wrong} wrong, {warnings} to look at\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::RuleName;

    fn report() -> QueryReport {
        QueryReport {
            color: Color::new("blue").expect("valid"),
            rule: RuleName::new("latency_p95").expect("valid"),
            kind: "latency".into(),
            query: "x_bucket{pod=~\"web-blue-.+\"}".into(),
            value: Some("1200 requests, 3 slower than 0.7 seconds, on 3 targets".into()),
            number: None,
            absent: None,
            bad_share: Some(0.0025),
            buckets: Some(Buckets {
                threshold: 0.7,
                is_bound: false,
                refusal: Some("0.7 s lies between the buckets 0.5 s and 1 s; set the threshold to one of them".into()),
                below: Some(0.5),
                above: Some(1.0),
                bounds: vec![0.5, 1.0, 2.5],
            }),
            scrape_spacing: Some(Duration::from_millis(14_990)),
            time_to_detect: Some(Duration::from_millis(39_985)),
            warnings: vec!["leave more room".into()],
        }
    }

    #[test]
    fn findings_are_what_people_read() {
        let mut findings = Findings::default();
        findings.add("configuration", Level::Ok, "flipback.toml: 1 guard");
        query(&mut findings, "guard shop/web", &report(), None, true);
        let absent = QueryReport {
            value: None,
            absent: Some(Absence::Empty),
            buckets: None,
            warnings: Vec::new(),
            ..report()
        };
        query(&mut findings, "guard shop/web", &absent, None, true);
        query(&mut findings, "guard shop/web", &absent, None, false);
        insta::assert_snapshot!(anstream::adapter::strip_str(&table(&findings.list)).to_string());
    }

    #[test]
    fn an_idle_standby_is_worth_a_look_and_no_error() {
        let absent = QueryReport {
            value: None,
            absent: Some(Absence::Empty),
            buckets: None,
            warnings: Vec::new(),
            ..report()
        };
        let mut findings = Findings::default();
        query(&mut findings, "x", &absent, None, false);
        query(&mut findings, "x", &absent, None, true);
        let levels: Vec<Level> = findings.list.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Wrong]);
    }

    #[test]
    fn numbers_are_told_with_their_limits_and_the_standbys() {
        let color = |name: &str| Color::new(name).expect("valid");
        let scalar = ScalarRule {
            expr: "x".into(),
            max: Some(100.0),
            max_ratio_to_standby: Some(1.2),
            unit: Some("tokens/s".into()),
            ..ScalarRule::default()
        };
        let rule = RuleSpec::new(RuleName::new("tokens").expect("valid"), crate::model::RuleKind::Promql(scalar));
        let number = |name: &str, number: Option<f64>| QueryReport {
            value: number.map(|number| figure(number, Some("tokens/s"))),
            number,
            absent: number.is_none().then_some(Absence::Empty),
            ..QueryReport::new(&color(name), &rule)
        };
        let mut findings = Findings::default();
        let about = "guard shop/web";
        query(&mut findings, about, &number("blue", Some(12.5)), Some(&rule), true);
        for (here, there) in [(12.5, Some(11.0)), (12.5, Some(10.0)), (12.5, Some(0.0)), (12.5, None)] {
            let reports = [number("blue", Some(here)), number("green", there)];
            ratios(
                &mut findings,
                about,
                std::slice::from_ref(&rule),
                &reports,
                &color("blue"),
                &color("green"),
            );
        }
        insta::assert_snapshot!(anstream::adapter::strip_str(&table(&findings.list)).to_string());
    }

    #[test]
    fn it_is_said_where_no_message_will_link_to_a_report() {
        let said = |config: &Config| {
            let mut findings = Findings::default();
            configuration(&mut findings, config);
            findings.list.iter().any(|finding| finding.what.contains("evidence.public_url"))
        };
        let url = crate::model::settings::Secret::File("/nonexistent/url".into());
        let mut config = Config::default();
        assert!(!said(&config), "nobody is told anything");
        config.chats = vec![ChatSettings::new("slack", crate::model::settings::Channel::Slack { url })];
        assert!(said(&config));
        config.evidence.public_url = Some("https://flipback.example.com/incidents".parse().expect("a URL"));
        assert!(!said(&config));
    }

    #[tokio::test]
    async fn a_chat_without_its_file_is_wrong_and_names_no_secret() {
        let mut findings = Findings::default();
        let url = crate::model::settings::Secret::File("/nonexistent/url".into());
        let settings = ChatSettings::new("slack", crate::model::settings::Channel::Slack { url });
        chat(&mut findings, &settings, None).await;
        assert_eq!(findings.list[0].level, Level::Wrong);
        assert!(findings.list[0].what.contains("/nonexistent/url"));
    }
}
