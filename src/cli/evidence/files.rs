//! `flipback evidence export`, `verify`, `pin` and `unpin`.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{OneArgs, Site, Which, code, counted, failure, plain, print, size};
use crate::{
    cli::{
        Failure, Form, Output,
        command::{note, print_json},
        paint::{self, styled},
    },
    evidence::{
        export::{self, Replace},
        stock,
        verify::{self, Verified},
    },
};

/// How an archive's name ends.
const SUFFIX: &str = ".tar.zst";

/// Arguments of `flipback evidence export`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence export
  flipback evidence export last web --to /tmp/
  kubectl exec flipback-0 -- flipback evidence export last --to - > incident.tar.zst
  tar --zstd -xf incident.tar.zst")]
pub struct ExportArgs {
    /// The incident.
    #[command(flatten)]
    pub which: Which,
    /// A file, a folder, or "-" for standard output [default: ID.tar.zst here]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

#[derive(Serialize)]
struct ExportAnswer {
    id: String,
    path: PathBuf,
    files: usize,
    bytes: u64,
    packed_bytes: u64,
    /// Files that are not what `MANIFEST.sha256` says.
    unsound: Vec<String>,
}

/// Packs an incident.
pub(super) fn export(site: &Site, args: &ExportArgs) -> Result<u8, Failure> {
    let found = site.one(&args.which)?;
    if found.kept.partial {
        let id = &found.kept.id;
        return Err(Failure::usage(format!(
            "{id} is not complete: it is still being written, or the next start finishes it"
        )));
    }
    let name = format!("{}{SUFFIX}", found.kept.id);
    let streamed = args.to.as_deref() == Some(Path::new("-"));
    let path = match &args.to {
        Some(to) if to.is_dir() => to.join(name),
        Some(to) => to.clone(),
        None => PathBuf::from(name),
    };
    let exported = if streamed {
        let out = io::stdout().lock();
        if out.is_terminal() {
            return Err(Failure::usage("an archive is not written to a terminal: `--to FILE`, or pipe it"));
        }
        export::to_writer(&found, io::BufWriter::new(out))
    } else {
        let replace = if args.force { Replace::Yes } else { Replace::No };
        if replace == Replace::No && path.exists() {
            return Err(Failure::usage(format!("{} is there already: --force replaces it", path.display())));
        }
        export::to_file(&found, &path, replace)
    };
    let exported = exported.map_err(|error| failure(&error))?;
    let sound = exported.unsound.is_empty();
    let answer = ExportAnswer {
        id: found.kept.id,
        path,
        files: exported.files,
        bytes: exported.bytes,
        packed_bytes: exported.packed,
        unsound: exported.unsound,
    };
    let told = format!(
        "{}  {}, {} packed into {}",
        answer.path.display(),
        counted(answer.files, "file"),
        size(answer.bytes),
        size(answer.packed_bytes)
    );
    if streamed {
        note(&told);
    } else {
        print(args.form, || format!("{told}\n"), &answer);
    }
    if !sound {
        for file in &answer.unsound {
            note(&format!("not what MANIFEST.sha256 says: {}", plain(file)));
        }
        note("It was packed as it is; `flipback evidence verify` tells more.");
    }
    Ok(code(sound))
}

/// Arguments of `flipback evidence verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence verify
  flipback evidence verify last
  flipback evidence verify ./shop.web_20261121T041234.567Z.tar.zst

Exit codes: 0 all is as it was captured, 1 something is not")]
pub struct VerifyArgs {
    /// Incidents, folders or exported archives; all incidents when left out
    #[arg(value_name = "INCIDENT|PATH")]
    pub what: Vec<String>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// Verifies bundles and archives.
pub(super) fn verify(site: &Site, args: &VerifyArgs) -> Result<u8, Failure> {
    let places = if args.what.is_empty() {
        let whole = site.stock()?.into_iter().filter(|found| !found.kept.partial);
        whole.map(|found| found.folder).collect()
    } else {
        places(site, &args.what)?
    };
    let look = |path: &PathBuf| {
        if path.is_dir() {
            verify::folder(path)
        } else {
            verify::archive(path)
        }
    };
    let verified: Vec<Verified> = places.iter().map(look).collect::<Result<_, _>>().map_err(|error| failure(&error))?;
    let sound = verified.iter().all(Verified::is_whole);
    if verified.is_empty() && args.form.output == Output::Table {
        note(&format!("no incident is kept in {}", site.incidents.display()));
    } else {
        print(args.form, || verdicts(&verified), &verified);
    }
    Ok(code(sound))
}

/// The paths that are meant: a file or folder that exists, else an incident. `last GUARD` is two words.
fn places(site: &Site, what: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let mut places = Vec::new();
    let mut words = what.iter().peekable();
    while let Some(word) = words.next() {
        let is_path = word.contains('/') || word.ends_with(SUFFIX);
        if is_path && Path::new(word).exists() {
            places.push(PathBuf::from(word));
            continue;
        }
        let is_guard =
            |next: &&String| word == "last" && next.as_str() != "last" && !next.contains('_') && !Path::new(next.as_str()).exists();
        let which = Which {
            incident: word.clone(),
            guard: words.next_if(|next| is_guard(next)).cloned(),
        };
        places.push(site.one(&which)?.folder);
    }
    Ok(places)
}

fn verdicts(verified: &[Verified]) -> String {
    let mut out = String::new();
    for one in verified {
        let name = one
            .path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (verdict, style, sound) = if one.is_whole() {
            ("whole", paint::GOOD, "")
        } else {
            ("NOT AS CAPTURED", paint::BAD, " sound")
        };
        out.push_str(&format!(
            "{}  {}  {}\n",
            styled(verdict, style),
            plain(&name),
            styled(&format!("{}{sound}, {}", counted(one.sound, "file"), size(one.bytes)), paint::DIM)
        ));
        for problem in &one.problems {
            out.push_str(&format!("  {problem}\n"));
        }
    }
    out
}

/// Whether a pin is set or taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    On,
    Off,
}

#[derive(Serialize)]
struct PinAnswer {
    id: String,
    pinned: bool,
}

/// Pins or unpins an incident.
pub(super) fn pin(site: &Site, args: &OneArgs, pin: Pin) -> Result<u8, Failure> {
    let found = site.one(&args.which)?;
    let done = match pin {
        Pin::On => stock::pin(&found.folder),
        Pin::Off => stock::unpin(&found.folder),
    };
    done.map_err(|error| failure(&error))?;
    let answer = PinAnswer {
        id: found.kept.id,
        pinned: pin == Pin::On,
    };
    match (args.form.output, pin) {
        (Output::Json, _) => print_json(&answer),
        (Output::Table, Pin::On) => anstream::println!("{}: pinned, retention leaves it alone", answer.id),
        (Output::Table, Pin::Off) => anstream::println!("{}: no longer pinned", answer.id),
    }
    Ok(code(true))
}
