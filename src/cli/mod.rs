//! The command line: what is asked for, by whom, and what the exit code says.
//!
//! `run` and `demo` are the daemon; the other commands ask a running daemon over its API, and stand alone where there is none, on the
//! same road: same configuration, same rooms, same evidence. Which of the two answered is always said, on standard error; standard
//! output holds the answer and nothing else, so that `--output json` can be piped.
//!
//! Refuses to: read a secret from a flag, where every process of the machine could see it; act on a guess of which guard is meant.

use std::{ffi::OsString, fmt, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config, ConfigErrors, Flags, Sources},
    model::settings::LogFormat,
};

pub mod audit;
pub mod backtest;
pub mod check;
pub mod clear;
pub mod client;
pub mod command;
mod cores;
pub mod demo;
pub mod evidence;
mod follow;
pub mod gate;
pub mod history;
pub mod lift;
pub mod notify;
pub mod paint;
pub mod pause;
pub mod replay;
pub mod rollback;
pub mod run;
pub mod standalone;
pub mod status;
pub mod switch;

/// All is well; for a command: done.
pub const HEALTHY: u8 = 0;
/// Bad, or rolled back; for a command: not done.
pub const BAD: u8 = 1;
/// It cannot be told.
pub const UNKNOWN: u8 = 2;
/// `EX_USAGE`: the command line or the configuration is wrong.
pub const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: what is needed does not answer.
pub const UNAVAILABLE: u8 = 69;

const EXIT_CODES: &str = "Exit codes:
  0   healthy; for a command: done
  1   breaching or rolled back; for a command: refused or failed
  2   cannot tell: no usable data, nothing reachable, no answer
  10  gate: the color is bad; replay: it is rolled back
  11  gate: it cannot be told; replay: it is suppressed or blocked
  64  the command line or the configuration is wrong
  69  backtest: Prometheus does not answer

Configuration: defaults < file < environment (FLIPBACK_...) < flags; config/flipback.toml explains every key.";

/// Watches the live color of a blue-green deployment and puts traffic back when the release is bad.
#[derive(Debug, Parser)]
#[command(name = "flipback", version, after_long_help = EXIT_CODES, after_help = "Exit codes: 0 healthy, 1 bad, 2 cannot tell, 64 usage")]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands share.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The configuration file [default: ./flipback.toml, then /etc/flipback/flipback.toml]
    #[arg(
        long,
        short,
        global = true,
        env = "FLIPBACK_CONFIG",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Everywhere"
    )]
    pub config: Option<PathBuf>,
    /// What the log says, such as "debug" or "flipback=debug,kube=warn"
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Everywhere")]
    pub log: Option<String>,
}

/// The form of an answer, for the commands that give one.
#[derive(Clone, Copy, Debug, Args)]
pub struct Form {
    /// How the answer is printed
    #[arg(
        long,
        short,
        env = "FLIPBACK_OUTPUT",
        hide_env_values = true,
        value_enum,
        default_value_t,
        value_name = "FORM"
    )]
    pub output: Output,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
}

/// Where the daemon is, for the commands that ask one.
#[derive(Clone, Debug, Args)]
pub struct Daemon {
    /// The daemon's address, such as http://127.0.0.1:8080 [default: serve.listen of the configuration]
    #[arg(
        long,
        visible_alias = "server",
        env = "FLIPBACK_ADDRESS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub address: Option<String>,
    /// Ask no daemon: read and write the cluster from here
    #[arg(long, conflicts_with = "address")]
    pub alone: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch, until SIGTERM: the daemon
    Run(RunArgs),
    /// Show every guard, or one in detail
    Status(status::StatusArgs),
    /// Put traffic back on the standby color, now
    Rollback(rollback::RollbackArgs),
    /// Put traffic on a named color, now
    Switch(switch::SwitchArgs),
    /// Let no flip happen until resumed
    Pause(pause::PauseArgs),
    /// Let flips happen again
    Resume(pause::ResumeArgs),
    /// Let any number of guards flip for a while, past the blast radius
    Override(lift::OverrideArgs),
    /// Show what was done to a guard, by whom and why, which releases are bad, and what is left today
    History(history::HistoryArgs),
    /// Forget a bad release, or arm a guard again that has disarmed itself
    Clear(clear::ClearArgs),
    /// Judge one color for a while, for pipelines: 0 good, 10 bad, 11 undecided
    Gate(gate::GateArgs),
    /// Check the configuration, and whether the clusters and Prometheus servers answer as it needs
    Check(check::CheckArgs),
    /// Send samples of the messages to the chats, or list the chats
    Notify(notify::NotifyArgs),
    /// Judge a recorded or written history again, look by look
    Replay(replay::ReplayArgs),
    /// Judge the past: what would the rules have done?
    Backtest(backtest::BacktestArgs),
    /// Look at what rollbacks left behind; export, verify, pin, prune, copy it
    Evidence(evidence::EvidenceArgs),
    /// The journal of who did, decided or refused what: check it, show it
    #[command(subcommand, after_help = audit::HELP)]
    Audit(audit::AuditCommand),
    /// See it work: needs nothing but this program
    #[command(after_help = DEMO_HELP)]
    Demo(demo::DemoArgs),
    /// Print a script that completes commands in a shell
    #[command(after_help = "Example:\n  flipback completions bash > /etc/bash_completion.d/flipback")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

const DEMO_HELP: &str = "Examples:
  flipback demo
  flipback demo --scenario blip           (must not flip)
  flipback demo --keep                    (leaves the status page open)";

/// Arguments of `flipback run`: what it overrides.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback run --config flipback.toml
  flipback run --monitor-only --listen 127.0.0.1:9000")]
pub struct RunArgs {
    /// Decide, record and tell, and never write to the cluster
    #[arg(long)]
    pub monitor_only: bool,
    /// Where the status page, /metrics and the API listen
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where evidence and undelivered messages lie
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Time between two looks, such as 5s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub poll: Option<Duration>,
    /// Into how many shares several replicas divide the guards, each with a leader of its own
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// The form of the log
    #[arg(long, value_name = "FORM", value_parser = log_format)]
    pub log_format: Option<LogFormat>,
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".to_owned()),
    }
}

/// Why a command ended early: a sentence for standard error, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The sentence.
    pub message: String,
}

impl Failure {
    /// The command line or the configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// It cannot be told.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self {
            code: UNKNOWN,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::usage(errors.to_string())
    }
}

/// Parses, does, and answers with the exit code. Needs the TLS provider installed, makes its own runtime.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Err(error) = cores::forbid() {
        anstream::eprintln!("flipback: failed to turn core dumps off, which would hold secrets: {error}");
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are errors to clap, on standard output; a closed pipe is nothing to speak of.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { HEALTHY });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("flipback: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let answer = runtime.block_on(dispatch(cli));
    // A name lookup that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    answer.unwrap_or_else(|failure| {
        anstream::eprintln!("{}flipback:{} {failure}", paint::BAD.render(), paint::BAD.render_reset());
        ExitCode::from(failure.code)
    })
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    let code = match cli.command {
        Command::Run(args) => daemon(global, args).await?,
        Command::Status(args) => status::status(global, &args).await?,
        Command::Rollback(args) => rollback::rollback(global, args).await?,
        Command::Switch(args) => switch::switch(global, args).await?,
        Command::Pause(args) => pause::pause(global, args).await?,
        Command::Override(args) => lift::lift(global, args).await?,
        Command::Resume(args) => pause::resume(global, args).await?,
        Command::History(args) => history::history(global, args).await?,
        Command::Clear(args) => clear::clear(global, args).await?,
        Command::Gate(args) => gate::gate(global, args).await?,
        Command::Check(args) => check::check(global, &args).await?,
        Command::Notify(args) => notify::notify(global, &args).await?,
        Command::Replay(args) => replay::replay(&args)?,
        Command::Backtest(args) => backtest::backtest(global, &args).await?,
        Command::Evidence(args) => evidence::evidence(global, args).await?,
        Command::Audit(command) => audit::audit(global, &command)?,
        Command::Demo(args) => play(global, &args).await?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flipback", &mut script);
            printed(&script, "the completions")?
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(|error| Failure::unknown(format!("failed to make the manual page: {error}")))?;
            printed(&page, "the manual page")?
        }
    };
    Ok(ExitCode::from(code))
}

/// Prints a whole text; a reader such as `head` that has seen enough is no failure.
fn printed(text: &[u8], what: &str) -> Result<u8, Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::unknown(format!("failed to print {what}: {error}"))),
        _ => Ok(HEALTHY),
    }
}

/// `flipback run`.
async fn daemon(global: &Global, args: RunArgs) -> Result<u8, Failure> {
    let sources = global.sources(Flags {
        monitor_only: args.monitor_only,
        listen: args.listen,
        data_dir: args.data_dir,
        poll: args.poll,
        shards: args.shards,
        log_filter: None,
        log_format: args.log_format,
    });
    let config = config::load(&sources)?;
    crate::telemetry::init(&config.log).map_err(|error| Failure::usage(chain(&error)))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !config.variables.is_empty() {
        tracing::info!(variables = %config.variables.join(", "), "Obeying variables of other tools");
    }
    run::run(config, sources).await?;
    Ok(HEALTHY)
}

/// `flipback demo`: its daemon is started as `run` starts one.
async fn play(global: &Global, args: &demo::DemoArgs) -> Result<u8, Failure> {
    // The story tells what the log would; `--log` shows it besides.
    quiet_log(&Global {
        log: Some(global.log.clone().unwrap_or_else(|| "off".to_owned())),
        ..global.clone()
    });
    match demo::run(args, anstream::stdout()).await {
        Ok(true) => Ok(HEALTHY),
        Ok(false) => Ok(BAD),
        Err(error) => Err(Failure::unknown(chain(&error))),
    }
}

pub(crate) use crate::monitor::tell::chain;

/// Where the configuration lies when nobody says.
const PLACES: [&str; 2] = ["flipback.toml", "/etc/flipback/flipback.toml"];

impl Global {
    /// The configuration file: the one named, else the first of the usual places that exists.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.config
            .clone()
            .or_else(|| PLACES.iter().map(PathBuf::from).find(|place| place.exists()))
    }

    /// Loads the configuration with the flags of a command.
    ///
    /// # Errors
    /// [`ConfigErrors`] with everything that is wrong.
    pub fn load(&self, flags: Flags) -> Result<Config, ConfigErrors> {
        config::load(&self.sources(flags))
    }

    /// Where the configuration comes from, with the flags of a command.
    #[must_use]
    pub fn sources(&self, flags: Flags) -> Sources {
        Sources {
            file: self.file(),
            environment: environment(),
            flags: Flags {
                log_filter: self.log.clone().or(flags.log_filter.clone()),
                ..flags
            },
        }
    }
}

/// The environment, without what is no text: no variable of ours needs that.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The log of a command that is no daemon: warnings, on standard error, unless the configuration's filter was set by flag.
pub(crate) fn quiet_log(global: &Global) {
    let filter = global.log.clone().unwrap_or_else(|| "error".to_owned());
    let _ = crate::telemetry::init(&crate::model::settings::LogSettings {
        filter,
        ..crate::model::settings::LogSettings::default()
    });
}

/// The time, read where a command begins.
#[expect(clippy::disallowed_methods, reason = "an edge: commands read the clock here and nowhere else")]
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_people_use_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    /// The words of a command as a shell would split them; `None` where it holds what only a person fills in.
    fn words(command: &str) -> Option<Vec<String>> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for letter in command.chars() {
            match letter {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                letter => words.last_mut().expect("one at least").push(letter),
            }
        }
        let by_hand = |word: &String| word == "..." || word.contains(['{', '[', ']', '$', '|']);
        (!words.iter().skip(1).any(by_hand)).then_some(words)
    }

    /// What people are told to type is taken, wherever it is told.
    #[test]
    fn every_command_in_the_documents_can_be_typed() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = std::fs::read_dir(root.join("docs"))
            .expect("docs/ is there")
            .flatten()
            .map(|page| page.path());
        let pages = pages.filter(|page| page.extension().is_some_and(|end| end == "md"));
        let further = [
            "README.md",
            "alerts/flipback.rules.yaml",
            "config/flipback.toml",
            "deploy/monitor.yaml",
        ]
        .map(|file| root.join(file));
        let (mut tried, mut refused) = (0, Vec::new());
        for file in pages.chain(further) {
            let text = std::fs::read_to_string(&file).expect("readable");
            // What stands in a fence is copied as it stands, and what is said of it follows after two blanks; what stands in backticks may be
            // a command's name, without what it needs.
            let fenced = text.split("```").skip(1).step_by(2).flat_map(str::lines);
            let fenced = fenced.filter_map(|line| line.trim().split("  ").next()).map(|told| (told, true));
            let marked = text.split('`').filter(|part| !part.contains('\n')).map(|told| (told, false));
            for (told, whole) in fenced.chain(marked).filter(|(told, _)| told.starts_with("flipback ")) {
                let told = told
                    .split(" #")
                    .next()
                    .unwrap_or_default()
                    .replace("{{ $labels.guard }}", "shop/web");
                let command = told.split(" | ").next().unwrap_or_default().replace(" SHELL", " bash");
                let Some(words) = words(command.trim_end()) else { continue };
                tried += 1;
                let lacks = |kind| {
                    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand};
                    matches!(
                        kind,
                        MissingRequiredArgument | MissingSubcommand | DisplayHelpOnMissingArgumentOrSubcommand
                    )
                };
                if let Err(error) = Cli::try_parse_from(&words)
                    && (whole || !lacks(error.kind()))
                {
                    refused.push(format!("{}: {told}\n{error}", file.display()));
                }
            }
        }
        assert!(tried > 60, "only {tried} were found");
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }

    #[test]
    fn help_is_what_people_read() {
        let mut all = Cli::command().term_width(100).render_long_help().to_string();
        for command in Cli::command().get_subcommands_mut() {
            all.push_str(&format!("\n=== {}\n", command.get_name()));
            all.push_str(&command.clone().term_width(100).render_long_help().to_string());
        }
        let trimmed: Vec<&str> = all.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(trimmed.join("\n"));
    }
}
