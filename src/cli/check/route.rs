//! What is live, who else writes it, and what the account may do.

use std::collections::BTreeSet;

use super::{Findings, Level};
use crate::{
    cli::{chain, now},
    model::{Advice, Color, GuardSpec, Mode, RouteSpec, Traffic, View},
    router::Router,
};

/// What is live, and could the other color take over? Answers with the active and the standby color.
pub(super) fn route(findings: &mut Findings, about: &str, spec: &GuardSpec, router: &dyn Router) -> Option<(Color, Color)> {
    let object = spec.route.object();
    match router.view() {
        View::Known(traffic) => {
            let Traffic { active, standby, .. } = &*traffic;
            let (on, off) = (traffic.active_side().ready, traffic.standby_side().ready);
            findings.add(
                about,
                Level::Ok,
                format!("{object} serves {active} ({on} Ready), standby is {standby} ({off} Ready)"),
            );
            if let Some(wanted) = crate::decide::scale_target(spec, &traffic, standby).filter(|_| off == 0) {
                let said = format!("the standby color {standby} is scaled down: a rollback would first scale it up to {wanted} replicas");
                findings.add(about, Level::Ok, said);
            } else if off == 0 {
                findings
                    .add(
                        about,
                        Level::Warning,
                        format!("the standby color {standby} has no Ready endpoint: a rollback would be refused"),
                    )
                    .todo(format!("keep {standby} running, or scale it up before the next switch"));
            }
            owner(findings, about, spec, &traffic);
            if let Some(pause) = traffic.paused_at(now()) {
                findings
                    .add(about, Level::Warning, format!("paused by {} ({})", pause.by, pause.reason))
                    .todo(format!("flipback resume {}", spec.id));
            }
            for (color, side) in &traffic.sides {
                let named = spec.colors.get(color).and_then(|color| color.deployment.as_ref());
                if let (Some(deployment), None) = (named, side.desired) {
                    findings
                        .add(about, Level::Wrong, format!("the Deployment {deployment} of {color} is not there"))
                        .todo(format!("correct colors.{color}.deployment, or create it"));
                }
            }
            Some((traffic.active.clone(), traffic.standby.clone()))
        }
        View::UnknownColor { found, known } => {
            let RouteSpec::Service(route) = &spec.route;
            let key = &route.selector_key;
            let what = found.map_or_else(
                || format!("the selector of {object} has no {key:?}"),
                |value| format!("the selector of {object} has {key:?} at {value:?}, which is none of the guard's colors"),
            );
            findings.add(about, Level::Wrong, what).todo(format!(
                "expected one of {}: correct colors or route.selector_key",
                known.join(", ")
            ));
            None
        }
        View::Unreadable(why) => {
            findings.add(about, Level::Wrong, why);
            None
        }
    }
}

/// Who else writes the route, what they do to a flip, and what makes them leave it alone.
pub(super) fn owner(findings: &mut Findings, about: &str, spec: &GuardSpec, traffic: &Traffic) {
    let Some(owner) = &traffic.owner else { return };
    let RouteSpec::Service(route) = &spec.route;
    let Advice { happens, todo, snippet } = owner.advice(route, &spec.namespace);
    let reassert = &spec.policy.reassert;
    let object = spec.route.object();
    let (level, answer) = if spec.mode == Mode::Monitor {
        (Level::Ok, String::new())
    } else if owner.is_answered(reassert) {
        let times = reassert.times;
        (
            Level::Ok,
            format!("; flipback makes a rollback again up to {times} times (policy.reassert)"),
        )
    } else if reassert.times == 0 {
        (Level::Warning, "; flipback does not fight it (policy.reassert is off)".to_owned())
    } else {
        (
            Level::Warning,
            "; flipback does not fight it (it is not one of policy.reassert.managers, or in people's hands)".to_owned(),
        )
    };
    let finding = findings.add(about, level, format!("{owner} owns {object}: {happens}{answer}"));
    finding.todo(match snippet {
        Some(snippet) => format!("{todo}:\n{}", snippet.trim_end()),
        None => todo,
    });
    let level = if owner.holds_ledger { Level::Warning } else { Level::Ok };
    findings.add(about, level, owner.of_the_ledger());
}

pub(super) async fn rights(findings: &mut Findings, about: &str, spec: &GuardSpec, router: &dyn Router) {
    match router.may_flip().await {
        Ok(rights) => {
            let lacking: BTreeSet<String> = rights
                .iter()
                .filter(|right| !right.allowed)
                .map(|right| {
                    let name = right.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                    format!("{} {}{name}", right.verb, right.resource)
                })
                .collect();
            if lacking.is_empty() {
                let what = match spec.mode {
                    Mode::Enforce => "the account has every right it needs to flip",
                    Mode::Monitor => "the account has every right it needs to watch (monitor mode)",
                };
                findings.add(about, Level::Ok, what);
            } else {
                let lacking: Vec<String> = lacking.into_iter().collect();
                findings
                    .add(about, Level::Wrong, format!("the account may not: {}", lacking.join(", ")))
                    .todo(format!(
                        "apply deploy/monitor.yaml with these names in namespace {}",
                        spec.namespace
                    ));
            }
        }
        Err(error) => {
            findings.add(about, Level::Wrong, chain(&error));
        }
    }
}
