//! A short, bounded fuzz run over the stored corpus (`fuzz/corpus/<target>/`), the same every time: each input is made
//! from the corpus by a seed of its own, by flipping, cutting, repeating, splicing and swapping words. cargo-fuzz, which
//! searches by coverage, runs the same targets (`docs/proof.md`).
//!
//! `FLIPBACK_FUZZ_SECONDS=600` runs longer (all targets together), `FLIPBACK_FUZZ_SEED=..` begins elsewhere. What fails
//! is written to `target/fuzz/`; add it to the corpus when it is mended.

use std::{
    any::Any,
    fs,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use flipback::fuzzing;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

/// One input may take so long; more is a hang, or on its way to one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Larger inputs only repeat themselves.
const BYTES_MAX: usize = 64 * 1024;
/// Ways in.
const TARGETS: u32 = 6;
/// Seconds for all targets together.
const SECONDS: u64 = 12;

/// Words that mean something to one target or another.
const WORDS: &[&str] = &[
    "NaN",
    "+Inf",
    "-Inf",
    "-1",
    "0",
    "-0",
    "1e309",
    "5e-324",
    "9007199254740993",
    "18446744073709551616",
    "1e-7",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "]]",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{feff}",
    "💥",
    "é",
    "\"",
    "\\",
    "\n",
    "\r\n",
    "=",
    ".",
    "-",
    "_",
    "__",
    "%",
    "5 %",
    "101 %",
    "0s",
    "5M",
    "5m",
    "1ns",
    "584942417355years",
    "../../etc/passwd",
    "status",
    "success",
    "error",
    "data",
    "result",
    "resultType",
    "vector",
    "matrix",
    "scalar",
    "histogram",
    "metric",
    "value",
    "values",
    "warnings",
    "infos",
    "flipback",
    "\"flipback\":\"0\"",
    "\"flipback\":\"7\"",
    "le",
    "+Inf",
    "Inf",
    "0.5",
    "1.0",
    "2.5",
    "job",
    "instance",
    "pod",
    "guards",
    "[[guards]]",
    "[guards.colors]",
    "[guards.policy]",
    "[guards.rules.x]",
    "kind",
    "error_rate",
    "availability",
    "latency",
    "promql",
    "throughput",
    "saturation",
    "probe",
    "endpoints",
    "threshold",
    "quantile",
    "preset",
    "custom",
    "total",
    "bad",
    "buckets",
    "expr",
    "max",
    "min",
    "windows",
    "mode",
    "classic",
    "namespace",
    "environment",
    "cluster",
    "{namespace}",
    "{deployment}",
    "{value}",
    "{nonsense}",
    "rollback",
    "switch",
    "pause",
    "resume",
    "command",
    "guard",
    "by",
    "reason",
    "dry_run",
    "FLIPBACK_GUARDS__WEB__MODE=monitor",
    "PROMETHEUS_URL=",
    "ERROR_RATE_THRESHOLD=NaN",
    "MONITOR_INTERVAL=-1",
    "flipback_trace",
    "\"t\":",
    "sample_at",
    "targets",
    "started",
    "unusable",
    "timeout",
    "policy",
    "rules",
    "ready",
    "GET",
    "HEAD",
    "POST",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "/api/v1/commands",
    "/api/v1/events",
    "/api/v1/guards/",
    "/incidents/",
    "/incidents/shop.web_1/",
    "%2e%2e/",
    "..%2f",
    "%00",
    "//",
    "*",
    "http://evil.example/",
    " HTTP/1.1",
    " HTTP/1.0",
    " HTTP/2.0",
    "Host: localhost",
    "Host: evil.example",
    "Origin: null",
    "Authorization: Bearer let-me-in",
    "Authorization: Bearer ",
    "Authorization: Basic let-me-in",
    "let-me-in",
    "let-me-inn",
    "Content-Type: application/json",
    "Content-Length: 0",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Connection: close",
    "Range: bytes=0-0,2-",
    "If-Modified-Since: ",
    "\r\n\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
];

#[test]
fn configuration_never_panics_and_every_refusal_names_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("flipback.toml");
    fuzz("configuration", &|input| fuzzing::configuration(input, &file));
}

#[test]
fn answers_of_prometheus_never_panic_and_give_only_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let guard = fuzzing::guard(&folder.path().join("flipback.toml"));
    fuzz("answer", &|input| fuzzing::answer(input, &guard));
}

#[test]
fn traces_never_panic_and_every_refusal_names_its_line() {
    fuzz("trace", &fuzzing::trace);
}

#[test]
fn commands_never_panic_and_every_refusal_names_its_place() {
    fuzz("command", &fuzzing::command);
}

#[test]
fn requests_never_panic_and_act_only_for_who_bears_the_token() {
    let server = fuzzing::server();
    fuzz("http", &|input| fuzzing::http(input, &server));
}

#[test]
fn whatever_comes_over_a_connection_the_next_one_is_served() {
    let server = fuzzing::server();
    fuzz("socket", &|input| fuzzing::socket(input, &server));
}

/// Plays the corpus as it is, then inputs made from it until the time is up.
fn fuzz(target: &str, contract: &dyn Fn(&[u8])) {
    let corpus = corpus(target);
    let began = Instant::now();
    for (name, input) in &corpus {
        try_one(target, name, input, contract);
    }
    let seconds = number("FLIPBACK_FUZZ_SECONDS").unwrap_or(SECONDS);
    let until = Duration::from_secs(seconds) / TARGETS;
    let from = number("FLIPBACK_FUZZ_SEED").unwrap_or(0);
    let mut seed = from;
    // At least some on the busiest machine; time is looked at once in a while.
    while seed - from < 200 || (!seed.is_multiple_of(16) || began.elapsed() < until) {
        let input = made(&corpus, seed);
        try_one(target, &format!("seed {seed}"), &input, contract);
        seed += 1;
    }
    let told = format!(
        "fuzz {target}: {} inputs from {} in the corpus, seeds {from} to {}\n",
        seed - from,
        corpus.len(),
        seed - 1
    );
    // Past libtest's capture: what was not run is not proven.
    std::io::stderr().write_all(told.as_bytes()).expect("standard error is open");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, found {text:?}")),
    )
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the corpus is readable").path())
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{} is empty", folder.display());
    let read = |file: PathBuf| (file.display().to_string(), fs::read(&file).expect("the corpus is readable"));
    files.into_iter().map(read).collect()
}

fn try_one(target: &str, name: &str, input: &[u8], contract: &dyn Fn(&[u8])) {
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| contract(input)));
    let took = began.elapsed();
    let why = match outcome {
        Err(panic) => said(panic.as_ref()),
        Ok(()) if took > PATIENCE => format!("took {took:?}"),
        Ok(()) => return,
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let file = folder.join(format!("{target}-{}", name.rsplit('/').next().unwrap_or(name).replace(' ', "-")));
    fs::create_dir_all(&folder).expect("target can be written to");
    fs::write(&file, input).expect("target can be written to");
    panic!("fuzz {target}, {name}: {why}\nthe input is {}", file.display());
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

/// The input of a seed.
fn made(corpus: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut input = corpus[chance.random_range(0..corpus.len())].1.clone();
    for _ in 0..chance.random_range(1..8) {
        let other = &corpus[chance.random_range(0..corpus.len())].1;
        change(&mut input, other, &mut chance);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], chance: &mut SmallRng) {
    let place = |input: &[u8], chance: &mut SmallRng| chance.random_range(0..=input.len());
    let (at, to) = (place(input, chance), place(input, chance));
    let (from, to) = (at.min(to), at.max(to));
    // A part of a line's length, more often than one of the whole.
    let to = if chance.random_bool(0.7) { to.min(from + 40) } else { to };
    let word = WORDS[chance.random_range(0..WORDS.len())].as_bytes();
    match chance.random_range(0..10) {
        0 if at < input.len() => input[at] ^= 1 << chance.random_range(0..8),
        1 if at < input.len() => input[at] = chance.random(),
        2 => input.truncate(at),
        3 => drop(input.drain(from..to)),
        4 => {
            let again = input[from..to].to_vec();
            input.splice(to..to, again);
        }
        5 => {
            let cut = place(other, chance);
            input.truncate(at);
            input.extend_from_slice(&other[cut..]);
        }
        6 => drop(input.splice(at..at, word.iter().copied())),
        7 => swap_token(input, word, chance),
        8 => swap_token(input, other_token(other, chance), chance),
        _ => drop(input.splice(from..to, word.iter().copied())),
    }
}

/// Puts a word in the place of a name or number.
fn swap_token(input: &mut Vec<u8>, word: &[u8], chance: &mut SmallRng) {
    if let Some((from, to)) = token(input, chance) {
        input.splice(from..to, word.iter().copied());
    }
}

fn other_token<'a>(other: &'a [u8], chance: &mut SmallRng) -> &'a [u8] {
    token(other, chance).map_or(&[], |(from, to)| &other[from..to])
}

/// A name or number around a place.
fn token(input: &[u8], chance: &mut SmallRng) -> Option<(usize, usize)> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(byte);
    let start = chance.random_range(0..=input.len());
    let from = start + input[start..].iter().position(is_word)?;
    let to = from + input[from..].iter().position(|byte| !is_word(byte)).unwrap_or(input.len() - from);
    Some((from, to))
}
