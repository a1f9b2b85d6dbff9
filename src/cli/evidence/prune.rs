//! `flipback evidence prune`: the plan of retention, shown, then obeyed.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{Site, clock, code, counted, failure, plain, print, size};
use crate::{
    cli::{
        Failure, Form, HEALTHY, Output,
        command::note,
        paint::{self, Cell, columns, styled},
    },
    evidence::{
        retention::{self, Plan, Reason},
        stock::Kept,
    },
    model::settings::{EvidenceSettings, Retention},
};

/// Arguments of `flipback evidence prune`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  flipback evidence prune --dry-run
  flipback evidence prune --age 30d --yes
  flipback evidence prune --count 20 --bytes 500MiB --dry-run --output json

Never deleted: the newest incident of all and of each guard, pinned ones, one that is being written.
What awaits its copy is deleted only where bytes demand it.")]
pub struct PruneArgs {
    /// Show what would go and what would stay, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// At most so many incidents, in place of the configuration's
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u32>,
    /// None older than this, such as 30d, in place of the configuration's
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub age: Option<Duration>,
    /// At most so many bytes, such as 500MiB, in place of the configuration's
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub bytes: Option<u64>,
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
}

/// `500MiB`, `2 GB`, `1048576`.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err("expected a size such as 500MiB or 2GiB".to_owned()),
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "expected a size such as 500MiB or 2GiB".to_owned())
}

/// `90d`; what is not made of whole days in humantime's words.
fn age(age: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match age.as_secs() {
        seconds if seconds >= DAY && seconds % DAY == 0 && age.subsec_nanos() == 0 => format!("{}d", seconds / DAY),
        _ => humantime::format_duration(age).to_string(),
    }
}

#[derive(Serialize)]
struct One<'a, Why> {
    id: &'a str,
    guard: &'a str,
    at: Timestamp,
    bytes: u64,
    why: Why,
}

impl<'a, Why: Copy> One<'a, Why> {
    fn of((kept, why): &'a (Kept, Why)) -> Self {
        Self {
            id: &kept.id,
            guard: &kept.guard,
            at: kept.at,
            bytes: kept.bytes,
            why: *why,
        }
    }
}

#[derive(Serialize)]
struct PruneAnswer<'a> {
    dry_run: bool,
    delete: Vec<One<'a, Reason>>,
    keep: Vec<One<'a, retention::Stay>>,
    freed_bytes: u64,
    left_bytes: u64,
    /// Limits that what must stay exceeds.
    exceeded: Vec<Reason>,
    /// What the disk did not let go.
    failed: Vec<String>,
}

/// Shows the plan and obeys it.
pub(super) fn prune(site: &Site, args: &PruneArgs) -> Result<u8, Failure> {
    let now = crate::cli::now();
    let limits = Retention {
        count: args.count.unwrap_or(site.settings.retention.count),
        age: args.age.unwrap_or(site.settings.retention.age),
        bytes: args.bytes.unwrap_or(site.settings.retention.bytes),
    };
    let settings = EvidenceSettings {
        retention: limits,
        ..site.settings.clone()
    };
    let kept = retention::kept(&site.incidents, &settings).map_err(|error| failure(&error))?;
    let plan = retention::plan(&kept, &limits, now);
    let human = args.form.output == Output::Table;
    if human {
        anstream::print!("{}", table(&plan, &limits, now));
        if !site.configured {
            note("No configuration was read: limits that are not given are flipback's defaults.");
        }
    }
    let obey = !args.dry_run && !plan.delete.is_empty();
    if obey && !args.yes && !agreed(&plan)? {
        note("Nothing was deleted.");
        return Ok(HEALTHY);
    }
    let pruned = if obey {
        retention::recover(&site.incidents).map_err(|error| failure(&error))?;
        retention::obey(&site.incidents, &plan).map_err(|error| failure(&error))?
    } else {
        retention::Pruned::default()
    };
    let failed: Vec<String> = pruned.failed.iter().map(|(id, why)| format!("{id}: {why}")).collect();
    let sound = failed.is_empty();
    if human && obey {
        anstream::println!("\ndeleted {}, {}", counted(pruned.deleted.len(), "incident"), size(pruned.bytes));
        for line in &failed {
            anstream::eprintln!("{}", styled(line, paint::BAD));
        }
    } else if !human {
        let answer = PruneAnswer {
            dry_run: args.dry_run,
            delete: plan.delete.iter().map(One::of).collect(),
            keep: plan.keep.iter().map(One::of).collect(),
            freed_bytes: if args.dry_run { plan.freed() } else { pruned.bytes },
            left_bytes: plan.left(),
            exceeded: plan.exceeded(&limits, now),
            failed,
        };
        print(args.form, String::new, &answer);
    }
    Ok(code(sound))
}

/// Asks; where nobody can be asked, it needs `--yes`.
fn agreed(plan: &Plan) -> Result<bool, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("nobody can be asked here: --yes deletes, --dry-run only shows"));
    }
    anstream::eprint!(
        "\nDelete {}, {}? [y/N] ",
        counted(plan.delete.len(), "incident"),
        size(plan.freed())
    );
    let mut answer = String::new();
    // No answer is a no.
    let _ = io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn table(plan: &Plan, limits: &Retention, now: Timestamp) -> String {
    let mut out = format!(
        "{}  at most {}, none older than {}, at most {}\n",
        styled("LIMITS", paint::DIM),
        counted(limits.count as usize, "incident"),
        age(limits.age),
        size(limits.bytes),
    );
    let row = |kept: &Kept, why: String, style| {
        vec![
            Cell::plain(clock(kept.at)),
            Cell::new(plain(&kept.guard), paint::BOLD),
            Cell::plain(size(kept.bytes)),
            Cell::new(why, style),
            Cell::new(plain(&kept.id), paint::DIM),
        ]
    };
    let goes = |(kept, why): &(Kept, Reason)| {
        let lost = if kept.awaits_copy { ", and not copied yet" } else { "" };
        row(kept, format!("{why}{lost}"), paint::BAD)
    };
    let delete: Vec<_> = plan.delete.iter().map(goes).collect();
    let keep: Vec<_> = plan
        .keep
        .iter()
        .map(|(kept, why)| row(kept, why.to_string(), paint::PLAIN))
        .collect();
    for (title, style, rows, total) in [
        ("GOES", paint::BAD, delete, plan.freed()),
        ("STAYS", paint::GOOD, keep, plan.left()),
    ] {
        out.push_str(&format!(
            "\n{}  {}, {}\n",
            styled(title, style),
            counted(rows.len(), "incident"),
            size(total)
        ));
        out.push_str(&columns(&rows, 2));
    }
    let exceeded = plan.exceeded(limits, now);
    if !exceeded.is_empty() {
        let limits: Vec<String> = exceeded.iter().map(ToString::to_string).collect();
        let said = format!("Still {}: what stays here may not go.", limits.join(", "));
        out.push_str(&format!("\n{}\n", styled(&said, paint::WARN)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_of_days_is_told_in_days() {
        assert_eq!(age(Duration::from_secs(90 * 24 * 60 * 60)), "90d");
        assert_eq!(age(Duration::from_secs(36 * 60 * 60)), "1day 12h");
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(bytes("500MiB"), Ok(500 << 20));
        assert_eq!(bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        for wrong in ["", "MiB", "1 M", "-1", "99999999999GiB", "½ GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
