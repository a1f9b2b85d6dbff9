//! How much evidence is kept. [`plan`] is pure and says what goes, why, and why the rest stays; [`enforce`] obeys it.
//!
//! Principles:
//! - Never deleted: the newest bundle, the newest of each guard, a pinned one, one that is being written. A limit that these
//!   exceed is exceeded, and the plan says so.
//! - A bundle that awaits its copy outlives `count` and `age`: a store that is down must not cost evidence. It does not
//!   outlive `bytes`: a full disk would cost the evidence of the *next* incident. Others go first even then.
//! - Oldest first. What was planned once leaves nothing to plan: obeying is idempotent.
//! - A bundle is renamed to a hidden name before anything in it is removed: a crash leaves it whole or gone, never half of
//!   it under its name. What hidden folders a crash left is removed by the next [`enforce`], [`regain`] or [`recover`].

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tracing::{info, warn};

use super::{
    copy,
    disk::{EvidenceError, LEAVING, failed, sync_folder},
    stock::{Kept, PINNED, stock},
};
use crate::model::settings::{EvidenceSettings, Retention};

/// What a full disk must give back: one bundle at its largest.
const REGAINED_BYTES: u64 = 64 * 1024 * 1024;

/// Why a bundle goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is older than `age`.
    Age,
    /// There are more than `count`.
    Count,
    /// All of them have more than `bytes`.
    Bytes,
    /// The disk is full.
    DiskFull,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Age => "over age",
            Self::Count => "over count",
            Self::Bytes => "over bytes",
            Self::DiskFull => "disk full",
        })
    }
}

/// Why a bundle stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stay {
    /// A person wants it kept.
    Pinned,
    /// It is being written.
    Unfinished,
    /// It is the newest of all.
    Newest,
    /// It is its guard's newest.
    NewestOfGuard,
    /// Its copy is not made yet, and `bytes` does not need its room.
    AwaitsCopy,
    /// It is within all limits.
    WithinLimits,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Unfinished => "being written",
            Self::Newest => "the newest",
            Self::NewestOfGuard => "the newest of its guard",
            Self::AwaitsCopy => "awaits its copy",
            Self::WithinLimits => "within limits",
        })
    }
}

/// What goes and what stays, both oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes, and why.
    pub delete: Vec<(Kept, Reason)>,
    /// What stays, and why.
    pub keep: Vec<(Kept, Stay)>,
}

impl Plan {
    /// Bytes that go.
    #[must_use]
    pub fn freed(&self) -> u64 {
        sum(self.delete.iter().map(|(one, _)| one))
    }

    /// Bytes that stay.
    #[must_use]
    pub fn left(&self) -> u64 {
        sum(self.keep.iter().map(|(one, _)| one))
    }

    /// Limits that what must stay exceeds.
    #[must_use]
    pub fn exceeded(&self, retention: &Retention, now: Timestamp) -> Vec<Reason> {
        let whole = || self.keep.iter().map(|(one, _)| one).filter(|one| !one.partial);
        let limits = [
            (Reason::Age, whole().any(|one| is_old(one, retention, now))),
            (Reason::Count, whole().count() > retention.count as usize),
            (Reason::Bytes, self.left() > retention.bytes),
        ];
        limits.into_iter().filter(|(_, over)| *over).map(|(reason, _)| reason).collect()
    }
}

fn sum<'a>(bundles: impl Iterator<Item = &'a Kept>) -> u64 {
    bundles.fold(0, |sum, one| sum.saturating_add(one.bytes))
}

fn is_old(bundle: &Kept, retention: &Retention, now: Timestamp) -> bool {
    let age = SignedDuration::try_from(retention.age).unwrap_or(SignedDuration::MAX);
    now.duration_since(bundle.at) > age
}

/// The bundles in the order they go, and what keeps each.
struct Sorting {
    /// Oldest first.
    bundles: Vec<Kept>,
    /// What may never go by a limit.
    held: Vec<Option<Stay>>,
    gone: Vec<Option<Reason>>,
}

impl Sorting {
    fn new(bundles: &[Kept]) -> Self {
        let mut bundles = bundles.to_vec();
        bundles.sort_by(|a, b| (a.at, &a.id, a.partial).cmp(&(b.at, &b.id, b.partial)));
        let newest = bundles.iter().rposition(|one| !one.partial);
        let mut newest_of: BTreeMap<&str, usize> = BTreeMap::new();
        for (n, one) in bundles.iter().enumerate().filter(|(_, one)| !one.partial) {
            newest_of.insert(&one.guard, n);
        }
        let held = bundles.iter().enumerate().map(|(n, one)| match one {
            _ if one.pinned => Some(Stay::Pinned),
            _ if one.partial => Some(Stay::Unfinished),
            _ if newest == Some(n) => Some(Stay::Newest),
            _ => (newest_of.get(one.guard.as_str()) == Some(&n)).then_some(Stay::NewestOfGuard),
        });
        let held = held.collect();
        Self {
            gone: vec![None; bundles.len()],
            held,
            bundles,
        }
    }

    /// The oldest that is still there and may go.
    fn oldest(&self, may: impl Fn(&Kept, Option<Stay>) -> bool) -> Option<usize> {
        (0..self.bundles.len()).find(|&n| self.gone[n].is_none() && may(&self.bundles[n], self.held[n]))
    }

    fn staying(&self) -> impl Iterator<Item = &Kept> {
        let gone = self.gone.iter();
        self.bundles.iter().zip(gone).filter(|(_, gone)| gone.is_none()).map(|(one, _)| one)
    }

    fn plan(self) -> Plan {
        let mut plan = Plan::default();
        for ((one, held), gone) in self.bundles.into_iter().zip(self.held).zip(self.gone) {
            match gone {
                Some(reason) => plan.delete.push((one, reason)),
                None => {
                    let free = if one.awaits_copy { Stay::AwaitsCopy } else { Stay::WithinLimits };
                    plan.keep.push((one, held.unwrap_or(free)));
                }
            }
        }
        plan
    }
}

/// What goes and what stays; pure.
#[must_use]
pub fn plan(bundles: &[Kept], retention: &Retention, now: Timestamp) -> Plan {
    let mut sorting = Sorting::new(bundles);
    let copied = |one: &Kept, held: Option<Stay>| held.is_none() && !one.awaits_copy;
    while let Some(n) = sorting.oldest(|one, held| copied(one, held) && is_old(one, retention, now)) {
        sorting.gone[n] = Some(Reason::Age);
    }
    let mut count = sorting.staying().filter(|one| !one.partial).count();
    while count > retention.count as usize
        && let Some(n) = sorting.oldest(copied)
    {
        sorting.gone[n] = Some(Reason::Count);
        count -= 1;
    }
    let mut bytes = sum(sorting.staying());
    while bytes > retention.bytes
        && let Some(n) = sorting.oldest(copied).or_else(|| sorting.oldest(|_, held| held.is_none()))
    {
        sorting.gone[n] = Some(Reason::Bytes);
        bytes -= sorting.bundles[n].bytes;
    }
    sorting.plan()
}

/// What goes so that `wanted` bytes are free on a full disk; pure. Oldest first: what is copied, then what awaits its copy,
/// then the newest of other guards. The newest of all, what is pinned and what is being written stay.
#[must_use]
pub fn plan_room(bundles: &[Kept], wanted: u64) -> Plan {
    let mut sorting = Sorting::new(bundles);
    let mut freed = 0_u64;
    while freed < wanted {
        let next = sorting
            .oldest(|one, held| held.is_none() && !one.awaits_copy)
            .or_else(|| sorting.oldest(|_, held| held.is_none()))
            .or_else(|| sorting.oldest(|_, held| held == Some(Stay::NewestOfGuard)));
        let Some(n) = next else { break };
        sorting.gone[n] = Some(Reason::DiskFull);
        freed = freed.saturating_add(sorting.bundles[n].bytes);
    }
    sorting.plan()
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Which bundles, and why.
    pub deleted: Vec<(Kept, Reason)>,
    /// Their bytes.
    pub bytes: u64,
    /// Bundles that the disk did not let go, and why.
    pub failed: Vec<(String, String)>,
}

/// Deletes what exceeds the limits.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents cannot be listed. A bundle that cannot be deleted is no error: it is named.
pub fn enforce(incidents: &Path, settings: &EvidenceSettings, now: Timestamp) -> Result<Pruned, EvidenceError> {
    recover(incidents)?;
    let plan = plan(&kept(incidents, settings)?, &settings.retention, now);
    let exceeded = plan.exceeded(&settings.retention, now);
    let pruned = obey(incidents, &plan)?;
    // Age alone is exceeded by every pin, and is what a pin is for.
    if exceeded.iter().any(|reason| *reason != Reason::Age) {
        let limits: Vec<String> = exceeded.iter().map(ToString::to_string).collect();
        warn!(
            limits = limits.join(", "),
            "Evidence that must stay exceeds its limits: unpin some, or raise the limits"
        );
    }
    Ok(pruned)
}

/// Frees room on a full disk; returns how many bytes that gave.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents cannot be listed.
pub fn regain(incidents: &Path, settings: &EvidenceSettings) -> Result<u64, EvidenceError> {
    let left_behind = recover(incidents)?;
    let wanted = REGAINED_BYTES.saturating_sub(left_behind);
    let pruned = obey(incidents, &plan_room(&kept(incidents, settings)?, wanted))?;
    Ok(left_behind.saturating_add(pruned.bytes))
}

/// What retention sees of a folder of incidents.
///
/// # Errors
/// [`EvidenceError`] when the folder cannot be listed.
pub fn kept(incidents: &Path, settings: &EvidenceSettings) -> Result<Vec<Kept>, EvidenceError> {
    let copied_to = settings.copy.as_ref().map(copy::place);
    Ok(stock(incidents, copied_to.as_deref())?
        .into_iter()
        .map(|found| found.kept)
        .collect())
}

/// Deletes what a plan says: each first leaves its name, then is removed.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents cannot be synced.
pub fn obey(incidents: &Path, plan: &Plan) -> Result<Pruned, EvidenceError> {
    let mut pruned = Pruned::default();
    let mut leaving = Vec::new();
    for (one, reason) in &plan.delete {
        let (from, to) = (incidents.join(&one.id), incidents.join(format!("{LEAVING}{}", one.id)));
        match fs::rename(&from, &to) {
            Ok(()) => leaving.push((one, *reason, to)),
            // Somebody else did.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => pruned.failed.push((one.id.clone(), failed("delete", &from)(error).to_string())),
        }
    }
    if !leaving.is_empty() {
        sync_folder(incidents)?;
    }
    for (one, reason, folder) in leaving {
        match remove(&folder) {
            Ok(()) => {
                info!(incident = one.id, %reason, bytes = one.bytes, "Deleted evidence");
                pruned.bytes = pruned.bytes.saturating_add(one.bytes);
                pruned.deleted.push((one.clone(), reason));
            }
            Err(error) => pruned.failed.push((one.id.clone(), error.to_string())),
        }
    }
    for (incident, error) in &pruned.failed {
        warn!(incident, error, "Evidence cannot be deleted");
    }
    Ok(pruned)
}

/// Deletes one bundle that another has taken the place of; `false`: there is none, or a person has pinned it.
///
/// # Errors
/// [`EvidenceError`] when the disk refuses.
pub(super) fn let_go(incidents: &Path, id: &str) -> Result<bool, EvidenceError> {
    let (from, to) = (incidents.join(id), incidents.join(format!("{LEAVING}{id}")));
    if from.join(PINNED).exists() {
        return Ok(false);
    }
    match fs::rename(&from, &to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("delete", &from)(error)),
    }
    sync_folder(incidents)?;
    remove(&to)?;
    info!(incident = id, "Let go of evidence that a later incident has taken up");
    Ok(true)
}

/// Removes what an interrupted deletion left; returns how many bytes that gave.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents cannot be listed.
pub fn recover(incidents: &Path) -> Result<u64, EvidenceError> {
    let left: Vec<PathBuf> = match fs::read_dir(incidents) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("list", incidents)(error)),
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(LEAVING))
            .map(|entry| entry.path())
            .collect(),
    };
    let mut freed = 0_u64;
    for folder in left {
        let bytes = super::stock::bytes_below(&folder);
        match remove(&folder) {
            Ok(()) => freed = freed.saturating_add(bytes),
            Err(error) => warn!(folder = %folder.display(), %error, "What a deletion left cannot be removed"),
        }
    }
    Ok(freed)
}

fn remove(folder: &Path) -> Result<(), EvidenceError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
