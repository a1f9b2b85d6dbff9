//! Who leads a shard of the guards: one Lease of the API server per shard, and what to do about it next, pure.
//!
//! The rules are client-go's, for they are the ones that hold:
//!
//! - **No clock is compared with another machine's.** Whether a holder's Lease has run out is judged by our own monotonic
//!   clock, counted from the moment *we* first saw its record as it is. The times in the record are for people.
//! - **A holder counts from before it asked.** Its own Lease runs out on its own clock a duration after it *sent* the renewal
//!   that was accepted; everybody else counts from when they saw the result, which is later. So it stops before another begins.
//! - **Every write carries the version that was read.** Of two that take a free Lease, one gets a conflict.
//! - **An error is no renewal.** A lost answer changes nothing; the next reading tells whether it arrived.
//!
//! A process's identity is its own: a restarted pod of the same name is another holder, and waits as one.
//!
//! [`next`] decides from what was seen, [`spread`] says who should have which shard, [`keep`] asks and writes. It is our own
//! code because the crates for it (kubert, kube-leader-election, kube-lease-manager, kube-coordinate) compare the record's times
//! with the wall clock, or write without a version, and do not tell how much time is left; none takes a clock.

pub mod keep;
mod members;
mod object;
pub mod rights;
pub mod sight;
pub mod spread;
mod word;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

/// What a Lease says, as far as it decides anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody does, and nobody may for `duration` from when it was first seen so.
    pub holder: String,
    /// How long it is held for after each renewal; zero where it does not say.
    pub duration: Duration,
    /// When it was renewed, by the holder's clock: only compared with itself.
    pub renewed: String,
    /// How often the holder changed.
    pub transitions: i32,
}

/// A Lease as this replica has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What it says; `None`: there is none.
    pub record: Option<Record>,
    /// When it was first seen saying so, on our monotonic clock.
    pub since: Duration,
}

/// What this replica wants of a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Hold it: take it as soon as it is free.
    Hold,
    /// Leave it to another, but take it when it has been free for so long.
    After(Duration),
    /// Give it away, once nothing is being written any more.
    Give {
        /// Whether something still is.
        writing: bool,
    },
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing: it is another's, or left to another.
    Follow,
    /// Make it, with nobody in it.
    Create,
    /// It is free: write ourselves into it.
    Take,
    /// It is ours: go on holding it.
    Renew,
    /// It is ours: write nobody into it.
    Release,
}

/// What to do next about a Lease, as the process `me`, which holds its own for `duration`.
#[must_use]
pub fn next(observed: &Observed, me: &str, duration: Duration, now: Duration, wish: Wish) -> Act {
    let ours = observed.record.as_ref().is_some_and(|record| record.holder == me);
    if ours {
        return match wish {
            Wish::Give { writing: false } => Act::Release,
            Wish::Give { writing: true } | Wish::Hold | Wish::After(_) => Act::Renew,
        };
    }
    let patience = match wish {
        Wish::Hold => Duration::ZERO,
        Wish::After(patience) => patience,
        Wish::Give { .. } => return Act::Follow,
    };
    // One that nobody holds is made at once, and taken like one that somebody held: it may have been deleted under its holder.
    if observed.record.is_none() {
        return Act::Create;
    }
    match observed.free_since(duration) {
        Some(free) if now >= free.saturating_add(patience) => Act::Take,
        _ => Act::Follow,
    }
}

impl Observed {
    /// Takes a reading in; what it says counts from the first time it was seen.
    #[must_use]
    pub fn see(before: Option<Self>, record: Option<Record>, now: Duration) -> Self {
        match before {
            Some(before) if before.record == record => before,
            _ => Self { record, since: now },
        }
    }

    /// From when on another may take it; `None`: not in this life.
    fn free_since(&self, duration: Duration) -> Option<Duration> {
        let held_for = match &self.record {
            None => duration,
            // Given back: at once. Just made: after its time.
            Some(record) if record.holder.is_empty() => record.duration,
            // A holder that does not say for how long gets what we would take.
            Some(record) if record.duration.is_zero() => duration,
            Some(record) => record.duration,
        };
        self.since.checked_add(held_for)
    }

    /// Who holds it at this moment, ourselves included.
    #[must_use]
    pub fn holder(&self, duration: Duration, now: Duration) -> Option<&str> {
        let record = self.record.as_ref().filter(|record| !record.holder.is_empty())?;
        let free = self.free_since(duration).is_some_and(|free| now >= free);
        (!free).then_some(record.holder.as_str())
    }
}

impl Record {
    /// Reads a Lease; what is missing or nonsense is as if it were not there.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let empty = LeaseSpec::default();
        let spec = lease.spec.as_ref().unwrap_or(&empty);
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            duration: Duration::from_secs(seconds.unwrap_or_default()),
            renewed: spec.renew_time.as_ref().map(|at| at.0.to_string()).unwrap_or_default(),
            transitions: spec.lease_transitions.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
