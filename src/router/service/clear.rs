//! A person's word about what the ledger holds against a guard: read, change, compare-and-swap.
//!
//! A refused patch is built anew on a new reading, so that a flip in between is never overwritten. A patch whose answer was lost is
//! not sent again blindly: the word in the ledger tells whether it arrived.

use std::time::Duration;

use super::{super::RouterError, ServiceRouter, patch, view::parse_ledger};
use crate::{
    cluster::{Fault, FaultKind},
    model::{Clear, Clearance, Ledger},
};

/// Writes at most, each on a new reading.
const ATTEMPTS: u32 = 4;
/// The wait before a further one.
const WAIT: Duration = Duration::from_millis(200);

const ATTEMPTED: &str = "clear";

impl ServiceRouter {
    /// Takes back what the ledger says; `false`: it says nothing of the kind.
    pub(super) async fn clear_ledger(&self, clear: &Clear, word: &Clearance) -> Result<bool, RouterError> {
        let failed = |fault| RouterError::of(ATTEMPTED, &self.object, fault);
        let api = self.api(self.writes(ATTEMPTED)?);
        let mut last = Fault::deadline(Duration::ZERO);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(WAIT * attempt).await;
            }
            let service = match self.glance(&api, &self.route.active).await {
                Ok(service) => service,
                // The first reading says what is wrong; a later one may find a server that is busy.
                Err(fault) if attempt == 0 => return Err(failed(fault)),
                Err(fault) => {
                    last = fault;
                    continue;
                }
            };
            let (ledger, damaged) = match parse_ledger(&service) {
                Ok(ledger) if ledger.has(word) => return Ok(true),
                Ok(ledger) => match ledger.cleared(clear, word) {
                    Some(ledger) => (ledger, None),
                    None => return Ok(false),
                },
                // Put aside, and begun anew: the only thing that clears what nobody can read.
                Err(text) if *clear == Clear::All => (Ledger::default(), Some(text)),
                Err(_) => {
                    return Err(RouterError::DamagedLedger {
                        object: self.object.clone(),
                    });
                }
            };
            let patch = patch::ledger(&service, &ledger, damaged).map_err(|error| {
                failed(Fault {
                    kind: FaultKind::Refused,
                    detail: error.to_string(),
                })
            })?;
            match self.send(&api, &self.route.active, patch, false).await {
                Ok(_) => return Ok(true),
                Err(fault) if matches!(fault.kind, FaultKind::Unauthorized | FaultKind::Forbidden | FaultKind::NotFound) => {
                    return Err(failed(fault));
                }
                // Changed in between, busy, or the answer lost: the next reading tells.
                Err(fault) => last = fault,
            }
        }
        Err(failed(last))
    }
}
