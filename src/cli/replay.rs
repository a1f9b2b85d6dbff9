//! `flipback replay`: a trace judged again by the engine itself, look by look.
//!
//! It refuses to guess what a trace means: the first line that makes no sense ends it, named. What it prints is for
//! programs (one JSON object per look) or, with `--explain`, for people; the exit code says what the trace came to.

mod story;

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use clap::Args;

use super::Failure;
use crate::{
    decide::trace::{Exit, HEADER_BYTES_MAX, Header, Reader, TraceError, verdict},
    model::{Decision, Observation},
};
use story::Story;

/// The record of a decision, within an incident's folder.
const RECORD: &str = "decision.jsonl";

/// Arguments of `flipback replay`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:
  flipback replay trace.jsonl
  flipback replay /var/lib/flipback/incidents/shop.web_20261121T050042.123Z --explain
  kubectl exec flipback-0 -- cat /var/lib/flipback/incidents/ID/decision.jsonl | flipback replay -

Exit codes: 0 no rollback, 10 rollback, 11 suppressed or blocked, 2 the trace is wrong or cannot be read, 64 usage",
    after_long_help = "Examples:
  flipback replay trace.jsonl
  flipback replay /var/lib/flipback/incidents/shop.web_20261121T050042.123Z --explain
  kubectl exec flipback-0 -- cat /var/lib/flipback/incidents/ID/decision.jsonl | flipback replay -

One JSON object per look: {\"t\", \"rules\": {name: {\"outcome\", \"streak\", \"of\", \"bad\", \"total\"}}, \"events\", \"decision\", \"why\"}.
The format of a trace is explained in docs/trace-format.md.

Exit codes:
  0   no rollback
  10  a rollback
  11  a rollback that was suppressed or blocked
  2   the trace is wrong or cannot be read; standard error names the line
  64  the command line is wrong"
)]
pub struct ReplayArgs {
    /// The trace, an incident's folder that holds one, or "-" for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Go on after the first rollback, suppressed or blocked
    #[arg(long)]
    pub to_end: bool,
    /// Tell the story to a person instead of printing JSON
    #[arg(long)]
    pub explain: bool,
}

/// Replays a trace; the exit code says what it came to.
///
/// # Errors
/// [`Failure`] when the trace cannot be read or understood; names file and line.
pub fn replay(args: &ReplayArgs) -> Result<u8, Failure> {
    let (name, source) = open(&args.file)?;
    let failed = Rc::default();
    let exit = if args.explain {
        let story = Story::new(Watched {
            out: anstream::stdout().lock(),
            failed: Rc::clone(&failed),
        });
        play(&name, source, args.to_end, story)?
    } else {
        let lines = Lines(Watched {
            out: io::stdout().lock(),
            failed: Rc::clone(&failed),
        });
        play(&name, source, args.to_end, lines)?
    };
    match failed.take() {
        Some(error) => Err(Failure::unknown(format!("failed to write what was replayed: {error}"))),
        None => Ok(exit.code()),
    }
}

/// Opens what was named, and says how errors call it.
fn open(file: &Path) -> Result<(String, Box<dyn BufRead>), Failure> {
    if file.as_os_str() == "-" {
        return Ok(("-".to_owned(), Box::new(io::stdin().lock())));
    }
    let path = if file.is_dir() { file.join(RECORD) } else { file.to_owned() };
    let opened = File::open(&path).map_err(|error| {
        let folder = file.is_dir() && error.kind() == io::ErrorKind::NotFound;
        let hint = if folder {
            " (an incident that a person asked for has no record of a decision)"
        } else {
            ""
        };
        Failure::unknown(format!("failed to read {}: {error}{hint}", path.display()))
    })?;
    Ok((path.display().to_string(), Box::new(BufReader::new(opened))))
}

/// Feeds the engine line by line until something is decided, or to the end.
fn play(name: &str, mut source: impl BufRead, to_end: bool, mut teller: impl Teller) -> Result<Exit, Failure> {
    let mut reader = Reader::new();
    let mut engine = None;
    let (mut exit, mut number, mut line) = (Exit::default(), 0_usize, Vec::new());
    loop {
        number += 1;
        line.clear();
        // One byte more than any line has is enough to refuse it.
        let mut bounded = source.by_ref().take(HEADER_BYTES_MAX as u64 + 1);
        let read = bounded.read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::unknown(format!("{name}:{number}: failed to read: {error}")))? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let wrong = |error: TraceError| Failure::unknown(format!("{name}:{}: {}", error.line, error.fault));
        let Some(seen) = reader.line(&line).map_err(wrong)? else {
            continue;
        };
        let header = reader.finish().map_err(wrong)?;
        if engine.is_none() {
            teller.begin(header);
        }
        let decision = engine.get_or_insert_with(|| header.engine()).step(&seen);
        teller.look(header, &seen, &decision);
        exit = exit.max(Exit::of(&decision));
        if exit != Exit::Held && !to_end {
            break;
        }
    }
    let header = reader
        .finish()
        .map_err(|error| Failure::unknown(format!("{name}:{}: {}", error.line, error.fault)))?;
    teller.end(header, exit);
    Ok(exit)
}

/// Tells what happens. Whoever reads may go away (`| head`): the exit code is still right.
trait Teller {
    fn begin(&mut self, header: &Header);
    fn look(&mut self, header: &Header, seen: &Observation, decision: &Decision);
    fn end(&mut self, header: &Header, exit: Exit);
}

/// Remembers the first failure to write; that whoever reads went away (`| head`) is none.
struct Watched<W> {
    out: W,
    failed: Rc<Cell<Option<io::Error>>>,
}

impl<W> Watched<W> {
    fn note<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::BrokenPipe {
                let first = self.failed.take().unwrap_or(error);
                self.failed.set(Some(first));
            }
            kind.into()
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.out.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.out.flush();
        self.note(done)
    }
}

/// JSON, a line per look.
struct Lines<W>(W);

impl<W: Write> Teller for Lines<W> {
    fn begin(&mut self, _: &Header) {}

    fn look(&mut self, header: &Header, seen: &Observation, decision: &Decision) {
        let _ = writeln!(self.0, "{}", verdict(seen.at, header.zero(), decision));
    }

    fn end(&mut self, _: &Header, _: Exit) {
        let _ = self.0.flush();
    }
}
