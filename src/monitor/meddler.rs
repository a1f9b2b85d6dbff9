//! Who else writes the route: told once, while nothing is on fire.

use super::{Monitor, show};
use crate::model::{Advice, GuardId, Mode, Observation, RouteSpec, View};

impl Monitor {
    /// Names the tool that owns the route, at the first look that shows it: it would undo a flip, and now is the time to teach it better.
    pub(super) fn meet(&mut self, id: &GuardId, seen: &Observation) {
        let View::Known(traffic) = &seen.view else { return };
        let Some(guard) = self.guards.get_mut(id) else { return };
        let Some(owner) = traffic.owner.as_ref().filter(|owner| guard.owner.as_ref() != Some(owner)) else {
            return;
        };
        guard.owner = Some(owner.clone());
        let RouteSpec::Service(route) = &guard.spec.route;
        let Advice { happens, todo, snippet } = owner.advice(route, &guard.spec.namespace);
        // Whoever reads the log has it at hand; `flipback check` prints the same.
        let remedy = format!("{}:\n{}", show::sentence(&todo), snippet.unwrap_or_default());
        let remedy = remedy.trim_end_matches([':', '\n']);
        if owner.is_answered(&guard.spec.policy.reassert) || guard.spec.mode == Mode::Monitor {
            tracing::info!(guard = %id, %owner, "Somebody else writes the route too. {remedy}");
            return;
        }
        let object = guard.spec.route.object();
        let what =
            format!("{owner} owns {object} and may undo a rollback: {happens}. `flipback check {id}` prints what makes it leave one alone");
        tracing::warn!(guard = %id, "{what}. {remedy}");
        guard.note(seen.at, show::sentence(&what));
        if owner.holds_ledger {
            let what = owner.of_the_ledger();
            tracing::warn!(guard = %id, "{what}");
            guard.note(seen.at, show::sentence(&what));
        }
    }
}
