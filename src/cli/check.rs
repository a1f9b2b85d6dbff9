//! `flipback check`: is the configuration right, and does the world answer as it needs? Changes nothing, tells nobody (unless asked to).
//!
//! Each finding is one line with what to do. What is wrong here is what would be blind, refused or silent later, when it matters.

mod chat;
mod figures;
mod route;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::{
    BAD, Failure, Form, Global, HEALTHY, Output, USAGE, chain,
    command::{self, resolve},
    paint::{self, styled},
    standalone::{Rooms, may_write},
};
use crate::{
    cluster::{Cluster, lease},
    config::{Config, Flags},
    model::GuardSpec,
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
        chat::chat(&mut findings, chat, args.send_test.then_some(&guards)).await;
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
        let sides = route::route(findings, &about, spec, &**router);
        route::rights(findings, &about, spec, &**router).await;
        let reports = rooms.observer.inspect(&spec.id, now).await;
        for report in &reports {
            let is_active = sides.as_ref().is_none_or(|(active, _)| *active == report.color);
            let rule = spec.rules.iter().find(|rule| rule.name == report.rule);
            figures::query(findings, &about, report, rule, is_active);
        }
        if let Some((active, standby)) = &sides {
            figures::ratios(findings, &about, &spec.rules, &reports, active, standby);
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
