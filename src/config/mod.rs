//! File, environment and flags, checked as a whole before anything is done: [`load`] gives a [`Config`] that needs no further look,
//! or every problem at once.
//!
//! Layers: defaults < file < environment < flags. The sources are laid over each other with figment (`layers`), which keeps where each
//! value came from; readers (`raw`) turn values into quantities and note what is wrong; `check` and the modules it calls give them their
//! meaning. The defaults are the model's `Default`s and the constants of `rule`, `scalar` and `probe`; `config/flipback.toml` repeats them
//! for people, and a test keeps it equal.
//!
//! Refuses to: ask a live server anything (that is `flipback check`), take a secret from the file itself, guess a unit.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use figment::value::Value;

use crate::model::{
    GuardSpec,
    settings::{
        AuditSettings, BlastRadius, ChatSettings, ClusterSettings, EvidenceSettings, LogFormat, LogSettings, ReplicaSettings, ServeSettings,
    },
};

mod channel;
mod chat;
mod check;
mod cluster;
mod color;
mod duration;
mod environment;
mod error;
mod evidence;
mod expression;
mod fingerprint;
mod guard;
mod layers;
mod maintenance;
mod policy;
mod probe;
mod raw;
mod replicas;
mod rule;
mod scalar;
mod selector;
mod store;
mod templates;
#[cfg(test)]
mod tests;

pub use error::{ConfigErrors, Origin, Problem};
pub use fingerprint::Fingerprint;

/// Everything flipback needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The clusters, at least one.
    pub clusters: Vec<ClusterSettings>,
    /// The guards, in the file's order.
    pub guards: Vec<Arc<GuardSpec>>,
    /// The chats.
    pub chats: Vec<ChatSettings>,
    /// What holds for the evidence of all guards.
    pub evidence: EvidenceSettings,
    /// The audit journal.
    pub audit: AuditSettings,
    /// Our own HTTP server.
    pub serve: ServeSettings,
    /// Where evidence and undelivered messages lie.
    pub data_dir: PathBuf,
    /// How many guards may flip within a time.
    pub blast_radius: BlastRadius,
    /// How this daemon shares the guards with others; `None`: it is the only one.
    pub replicas: Option<ReplicaSettings>,
    /// Time between two looks; one for all guards, whose queries are batched.
    pub poll: Duration,
    /// Addresses that probes use in place of the ones they would (`address:port` or `address`).
    pub probe_resolve: BTreeMap<String, SocketAddr>,
    /// The log.
    pub log: LogSettings,
    /// The file it came from.
    pub origin: Option<PathBuf>,
    /// Short hash of the file's text and of what it names, as it was when it was read.
    pub hash: String,
    /// What is no error and yet unlikely to be meant, one sentence each.
    pub warnings: Vec<String>,
    /// Environment variables of other tools' making that were obeyed.
    pub variables: Vec<String>,
}

/// Where configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; `None`: environment and flags alone.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// What the command line overrides.
    pub flags: Flags,
}

/// What the command line overrides; what is `None` or `false` is left as it is.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// No guard may flip.
    pub monitor_only: bool,
    /// Where our server listens.
    pub listen: Option<SocketAddr>,
    /// Where evidence lies.
    pub data_dir: Option<PathBuf>,
    /// Time between two looks.
    pub poll: Option<Duration>,
    /// Into how many shares replicas divide the guards.
    pub shards: Option<u32>,
    /// The log's filter.
    pub log_filter: Option<String>,
    /// The log's form.
    pub log_format: Option<LogFormat>,
}

impl Flags {
    /// Each given flag with its key and value.
    fn values(&self) -> Vec<(&'static str, &'static str, Value)> {
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        });
        [
            self.monitor_only.then(|| ("--monitor-only", "monitor_only", Value::from(true))),
            self.listen
                .map(|address| ("--listen", "serve.listen", Value::from(address.to_string()))),
            self.data_dir
                .as_ref()
                .map(|path| ("--data-dir", "data_dir", Value::from(path.to_string_lossy().into_owned()))),
            self.poll.map(|poll| ("--poll", "poll", Value::from(duration::print(poll)))),
            self.shards.map(|shards| ("--shards", "replicas.shards", Value::from(shards))),
            self.log_filter
                .as_ref()
                .map(|filter| ("--log", "log.filter", Value::from(filter.clone()))),
            format.map(|format| ("--log-format", "log.format", Value::from(format))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How long a read from a cluster may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the flip's patch may take; an accepted one takes milliseconds.
const FLIP_TIMEOUT: Duration = Duration::from_secs(5);
/// Where state lies: what systemd's `StateDirectory=flipback` and the volume of `deploy/monitor.yaml` give.
const DATA_DIR: &str = "/var/lib/flipback";
/// The port of our server, on loopback unless told otherwise.
const PORT: u16 = 8080;

impl Default for Config {
    /// What an empty file means: one inferred cluster, nothing guarded.
    fn default() -> Self {
        Self {
            clusters: vec![ClusterSettings {
                read_timeout: READ_TIMEOUT,
                flip_timeout: FLIP_TIMEOUT,
                ..ClusterSettings::default()
            }],
            guards: Vec::new(),
            chats: Vec::new(),
            evidence: EvidenceSettings::default(),
            audit: AuditSettings::default(),
            serve: ServeSettings {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
                token: None,
                evidence: None,
            },
            data_dir: PathBuf::from(DATA_DIR),
            blast_radius: BlastRadius::default(),
            replicas: None,
            poll: crate::model::Policy::default().poll,
            probe_resolve: BTreeMap::new(),
            log: LogSettings::default(),
            origin: None,
            hash: String::new(),
            warnings: Vec::new(),
            variables: Vec::new(),
        }
    }
}

/// Reads and checks everything.
///
/// # Errors
/// [`ConfigErrors`] with every problem found; exit code 64 is customary.
pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    let problems = error::Problems::default();
    // Read first: what changes while the rest is read is a change.
    let hash = Fingerprint::of(sources.file.as_deref()).short();
    let config = check::assemble(sources, &problems);
    problems.finish().map(|()| Config { hash, ..config })
}
