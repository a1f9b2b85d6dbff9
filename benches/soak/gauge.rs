//! What the daemon holds: memory, threads, descriptors, disk, series; as the kernel and its own `/metrics` tell.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

/// What the kernel counts processor time in: 1/100 s on every Linux (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Seconds since the first one.
    pub at: f64,
    /// Resident memory, MiB.
    pub rss: f64,
    /// Of it, what no file stands behind.
    pub anonymous: f64,
    /// Threads.
    pub threads: f64,
    /// Open descriptors: sockets, files, the rest (pipes, timers, the runtime's own).
    pub sockets: f64,
    /// Files.
    pub files: f64,
    /// The rest.
    pub others: f64,
    /// MiB below `incidents/`, `outbox/` and `audit/`.
    pub incidents: f64,
    /// The same.
    pub outbox: f64,
    /// The same.
    pub audit: f64,
    /// Lines of `/metrics` that are series.
    pub series: f64,
    /// Looks so far.
    pub looks: f64,
    /// Messages that wait.
    pub pending: f64,
    /// Seconds of processor time so far.
    pub cpu: f64,
}

/// Name and value of each column, in order.
type Column = (&'static str, fn(&Reading) -> f64);

/// What is written down.
pub const COLUMNS: [Column; 14] = [
    ("seconds", |one| one.at),
    ("rss_mib", |one| one.rss),
    ("anonymous_mib", |one| one.anonymous),
    ("threads", |one| one.threads),
    ("sockets", |one| one.sockets),
    ("files", |one| one.files),
    ("other_descriptors", |one| one.others),
    ("incidents_mib", |one| one.incidents),
    ("outbox_mib", |one| one.outbox),
    ("audit_mib", |one| one.audit),
    ("series", |one| one.series),
    ("looks", |one| one.looks),
    ("messages_pending", |one| one.pending),
    ("cpu_seconds", |one| one.cpu),
];

impl Reading {
    /// All descriptors.
    #[must_use]
    pub fn descriptors(&self) -> f64 {
        self.sockets + self.files + self.others
    }
}

/// Reads them.
#[derive(Debug)]
pub struct Gauge {
    process: PathBuf,
    data: PathBuf,
    begun: Instant,
}

impl Gauge {
    /// Of a process and its data folder.
    #[must_use]
    pub fn new(id: u32, data: PathBuf) -> Self {
        Self {
            process: PathBuf::from(format!("/proc/{id}")),
            data,
            begun: Instant::now(),
        }
    }

    /// Since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Reads everything; `metrics` is what the daemon exposes.
    #[must_use]
    pub fn read(&self, metrics: &BTreeMap<String, f64>) -> Reading {
        let text = fs::read_to_string(self.process.join("status")).unwrap_or_default();
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok())
                .unwrap_or(f64::NAN)
        };
        let (mut sockets, mut files, mut others) = (0.0, 0.0, 0.0);
        for entry in fs::read_dir(self.process.join("fd")).into_iter().flatten().flatten() {
            // Closed between the two looks: it is none.
            let Ok(to) = fs::read_link(entry.path()) else { continue };
            let to = to.to_string_lossy();
            if to.starts_with("socket:") {
                sockets += 1.0;
            } else if to.starts_with('/') {
                files += 1.0;
            } else {
                others += 1.0;
            }
        }
        let of = |name: &str| metrics.get(name).copied().unwrap_or(f64::NAN);
        let folder = |name: &str| bytes(&self.data.join(name)) as f64 / f64::from(1 << 20);
        Reading {
            at: self.begun.elapsed().as_secs_f64(),
            rss: number("VmRSS:") / 1024.0,
            anonymous: number("RssAnon:") / 1024.0,
            threads: number("Threads:"),
            sockets,
            files,
            others,
            incidents: folder("incidents"),
            outbox: folder("outbox"),
            audit: folder("audit"),
            series: metrics.len() as f64,
            looks: of("flipback_tick_duration_seconds_count"),
            pending: of("flipback_notifications_pending"),
            cpu: self.cpu(),
        }
    }

    fn cpu(&self) -> f64 {
        let text = fs::read_to_string(self.process.join("stat")).unwrap_or_default();
        // The second field is the name in parentheses and may hold anything; utime and stime are the 14th and 15th.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }
}

/// Bytes of all files below a folder; what vanishes meanwhile has none.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
