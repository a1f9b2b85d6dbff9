//! Reads what lies in a bundle's folder, within bounds of bytes and time. What is missing or broken becomes a sentence of
//! the report and nothing worse; only `incident.json` must be there, for there is no story without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    change::Workload,
    lines::{Finds, LINE_BYTES_MAX, Source},
    pods::{Event, List, Meta, Owned, Pod},
    trace::Trace,
    words,
};
use crate::model::{Color, Series};

/// Bytes of one JSON file; a larger one is left alone.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of one line of the record: its header may carry the state of an engine.
const RECORD_LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Files looked for in one folder; a bundle has as many pods as the guard's bound allows.
const ENTRIES_MAX: usize = 2000;
/// Bytes of one log that are looked through, the newest.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of all logs.
const LOGS_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Time for all logs: the daemon has other work, and people wait for the bundle.
const LOGS_TIME_MAX: Duration = Duration::from_secs(5);
/// Lines between two looks at the clock.
const LINES_PER_CLOCK: u64 = 4096;

/// A bundle's folder.
pub(super) struct Folder<'f> {
    root: &'f Path,
    /// What could not be read.
    pub(super) problems: Vec<String>,
}

/// What is known of one color's cluster objects.
#[derive(Default)]
pub(super) struct Side {
    /// Its pods; `None`: not captured.
    pub(super) pods: Option<Vec<Pod>>,
    /// What runs it.
    pub(super) workload: Option<Workload>,
}

/// A log, for the list of all.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LogFile {
    /// The color's folder.
    pub(super) color: String,
    /// The pod's folder.
    pub(super) pod: String,
    /// The file's name: `app.log`, `app.previous.log`.
    pub(super) name: String,
    /// Its path within the bundle.
    pub(super) path: String,
    /// Its size, in bytes.
    pub(super) bytes: u64,
    /// The same in words.
    pub(super) size: String,
}

/// The logs, looked through.
pub(super) struct Logs {
    /// What was found.
    pub(super) finds: Finds,
    /// Every file.
    pub(super) files: Vec<LogFile>,
    /// The files of the second pass.
    pub(super) after: Vec<LogFile>,
    /// What was not looked at, in a sentence; empty: nothing.
    pub(super) skipped: String,
}

impl<'f> Folder<'f> {
    pub(super) fn new(root: &'f Path) -> Self {
        Self {
            root,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, name: &str, why: &dyn std::fmt::Display) {
        self.problems.push(format!("{name}: {}", words::line(&why.to_string(), 200)));
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    /// Names in a folder, sorted; none where it is missing.
    fn names(&mut self, folder: &str) -> Vec<String> {
        let list = || -> io::Result<Vec<String>> {
            let names = fs::read_dir(self.root.join(folder))?.take(ENTRIES_MAX);
            names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        match list() {
            Ok(mut names) => {
                names.sort();
                names
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.problem(folder, &error);
                }
                Vec::new()
            }
        }
    }

    /// A JSON file; `None` where it is missing, or broken, which is noted.
    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let read = || -> Result<T, String> {
            let file = File::open(self.root.join(name)).map_err(|error| error.to_string())?;
            let size = file.metadata().map_err(|error| error.to_string())?.len();
            if size > FILE_BYTES_MAX {
                return Err(format!(
                    "{} are too many for this report; the file itself is whole",
                    words::bytes(size)
                ));
            }
            serde_json::from_reader(BufReader::new(file.take(FILE_BYTES_MAX))).map_err(|error| format!("cannot be understood: {error}"))
        };
        if !self.has(name) {
            return None;
        }
        read().map_err(|why| self.problem(name, &why)).ok()
    }

    /// The record; an empty one where there is none.
    pub(super) fn trace(&mut self) -> Trace {
        const RECORD: &str = "decision.jsonl";
        let mut trace = Trace::default();
        let Ok(file) = File::open(self.root.join(RECORD)) else {
            return trace;
        };
        let (mut file, mut line) = (BufReader::new(file), Vec::new());
        loop {
            line.clear();
            match file.by_ref().take(RECORD_LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => trace.line(&line),
                Err(error) => {
                    self.problem(RECORD, &error);
                    break;
                }
            }
        }
        if trace.odd > 0 {
            let odd = format!("{} lines of it cannot be understood", trace.odd);
            self.problem(RECORD, &odd);
        }
        trace
    }

    /// Every series, those of the second pass included, each point once.
    pub(super) fn series(&mut self) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for folder in ["metrics", "after/metrics"] {
            for name in self.names(folder).into_iter().filter(|name| name.ends_with(".json")) {
                for one in self.json::<Vec<Series>>(&format!("{folder}/{name}")).unwrap_or_default() {
                    let same = |known: &&mut Series| (&known.rule, &known.color, &known.name) == (&one.rule, &one.color, &one.name);
                    match all.iter_mut().find(same) {
                        Some(known) => merge(known, one),
                        None => all.push(one),
                    }
                }
            }
        }
        all
    }

    /// What is known of a color; `below` is empty, or `after/` for the second pass.
    pub(super) fn side(&mut self, below: &str, color: &Color) -> Side {
        let segment = crate::model::file_segment(color.as_str());
        let pods: Option<List<Pod>> = self.json(&format!("{below}manifests/pods.{segment}.json"));
        let pods = pods.map(|list| list.items);
        let workload = if below.is_empty() {
            self.workload(&segment, pods.as_deref().unwrap_or_default())
        } else {
            None
        };
        Side { pods, workload }
    }

    /// What runs a color: the Deployment that owns its ReplicaSets, else the newest ReplicaSet of its pods.
    fn workload(&mut self, segment: &str, pods: &[Pod]) -> Option<Workload> {
        let sets = format!("manifests/replicasets.{segment}.json");
        let owned: Option<List<Owned>> = self.json(&sets);
        let owners = |metas: &mut dyn Iterator<Item = &Meta>, kind: &str| -> BTreeSet<String> {
            let owners = metas.flat_map(|meta| &meta.owner_references);
            owners.filter(|owner| owner.kind == kind).map(|owner| owner.name.clone()).collect()
        };
        let owned = owned.map(|list| list.items).unwrap_or_default();
        for name in owners(&mut owned.iter().map(|set| &set.metadata), "Deployment") {
            let file = format!("manifests/deployment.{}.json", crate::model::file_segment(&name));
            if let Some(deployment) = self.json::<Value>(&file) {
                return Some(of_template(file, deployment));
            }
        }
        let of_pods = owners(&mut pods.iter().map(|pod| &pod.metadata), "ReplicaSet");
        let mut list: List<Value> = self.json(&sets)?;
        let of_color = |set: &Value| set["metadata"]["name"].as_str().is_some_and(|name| of_pods.contains(name));
        let replicas = |set: &Value| set["spec"]["replicas"].as_u64().unwrap_or(0);
        let best = (0..list.items.len()).max_by_key(|n| (of_color(&list.items[*n]), replicas(&list.items[*n])))?;
        Some(of_template(sets, list.items.swap_remove(best)))
    }

    /// The cluster's events, of both passes; `None`: not captured.
    pub(super) fn events(&mut self) -> Option<Vec<Event>> {
        let first: Option<List<Event>> = self.json("events.json");
        let after: Option<List<Event>> = self.json("after/events.json");
        // The second pass sees what the first one saw, and more, unless the cluster has forgotten it.
        match (first, after) {
            (None, None) => None,
            (first, after) => {
                let (first, after) = (
                    first.map_or(Vec::new(), |list| list.items),
                    after.map_or(Vec::new(), |list| list.items),
                );
                let known: BTreeSet<String> = after.iter().map(|event| event.name().to_owned()).collect();
                let gone = first
                    .into_iter()
                    .filter(|event| event.name().is_empty() || !known.contains(event.name()));
                Some(gone.chain(after).collect())
            }
        }
    }

    /// Every log; those of the color that is left are looked through first, then the other's, within the bounds.
    pub(super) fn logs(&mut self, mut finds: Finds, from: &Color) -> Logs {
        let files = self.log_files("logs", from);
        let after = self.log_files("after/logs", from);
        let skipped = self.look_through(&files, &mut finds);
        Logs {
            finds,
            files,
            after,
            skipped,
        }
    }

    /// Every file of the logs below a folder, those of one color first.
    fn log_files(&mut self, below: &str, from: &Color) -> Vec<LogFile> {
        let from = crate::model::file_segment(from.as_str());
        let mut files = Vec::new();
        let mut colors = self.names(below);
        colors.sort_by_key(|color| *color != from);
        for color in colors {
            for pod in self.names(&format!("{below}/{color}")) {
                for name in self.names(&format!("{below}/{color}/{pod}")) {
                    let path = format!("{below}/{color}/{pod}/{name}");
                    let Ok(found) = fs::metadata(self.root.join(&path)) else { continue };
                    if found.is_file() {
                        let (color, pod, bytes) = (color.clone(), pod.clone(), found.len());
                        let size = words::bytes(bytes);
                        files.push(LogFile {
                            color,
                            pod,
                            name,
                            path,
                            bytes,
                            size,
                        });
                    }
                }
            }
        }
        files
    }

    fn look_through(&mut self, files: &[LogFile], finds: &mut Finds) -> String {
        let begun = Instant::now();
        let (mut room, mut cut, mut left) = (LOGS_BYTES_MAX, 0_u64, 0_u64);
        for file in files {
            if room == 0 || begun.elapsed() > LOGS_TIME_MAX {
                left += 1;
                continue;
            }
            let wanted = file.bytes.min(LOG_BYTES_MAX).min(room);
            room -= wanted;
            cut += u64::from(wanted < file.bytes);
            match read_tail(&self.root.join(&file.path), file, wanted, finds, begun) {
                Ok(true) => {}
                Ok(false) => left += 1,
                Err(error) => self.problem(&file.path, &error),
            }
        }
        let mut said = Vec::new();
        if cut > 0 {
            said.push(format!(
                "of {cut} long logs only the newest {} were looked through",
                words::bytes(LOG_BYTES_MAX)
            ));
        }
        if left > 0 {
            said.push(format!("{left} logs were not looked through to their end, for want of time"));
        }
        said.join("; ")
    }
}

impl LogFile {
    /// A path as a link's address: what a URL would understand as something else is written as its bytes.
    pub(super) fn href(path: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        let written = path.bytes().map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        });
        format!("./{}", written.collect::<String>())
    }
}

fn of_template(file: String, mut object: Value) -> Workload {
    Workload {
        file,
        replicas: object["spec"]["replicas"].as_u64(),
        template: object["spec"]["template"].take(),
    }
}

fn merge(known: &mut Series, more: Series) {
    let mut points: BTreeMap<Timestamp, f64> = known.points.iter().copied().collect();
    points.extend(more.points);
    known.points = points.into_iter().collect();
}

/// Looks through the last `wanted` bytes of a log; `false`: time ran out.
fn read_tail(path: &PathBuf, file: &LogFile, wanted: u64, finds: &mut Finds, begun: Instant) -> io::Result<bool> {
    let mut log = File::open(path)?;
    let skip = file.bytes - wanted;
    log.seek(SeekFrom::Start(skip))?;
    let mut log = BufReader::with_capacity(64 * 1024, log.take(wanted));
    let mut source = Source::new(&file.color, &file.path);
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    // What begins in its middle is no line.
    let mut whole = skip == 0;
    let mut lines = 0;
    while next_line(&mut log, &mut line)? {
        if std::mem::replace(&mut whole, true) {
            finds.line(&mut source, &line);
        }
        lines += 1;
        if lines % LINES_PER_CLOCK == 0 && begun.elapsed() > LOGS_TIME_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a line without its end, however long it is, into at most [`LINE_BYTES_MAX`] bytes; `false`: there is none.
fn next_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = log.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', line)?;
    match line.last() {
        Some(b'\n') => drop(line.pop()),
        Some(_) if read == LINE_BYTES_MAX => drop(log.skip_until(b'\n')?),
        _ => {}
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_megabyte_is_read_in_little_memory_and_the_next_one_is_whole() {
        let text = [b"x".repeat(1_000_000), b"\nshort\n\nlast".to_vec()].concat();
        let (mut log, mut line) = (BufReader::with_capacity(64, text.as_slice()), Vec::new());
        let mut lengths = Vec::new();
        while next_line(&mut log, &mut line).expect("memory") {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [LINE_BYTES_MAX, 5, 0, 4]);
        assert!(line.capacity() <= 2 * LINE_BYTES_MAX);
    }

    #[test]
    fn a_path_cannot_be_anything_but_a_path() {
        assert_eq!(LogFile::href("logs/green/web-1/app.log"), "./logs/green/web-1/app.log");
        assert_eq!(LogFile::href("javascript:alert(1)//#?%"), "./javascript%3Aalert%281%29//%23%3F%25");
    }
}
