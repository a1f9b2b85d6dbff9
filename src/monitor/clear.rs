//! A person takes back what is held against a guard: the mark on a release, the count that disarmed it.
//!
//! The same road as pausing: written on the guarded object by a compare-and-swap, into the journal by whoever wrote it; the next look
//! sees it and tells, as it would tell of anybody's word, written by a daemon or without one.

use std::sync::Arc;

use super::{Monitor, act::Reply, tell};
use crate::{
    decide,
    model::{Actor, AuditEntry, Clear, Clearance, CommandError, CommandReply, FlipHistory, GuardId, View},
};

impl Monitor {
    /// Writes a person's word into the ledger.
    pub(super) fn clear(&mut self, id: &GuardId, clear: Clear, word: Clearance, reply: Reply) -> Option<(Reply, CommandError)> {
        let Some(guard) = self.guards.get(id) else {
            return Some((reply, CommandError::UnknownGuard(id.to_string())));
        };
        let view = guard.router.view();
        let traffic = match &view {
            View::Known(traffic) => Some(&**traffic),
            View::UnknownColor { .. } | View::Unreadable(_) => None,
        };
        let history = decide::flip_history(&guard.spec, traffic, word.at);
        let (router, id, journal, clock) = (Arc::clone(&guard.router), id.clone(), self.journal.clone(), self.clock.clone());
        self.errand(async move {
            // Nothing to arm is said at once; everything else the object itself must say, which may be newer than what we know of it.
            let idle = clear == Clear::Count && !history.disarmed && history.cooldown_until.is_none() && history.version > 0;
            let cleared = if idle { Ok(false) } else { router.clear(&clear, &word).await };
            let answer = match cleared {
                Ok(true) => Ok(CommandReply::Done {
                    what: format!("{id}: {}", done(&clear)),
                }),
                Ok(false) => Err(CommandError::Refused(nothing(&clear, &history))),
                Err(error) => Err(CommandError::Failed(tell::chain(&error))),
            };
            journal.write(AuditEntry {
                at: clock.now(),
                actor: Actor::Person { name: word.by.clone() },
                guard: Some(id),
                action: if answer.is_ok() { action(&clear) } else { "refused" }.to_owned(),
                why: match &answer {
                    Ok(_) => described(&clear, &word.reason),
                    Err(error) => error.to_string(),
                },
                incident: None,
            });
            // A caller that went away is no concern of ours.
            let _ = reply.send(answer);
        });
        None
    }
}

fn done(clear: &Clear) -> String {
    match clear {
        Clear::Count => "armed again, and its cooldown is over; bad releases stay bad".to_owned(),
        Clear::Release(release) => format!("release {release} is held for bad no more"),
        Clear::All => "nothing is held against it any more: no release is bad, and it is armed".to_owned(),
    }
}

fn action(clear: &Clear) -> &'static str {
    match clear {
        Clear::Count => "armed",
        Clear::Release(_) | Clear::All => "cleared",
    }
}

fn described(clear: &Clear, reason: &str) -> String {
    let what = done(clear);
    if reason.is_empty() { what } else { format!("{what}: {reason}") }
}

/// Why there was nothing to clear, with what there would be.
fn nothing(clear: &Clear, history: &FlipHistory) -> String {
    let bad: Vec<&str> = history.bad.iter().map(|bad| bad.release.as_str()).collect();
    let bad = if bad.is_empty() {
        "no release is marked as bad".to_owned()
    } else {
        format!("marked as bad: {} (--release forgets one, --all everything)", bad.join(", "))
    };
    match clear {
        Clear::Count => format!(
            "it is armed, with {} of {} automatic flips left today, and in no cooldown; {bad}",
            history.flips_left, history.flips_per_day
        ),
        Clear::Release(release) => format!("no release {release} is marked; {bad}"),
        Clear::All => "nothing is held against it".to_owned(),
    }
}
