//! `flipback backtest`: what the configured rules would have done, so that a guard is armed because somebody has seen it.
//!
//! Guards are judged one after the other, few at a time, each stretch by stretch: memory holds a few hours of a few guards, never a week
//! of all. Reading and judging go on side by side. Nothing is written but the answer.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use futures::{StreamExt as _, future::join, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Form, Global, HEALTHY, Output, UNAVAILABLE, UNKNOWN, chain,
    command::{self, resolve},
};
use crate::{
    backtest::{
        Backtest, Course, Expected, GuardReport, Origin, Report, Setup, Switch,
        course::{self, Crossing},
        page,
        report::Failed,
    },
    config::{Config, Flags},
    metrics::Metrics,
    model::{Color, GuardSpec, settings::Secret},
    observe::{History, ObserveError, Observer},
};

mod table;

/// Arguments of `flipback backtest`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback backtest --config flipback.toml --since 7d
  flipback backtest --since 30d --guard web --html report.html
  flipback backtest --since 7d --switches deploys.csv --bad-release shop/web=2026-11-18T14:05:00Z
  flipback backtest --since 24h --output json | jq '.guards[].events'

A file of switches has lines of guard,time,from,to[,release], or the same as JSON objects. Without one, switches are found where \
traffic moved from one color to another. docs/backtest.md says what each figure means.

Exit codes: 0 it ran, whatever it found; 2 interrupted, the answer is about what was judged by then; 64 the command line or the \
configuration is wrong; 69 Prometheus did not answer.")]
pub struct BacktestArgs {
    /// How far back, such as 7d or 36h
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "7d")]
    pub since: Duration,
    /// Where the past ends, such as 2026-11-21T06:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// Only this guard: its name, or its last part where only one guard has it; may be given several times
    #[arg(long, value_name = "GUARD")]
    pub guard: Vec<String>,
    /// Where traffic was switched: a file, or "auto" to find it in the metrics
    #[arg(long, value_name = "FILE|auto", default_value = "auto")]
    pub switches: String,
    /// A file of releases known to be bad (guard,time): a rollback of one is no false alarm
    #[arg(long, value_name = "FILE")]
    pub expected: Option<PathBuf>,
    /// A release known to be bad, by when it began; may be given several times
    #[arg(long, value_name = "[GUARD=]TIME", value_parser = course::bad_release)]
    pub bad_release: Vec<Expected>,
    /// Also write a page with charts, one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// The shortest past that can be judged: a few scrapes of a minute.
const SPAN_MIN: Duration = Duration::from_secs(10 * 60);

/// Guards judged at once: one is read while the other is judged.
const GUARDS_AT_ONCE: usize = 2;

/// A query over hours takes longer than the looks that the configured timeout is for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Step of the search for switches.
const COARSE: Duration = Duration::from_secs(60);

/// On both sides of a switch, when it is looked at closely.
const CLOSE: Duration = Duration::from_secs(180);

/// Switches of one guard that are looked at closely: more is no release but a load balancer.
const SWITCHES_MAX: usize = 200;

fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if span < SPAN_MIN {
        return Err("at least 10m are needed".to_owned());
    }
    Ok(span)
}

/// What is the same for every guard.
struct Task {
    observer: Observer,
    switches: Option<Vec<Switch>>,
    expected: Vec<Expected>,
    from: Timestamp,
    until: Timestamp,
    bar: ProgressBar,
    stop: CancellationToken,
}

/// Judges the past and prints what it found.
///
/// # Errors
/// [`Failure`] when the configuration or a file is wrong, or Prometheus does not answer at all.
pub async fn backtest(global: &Global, args: &BacktestArgs) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = global.load(Flags::default())?;
    let guards = chosen(&config, &args.guard)?;
    let until = args.until.unwrap_or_else(super::now);
    let from = until
        .saturating_sub(args.since)
        .map_err(|error| Failure::usage(format!("--since goes back beyond all time: {error}")))?;
    let task = Task {
        observer: observer(config, &guards)?,
        switches: file(args.switches.as_str()).map(|path| read(path, course::switches)).transpose()?,
        expected: expected(args)?,
        from,
        until,
        bar: bar(args.form.output, guards.len(), args.since),
        stop: CancellationToken::new(),
    };
    let interrupted = interruptible(&task.stop);
    let (reports, failed) = judge_all(&task, &guards).await;
    interrupted.abort();
    task.bar.finish_and_clear();
    let stopped = task.stop.is_cancelled();
    if reports.is_empty()
        && let Some(first) = failed.first()
    {
        return Err(Failure {
            code: UNAVAILABLE,
            message: first.why.clone(),
        });
    }
    let report = Report::new(from, until, reports, failed, !stopped);
    match args.form.output {
        Output::Json => command::print_json(&report),
        Output::Table => anstream::print!("{}", table::table(&report)),
    }
    if let Some(path) = &args.html {
        std::fs::write(path, page::page(&report))
            .map_err(|error| Failure::usage(format!("failed to write the page {}: {error}", path.display())))?;
    }
    Ok(match (stopped, report.failed.is_empty()) {
        (true, _) => UNKNOWN,
        (false, false) => UNAVAILABLE,
        (false, true) => HEALTHY,
    })
}

fn chosen(config: &Config, names: &[String]) -> Result<Vec<Arc<GuardSpec>>, Failure> {
    if config.guards.is_empty() {
        return Err(Failure::usage("the configuration has no guard"));
    }
    if names.is_empty() {
        return Ok(config.guards.clone());
    }
    let ids: Result<Vec<_>, _> = names
        .iter()
        .map(|name| resolve(config.guards.iter().map(|guard| &guard.id), name))
        .collect();
    let ids = ids.map_err(Failure::usage)?;
    Ok(config.guards.iter().filter(|guard| ids.contains(&guard.id)).cloned().collect())
}

fn observer(mut config: Config, guards: &[Arc<GuardSpec>]) -> Result<Observer, Failure> {
    for prometheus in config.clusters.iter_mut().filter_map(|cluster| cluster.prometheus.as_mut()) {
        prometheus.timeout = prometheus.timeout.max(TIMEOUT);
        // On this machine, compressing costs Prometheus more than half of its time and saves nothing.
        if is_here(&prometheus.url) {
            let plain = Secret::Value(SecretString::from("identity".to_owned()));
            prometheus.headers.entry("accept-encoding".to_owned()).or_insert(plain);
        }
    }
    let metrics = Metrics::new().map_err(|error| Failure::unknown(chain(&error)))?;
    Observer::new(guards, &config.clusters, config.probe_resolve, metrics).map_err(|error| Failure::unknown(chain(&error)))
}

fn is_here(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn file(switches: &str) -> Option<&Path> {
    (switches != "auto").then(|| Path::new(switches))
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, course::CourseError>) -> Result<T, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("failed to read {}: {error}", path.display())))?;
    parse(&text).map_err(|error| Failure::usage(format!("{}, {error}", path.display())))
}

fn expected(args: &BacktestArgs) -> Result<Vec<Expected>, Failure> {
    let mut expected = args.bad_release.clone();
    if let Some(path) = &args.expected {
        expected.extend(read(path, course::expected)?);
    }
    Ok(expected)
}

/// Progress on a terminal, for people; nothing else.
fn bar(output: Output, guards: usize, span: Duration) -> ProgressBar {
    let shown = output == Output::Table && std::io::stderr().is_terminal();
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:28} {percent:>3} %  {msg:24} about {eta} left").expect("invariant: a sound template");
    let bar = ProgressBar::with_draw_target(Some(guards as u64 * span.as_secs()), target).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Ctrl-C ends the reading, not the process: what is known is told.
fn interruptible(stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        if super::run::stop_signal().await.is_ok() {
            stop.cancel();
        }
    })
}

async fn judge_all(task: &Task, guards: &[Arc<GuardSpec>]) -> (Vec<GuardReport>, Vec<Failed>) {
    // Futures in a list: a borrowing closure's future is not provably Send.
    let mut running = Vec::with_capacity(guards.len());
    for spec in guards {
        running.push(judge(task, spec));
    }
    let mut answers = stream::iter(running).buffered(GUARDS_AT_ONCE);
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    while let Some((spec, answer)) = answers.next().await {
        match answer {
            Ok(Some(report)) => reports.push(report),
            Ok(None) => {}
            Err(error) => failed.push(Failed {
                guard: spec.id.clone(),
                why: chain(&error),
            }),
        }
    }
    (reports, failed)
}

async fn judge<'t>(task: &'t Task, spec: &'t Arc<GuardSpec>) -> (&'t Arc<GuardSpec>, Result<Option<GuardReport>, ObserveError>) {
    if task.stop.is_cancelled() {
        return (spec, Ok(None));
    }
    task.bar.set_message(spec.id.name().to_owned());
    (spec, past_of(task, spec).await)
}

/// Reads and judges one guard; `None` when it was interrupted before anything was known.
async fn past_of(task: &Task, spec: &Arc<GuardSpec>) -> Result<Option<GuardReport>, ObserveError> {
    let mut history = task.observer.history(&spec.id, task.from, task.until).await?;
    let prepared = tokio::select! {
        () = task.stop.cancelled() => return Ok(None),
        prepared = prepare(task, spec, &mut history) => prepared?,
    };
    let mut backtest = Backtest::new(prepared);
    let mut reached = task.from;
    let mut next = history.next().await?;
    while let Some(past) = next.take() {
        let to = past.to;
        let judging = tokio::task::spawn_blocking(move || {
            backtest.feed(&past);
            backtest
        });
        let reading = async {
            tokio::select! {
                () = task.stop.cancelled() => Ok(None),
                past = history.next() => past,
            }
        };
        let (read, judged) = join(reading, judging).await;
        // Judging never panics; should it, there is nothing to report of this guard.
        let Ok(judged) = judged else { return Ok(None) };
        backtest = judged;
        task.bar.inc(to.duration_since(reached).unsigned_abs().as_secs());
        reached = to;
        next = read?;
    }
    Ok(Some(backtest.finish()))
}

async fn prepare(task: &Task, spec: &Arc<GuardSpec>, history: &mut History<'_>) -> Result<Setup, ObserveError> {
    let surveys = history.survey().await?;
    let course = course_of(task, spec, history).await?;
    Ok(Setup {
        spec: spec.clone(),
        course,
        surveys,
        counted: history.counted(),
        expected: task.expected.clone(),
        from: task.from,
        until: task.until,
    })
}

/// Who had the traffic: as the file says, as an earlier flipback saw it, or as requests show.
async fn course_of(task: &Task, spec: &GuardSpec, history: &History<'_>) -> Result<Course, ObserveError> {
    let step = COARSE.max(history.step());
    let flow = history.flow(task.from, task.until, step).await?;
    let (holder, moved) = course::crossings(&flow);
    let first = holder.or_else(|| spec.colors.keys().next().cloned());
    let Some(first) = first else {
        return Ok(Course::still(Color::new("none").expect("invariant: a valid name")));
    };
    if let Some(switches) = &task.switches {
        return Ok(Course::of_file(switches, &spec.id, first, task.from, task.until));
    }
    let declared = history.declared(task.from, task.until, step).await?;
    let (told, changes) = course::changes(&declared, 1);
    if let Some(told) = told {
        let mut switches = Vec::new();
        for crossing in changes.into_iter().take(SWITCHES_MAX) {
            let close = history.declared(crossing.after, crossing.before, Duration::from_secs(1)).await?;
            let at = close
                .iter()
                .find(|(_, color)| *color == crossing.to)
                .map_or(crossing.before, |(at, _)| *at);
            switches.push(switch(spec, crossing, at));
        }
        return Ok(Course {
            origin: if switches.is_empty() { Origin::None } else { Origin::Flipback },
            first: told,
            switches,
        });
    }
    let mut switches = Vec::new();
    for crossing in moved.into_iter().take(SWITCHES_MAX) {
        let (from, until) = (crossing.after.saturating_sub(CLOSE), crossing.before.saturating_add(CLOSE));
        let (Ok(from), Ok(until)) = (from, until) else { continue };
        let close = history.flow(from.max(task.from), until.min(task.until), history.step()).await?;
        let at = course::refine(&crossing, &close, history.step());
        switches.push(switch(spec, crossing, at));
    }
    Ok(Course {
        origin: if switches.is_empty() { Origin::None } else { Origin::Traffic },
        first,
        switches,
    })
}

fn switch(spec: &GuardSpec, crossing: Crossing, at: Timestamp) -> Switch {
    Switch {
        guard: spec.id.clone(),
        at,
        from: Some(crossing.from),
        to: crossing.to,
        release: None,
    }
}
