//! `flipback gate`: a timed judgement of one color, for pipelines.
//!
//! It needs no daemon: it opens the guard's cluster and Prometheus as the other commands do, looks once per poll, and hands what it sees
//! to the engine that the daemon runs. It ends as soon as the color is found bad, and otherwise when the time is up; an answer that
//! cannot be given is an answer too, with an exit code of its own. `docs/gate.md` is its contract.
//!
//! Reading order: [`trial`] (pure: what is seen becomes a finding), [`report`] and `junit` (the result), `progress`, and here the
//! edges: arguments, clock, signals, `--rollback`. Every wait is bounded, and a signal ends all but a flip that is under way.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueHint};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Daemon, Failure, Form, Global, HEALTHY, Output, UNKNOWN,
    command::{self, note, resolve},
    run::stop_signal,
    standalone::Rooms,
};
use crate::{
    config::{Config, Flags},
    model::{Color, Command, GuardSpec, Observation, View},
    router::Router,
};

mod junit;
mod progress;
mod report;
pub mod trial;

use self::{
    progress::Progress,
    report::{Report, Rollback, RollbackResult, Times},
    trial::{Asked, Cause, Finding, Position, Ruling, Subject, Trial},
};

/// The color is bad.
pub const BAD: u8 = 10;
/// It cannot be told.
pub const UNDECIDED: u8 = 11;

/// A cluster that answers nothing for so long at the start will not; a pipeline is told soon that its configuration is wrong.
const FIRST_VIEW: Duration = Duration::from_secs(30);
/// While the first view or the end of the delay is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The clock of a terminal.
const BEAT: Duration = Duration::from_secs(1);
/// Longer than this is the daemon's work.
const FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// Arguments of `flipback gate`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  kubectl apply -f green.yaml && flipback gate web --for 5m --delay 30s --rollback
  flipback gate web --color standby --for 2m --junit gate.xml      (before any user sees it)
  flipback gate web --output json | jq -r .why

Exit codes: 0 good, 10 bad, 11 undecided, 64 the command line or the configuration is wrong.")]
pub struct GateArgs {
    /// The guard: its name, or its last part where only one guard has it; may be left out where there is only one
    pub guard: Option<String>,
    /// Which color: "active", "standby" or a color's name
    #[arg(long, value_name = "COLOR", default_value = "active")]
    pub color: String,
    /// How long to judge, at most; a bad color ends it early
    #[arg(long = "for", value_name = "DURATION", default_value = "5m", value_parser = span)]
    pub time: Duration,
    /// Judge only what happens so long after the switch, or after now where the color is not active or nobody knows when it became so
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = delay)]
    pub delay: Duration,
    /// If the active color is bad, put traffic back, as `flipback rollback` does
    #[arg(long)]
    pub rollback: bool,
    /// Write the result as JUnit XML, one test case per rule
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// What commands share.
    #[command(flatten)]
    pub common: command::Common,
    /// Where the daemon is that --rollback asks.
    #[command(flatten)]
    pub daemon: Daemon,
}

fn delay(text: &str) -> Result<Duration, String> {
    if text.trim_end().ends_with('M') {
        return Err("\"M\" means months; minutes are \"m\"".to_owned());
    }
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like \"30s\" or \"5m\""))?;
    if time > FOR_MAX {
        return Err("more than 24h: for that long, let `flipback run` watch".to_owned());
    }
    Ok(time)
}

fn span(text: &str) -> Result<Duration, String> {
    let time = delay(text)?;
    if time.is_zero() {
        return Err("no time at all shows nothing".to_owned());
    }
    Ok(time)
}

/// The exit code of a finding.
#[must_use]
pub fn exit_code(finding: Finding) -> u8 {
    match finding {
        Finding::Good => HEALTHY,
        Finding::Bad => BAD,
        Finding::Undecided => UNDECIDED,
    }
}

/// Judges a color; the exit code says what was found.
///
/// # Errors
/// [`Failure`] when the command line or the configuration is wrong, or when nothing can be opened.
pub async fn gate(global: &Global, args: GateArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    // Nothing to judge with is undecided, never the exit code of another command's "cannot tell".
    judged(global, &args).await.map_err(|failure| Failure {
        code: if failure.code == UNKNOWN { UNDECIDED } else { failure.code },
        ..failure
    })
}

async fn judged(global: &Global, args: &GateArgs) -> Result<u8, Failure> {
    let config = global.load(Flags::default())?;
    let spec = chosen(&config, args.guard.as_deref())?;
    let asked = asked(&spec, args)?;
    for file in args.junit.iter().chain(&args.json) {
        must_have_a_folder(file)?;
    }
    warn_if_short(&spec, args.time);
    let stops = Stops::listen();
    let mut hearing = Hearing {
        spec: &spec,
        args,
        stops: &stops,
        progress: Progress::new(&spec.id),
        started: super::now(),
        judged_from: None,
        subject: None,
        trial: None,
    };
    let ruling = hearing.hold(&config, &asked).await?;
    let ended = super::now();
    hearing.progress.end();
    let mut report = hearing.report(&ruling, ended);
    if args.rollback && ruling.finding == Finding::Bad {
        report.rollback = Some(roll_back(config, args, &stops, &report, &ruling).await);
    }
    publish(args, &report);
    Ok(report.exit_code)
}

/// The guard that is meant.
fn chosen(config: &Config, given: Option<&str>) -> Result<Arc<GuardSpec>, Failure> {
    let ids = || config.guards.iter().map(|guard| &guard.id);
    let id = match (given, config.guards.as_slice()) {
        (Some(given), _) => resolve(ids(), given).map_err(Failure::usage)?,
        (None, [one]) => one.id.clone(),
        (None, guards) => {
            let names: Vec<&str> = guards.iter().map(|guard| guard.id.as_str()).collect();
            return Err(Failure::usage(format!("say which guard: there are {}", names.join(", "))));
        }
    };
    let spec = config.guards.iter().find(|guard| guard.id == id);
    spec.cloned().ok_or_else(|| Failure::usage(format!("no guard is called {id}")))
}

/// The color that is meant.
fn asked(spec: &GuardSpec, args: &GateArgs) -> Result<Asked, Failure> {
    match args.color.as_str() {
        "active" => Ok(Asked::Active),
        "standby" if args.rollback => Err(no_rollback("the standby color")),
        "standby" => Ok(Asked::Standby),
        name => match Color::new(name).ok().filter(|color| spec.colors.contains_key(color)) {
            Some(color) => Ok(Asked::Named(color)),
            None => {
                let known: Vec<&str> = spec.colors.keys().map(Color::as_str).collect();
                Err(Failure::usage(format!(
                    "{} has no color {name:?}; it has {}, and there are \"active\" and \"standby\"",
                    spec.id,
                    known.join(", ")
                )))
            }
        },
    }
}

fn no_rollback(who: &str) -> Failure {
    Failure::usage(format!(
        "--rollback moves traffic away from the active color, and {who} serves no users: leave --rollback out; the exit code alone keeps a bad color from being switched to"
    ))
}

/// A result that cannot be written is better known before the judgement than after it.
fn must_have_a_folder(file: &Path) -> Result<(), Failure> {
    let folder = folder(file);
    if folder.is_dir() && !file.is_dir() {
        Ok(())
    } else {
        Err(Failure::usage(format!(
            "{} cannot be written: {} is no folder",
            file.display(),
            folder.display()
        )))
    }
}

fn folder(file: &Path) -> &Path {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A baseline, and the verdicts that a rule needs, take their time; a pipeline that never decides should hear why.
fn warn_if_short(spec: &GuardSpec, time: Duration) {
    let policy = &spec.policy;
    let least = policy.poll.saturating_mul(policy.consecutive.saturating_add(1));
    if time < least {
        note(&format!(
            "{} are fewer than {} looks at a poll of {}: this can only end undecided.",
            humantime::format_duration(time),
            policy.consecutive.saturating_add(1),
            humantime::format_duration(policy.poll),
        ));
    }
}

/// SIGTERM or Ctrl-C: the first ends the judgement, the second also the wait for a flip under way.
struct Stops {
    first: CancellationToken,
    second: CancellationToken,
}

impl Stops {
    fn listen() -> Self {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let tokens = [first.clone(), second.clone()];
        tokio::spawn(async move {
            for token in tokens {
                if stop_signal().await.is_err() {
                    // The signal then ends the process as if nobody listened.
                    return;
                }
                token.cancel();
            }
        });
        Self { first, second }
    }
}

/// A judgement and what it needs.
struct Hearing<'a> {
    spec: &'a Arc<GuardSpec>,
    args: &'a GateArgs,
    stops: &'a Stops,
    progress: Progress,
    started: Timestamp,
    judged_from: Option<Timestamp>,
    subject: Option<Subject>,
    trial: Option<Trial>,
}

impl Hearing<'_> {
    fn report(&self, ruling: &Ruling, ended: Timestamp) -> Report {
        let subject = self.trial.as_ref().map(|trial| &trial.subject).or(self.subject.as_ref());
        let times = Times {
            started: self.started,
            judged_from: self.judged_from,
            ended,
            span: self.args.time,
        };
        Report::new(self.spec, subject, self.trial.as_ref(), ruling, times)
    }

    /// From the first view to the finding; what ends it early is a finding too.
    async fn hold(&mut self, config: &Config, asked: &Asked) -> Result<Ruling, Failure> {
        let stopped = self.stops.first.clone();
        let held = stopped.run_until_cancelled(self.uninterrupted(config, asked)).await;
        held.unwrap_or_else(|| {
            let why = "a signal ended the gate before its time was up";
            Ok(Ruling::undecided(Cause::Interrupted, why))
        })
    }

    async fn uninterrupted(&mut self, config: &Config, asked: &Asked) -> Result<Ruling, Failure> {
        self.progress.waits("opening the cluster and its Prometheus");
        let rooms = Rooms::open(config, std::slice::from_ref(self.spec)).await?;
        let Some((_, router)) = rooms.guards.first() else {
            return Err(Failure::usage(format!("the cluster of {} is not configured", self.spec.id)));
        };
        let mut subject = match self.first_view(router.as_ref(), asked).await {
            Ok(found) => found,
            Err(ruling) => return Ok(ruling),
        };
        if self.args.rollback && subject.position == Position::Standby {
            return Err(no_rollback(&format!("{} (standby)", subject.color)));
        }
        let waited = self.wait(router.as_ref(), &mut subject).await;
        self.subject = Some(subject.clone());
        if let Err(ruling) = waited {
            return Ok(ruling);
        }
        let began = super::now();
        self.judged_from = Some(began);
        self.trial = Some(Trial::new(self.spec, subject, began, self.args.time));
        Ok(self.judge(&rooms, router.as_ref()).await)
    }

    /// Who is judged.
    async fn first_view(&mut self, router: &dyn Router, asked: &Asked) -> Result<Subject, Ruling> {
        let patience = Instant::now() + FIRST_VIEW.min(self.args.time);
        loop {
            let why = match router.view() {
                View::Known(traffic) => return Ok(Subject::of(asked, &traffic)),
                View::UnknownColor { found, known } => {
                    let found = found.map_or("nothing".to_owned(), |found| format!("{found:?}"));
                    let why = format!(
                        "{} selects {found}, which is none of {}",
                        self.spec.route.object(),
                        known.join(", ")
                    );
                    return Err(Ruling::undecided(Cause::Unreadable, why));
                }
                View::Unreadable(why) => why,
            };
            if Instant::now() >= patience {
                return Err(Ruling::undecided(Cause::Unreadable, why));
            }
            self.progress.waits(&format!("waiting for the cluster: {why}"));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the delay after the switch is over.
    async fn wait(&mut self, router: &dyn Router, subject: &mut Subject) -> Result<(), Ruling> {
        let passed = subject
            .since
            .map_or(Duration::ZERO, |at| self.started.duration_since(at).try_into().unwrap_or_default());
        let until = Instant::now() + self.args.delay.saturating_sub(passed);
        loop {
            subject.follow(&router.view())?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.progress
                .waits(&format!("the judgement of {} begins in {} s", subject.color, left.as_secs() + 1));
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    /// Looks once per poll until there is a finding or the time is up.
    async fn judge(&mut self, rooms: &Rooms, router: &dyn Router) -> Ruling {
        let Some(trial) = &mut self.trial else {
            return Ruling::undecided(Cause::NotEnough, "nothing was judged");
        };
        let began = Instant::now();
        let (end, poll) = (began + self.args.time, self.spec.policy.poll);
        let mut next = began;
        loop {
            // Readings are bounded by their own deadline, four fifths of a poll.
            let views = [(self.spec.id.clone(), router.view())].into();
            let mut readings = rooms.observer.observe(&views, super::now()).await;
            let seen = Observation {
                at: super::now(),
                view: router.view(),
                readings: readings.remove(&self.spec.id).unwrap_or_default(),
                hold: None,
            };
            let ruling = trial.look(&seen);
            self.progress.shows(trial, began.elapsed(), self.args.time);
            if let Some(ruling) = ruling {
                return ruling;
            }
            if Instant::now() >= end {
                return trial.close(super::now());
            }
            next = (next + poll).max(Instant::now()).min(end);
            while Instant::now() < next {
                let beat = if self.progress.is_watched() {
                    next.min(Instant::now() + BEAT)
                } else {
                    next
                };
                tokio::time::sleep_until(beat).await;
                self.progress.shows(trial, began.elapsed(), self.args.time);
            }
        }
    }
}

/// Puts traffic back by the road of `flipback rollback`, and says what came of it.
async fn roll_back(config: Config, args: &GateArgs, stops: &Stops, report: &Report, ruling: &Ruling) -> Rollback {
    match ruling.cause {
        Cause::RolledBack => return Rollback::not(RollbackResult::RolledBackAlready, "somebody else was quicker"),
        Cause::FlipRefused => return Rollback::not(RollbackResult::Refused, ruling.why.clone()),
        _ => {}
    }
    let from = report.color.as_deref().and_then(|color| Color::new(color).ok());
    let by = format!("{} (flipback gate)", args.common.by());
    let why = ruling.why.clone();
    let asking = command::ask(Some(config), &args.daemon, report.guard.as_str(), |guard| {
        Ok(Command::Rollback {
            guard,
            from,
            by,
            reason: why,
            dry_run: false,
        })
    });
    tokio::pin!(asking);
    let unfinished = || {
        Rollback::not(
            RollbackResult::Failed,
            "the wait for it was ended by a signal: see `flipback status`",
        )
    };
    let answer = tokio::select! {
        answer = &mut asking => answer,
        () = stops.first.cancelled() => {
            note("Finishing the rollback; a second signal ends the wait for it.");
            tokio::select! {
                answer = asking => answer,
                () = stops.second.cancelled() => return unfinished(),
            }
        }
    };
    match answer {
        Ok(answer) => Rollback::of(&answer),
        Err(failure) => Rollback::not(RollbackResult::Failed, failure.to_string()),
    }
}

/// Prints the result and writes the files that were asked for.
fn publish(args: &GateArgs, report: &Report) {
    let Form { output } = args.common.form;
    match output {
        Output::Json => command::print_json(report),
        Output::Table => anstream::print!("{}", report.text()),
    }
    let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string());
    let wanted = [(&args.json, json.map(|text| text + "\n")), (&args.junit, junit::xml(report))];
    for (file, text) in wanted {
        let Some(file) = file else { continue };
        let written = text.and_then(|text| write(file, &text).map_err(|error| error.to_string()));
        if let Err(error) = written {
            // The finding stands, and so does its exit code.
            anstream::eprintln!("flipback: failed to write {}: {error}", file.display());
        }
    }
}

/// Writes a file whole or not at all.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut part = tempfile::Builder::new().prefix(".flipback-gate-").tempfile_in(folder(file))?;
    part.write_all(text.as_bytes())?;
    // A file of results is for whoever may read the folder, which a temporary one is not.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    part.as_file().set_permissions(readable)?;
    part.persist(file).map(|_| ()).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_no_months_and_no_time_is_no_judgement() {
        assert_eq!(span("5m"), Ok(Duration::from_secs(300)));
        assert!(span("5M").is_err_and(|why| why.contains("months")));
        assert!(span("0s").is_err_and(|why| why.contains("no time")));
        assert!(span("25h").is_err_and(|why| why.contains("24h")));
        assert!(span("5").is_err_and(|why| why.contains("30s")));
        assert_eq!(delay("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_result_needs_a_folder_to_lie_in() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(must_have_a_folder(&folder.path().join("gate.xml")).is_ok());
        assert!(must_have_a_folder(Path::new("gate.xml")).is_ok());
        assert!(must_have_a_folder(&folder.path().join("none/gate.xml")).is_err());
        assert!(must_have_a_folder(folder.path()).is_err(), "a folder is no file");
        write(&folder.path().join("gate.xml"), "<x/>").expect("writable");
        assert_eq!(std::fs::read_to_string(folder.path().join("gate.xml")).expect("there"), "<x/>");
    }
}
