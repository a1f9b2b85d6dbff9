//! `flipback evidence report`: the report made anew from what lies in the folder, by this version.
//!
//! The daemon does so by itself whenever an incident changes. This is for bundles of an older flipback, for one whose
//! report could not be written, and for one that was copied here. Logs, metrics and the incident itself stay as they are;
//! `MANIFEST.sha256` follows.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Site, Which, code, failure, print};
use crate::{
    cli::{Failure, Form},
    evidence,
};

/// The page within a bundle.
const PAGE: &str = "report.html";

/// Arguments of `flipback evidence report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence report last
  flipback evidence report shop.web_20261121T0412 --output json

report.html, report.md, plot.png and timeline.json are made; what was captured is not touched.")]
pub struct ReportArgs {
    /// The incident.
    #[command(flatten)]
    pub which: Which,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

#[derive(Serialize)]
struct Made {
    id: String,
    path: PathBuf,
}

/// Makes a report anew; prints its path.
pub(super) fn report(site: &Site, args: &ReportArgs) -> Result<u8, Failure> {
    let found = site.one(&args.which)?;
    let id = found.kept.id;
    if found.kept.partial {
        return Err(Failure::usage(format!(
            "{id} is not complete: it is still being written, or the next start finishes it"
        )));
    }
    evidence::renew(&site.incidents, &id, &site.settings).map_err(|error| failure(&error))?;
    let path = found.folder.join(PAGE);
    let made = Made {
        id,
        path: std::path::absolute(&path).unwrap_or(path),
    };
    print(args.form, || format!("{}\n", made.path.display()), &made);
    Ok(code(true))
}
