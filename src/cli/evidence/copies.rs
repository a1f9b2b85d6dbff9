//! `flipback evidence copy`: to the second place, now.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use url::Url;

use super::{Site, Which, code, counted, print, size};
use crate::{
    cli::{
        Failure, Form, HEALTHY, Output, chain,
        command::note,
        paint::{self, styled},
    },
    evidence::copy,
    model::settings::CopySettings,
};

/// Arguments of `flipback evidence copy`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence copy
  flipback evidence copy last --again
  AWS_REGION=eu-central-1 flipback evidence copy --to s3://bucket/flipback

Without an incident, everything that is complete and not yet copied. Credentials come from the
configuration's options, else from the environment, as the tools of AWS, Google Cloud and Azure read it.
A running daemon with a copy configured does all this by itself.")]
pub struct CopyArgs {
    /// An id, a beginning that no other id has, or "last"; everything not yet copied when left out
    pub incident: Option<String>,
    /// With "last": of this guard
    pub guard: Option<String>,
    /// Where to: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder [default: the configuration's]
    #[arg(long, value_name = "URL")]
    pub to: Option<Url>,
    /// Copy every file, whatever was copied before
    #[arg(long)]
    pub again: bool,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

#[derive(Serialize)]
struct CopyAnswer {
    id: String,
    to: String,
    copied: bool,
    files: usize,
    bytes: u64,
    /// Files that were there already.
    had: usize,
    error: Option<String>,
}

/// Copies what is asked for.
pub(super) async fn copy(site: &Site, args: &CopyArgs) -> Result<u8, Failure> {
    let settings = match (&args.to, &site.settings.copy) {
        // The options of another place are not meant for this one.
        (Some(url), Some(copy)) if copy.url == *url => copy.clone(),
        (Some(url), _) => CopySettings {
            url: url.clone(),
            options: BTreeMap::new(),
        },
        (None, Some(copy)) => copy.clone(),
        (None, None) => return Err(Failure::usage("no second place is configured: --to URL names one")),
    };
    copy::check(&settings).map_err(|error| Failure::usage(chain(&error)))?;
    let to = copy::place(&settings);
    let asked = match &args.incident {
        Some(incident) => vec![site.one(&Which {
            incident: incident.clone(),
            guard: args.guard.clone(),
        })?],
        None => site.stock()?,
    };
    let wanted = asked.into_iter().rev().filter(|found| !found.kept.partial);
    let mut answers = Vec::new();
    for found in wanted.filter(|found| args.again || args.incident.is_some() || !copy::is_copied(&found.folder, &to)) {
        let copied = copy::copy(&found, &settings, args.again).await;
        let (sum, error) = match copied {
            Ok(sum) => (sum, None),
            Err(error) => (copy::Copied::default(), Some(chain(&error))),
        };
        let answer = CopyAnswer {
            id: found.kept.id,
            to: to.clone(),
            copied: error.is_none(),
            files: sum.files,
            bytes: sum.bytes,
            had: sum.had,
            error,
        };
        if args.form.output == Output::Table {
            anstream::println!("{}", line(&answer));
        }
        answers.push(answer);
    }
    let sound = answers.iter().all(|answer| answer.copied);
    if args.form.output == Output::Json {
        print(args.form, String::new, &answers);
    } else if answers.is_empty() {
        note(&format!("Everything is copied to {to} already."));
        return Ok(HEALTHY);
    }
    Ok(code(sound))
}

fn line(answer: &CopyAnswer) -> String {
    match &answer.error {
        Some(error) => format!("{}  {}  {error}", styled("not copied", paint::BAD), answer.id),
        None => format!(
            "{}  {}  {}",
            styled("copied", paint::GOOD),
            answer.id,
            styled(
                &format!("{}, {} to {}", counted(answer.files, "file"), size(answer.bytes), answer.to),
                paint::DIM
            )
        ),
    }
}
