//! What is done to shops: releases, switches by hand, pauses.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use super::{Affair, BY_HAND, Later, RELEASED, REST, Stage, Story, second};
use crate::{daemon::Guard, house, prometheus::Manner};

impl Story {
    /// The next of `range` that nothing happens to.
    pub(super) fn idle(&mut self, turns: usize, range: std::ops::Range<usize>) -> Option<usize> {
        for _ in 0..range.len() {
            let shop = range.start + self.turn(turns) % range.len();
            if matches!(self.affairs[shop].stage, Stage::Idle) {
                return Some(shop);
            }
        }
        None
    }

    /// Releases something new on a standby and moves traffic there; one in four turns bad.
    pub(super) async fn release(&mut self) {
        let Some(shop) = self.idle(0, 0..RELEASED) else { return };
        let n = self.turn(1);
        let side = self.affairs[shop].active.other();
        self.script.mend(shop, side, second() + 1);
        let Guard { namespace, name } = self.shops[shop].clone();
        let image =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": format!("registry.invalid/{name}:2.{n}")}]}}}});
        let deployments: Api<Deployment> = Api::namespaced(self.admin.clone(), &namespace);
        let services: Api<Service> = Api::namespaced(self.admin.clone(), &namespace);
        let by = PatchParams {
            field_manager: Some("deploy-pipeline".to_owned()),
            ..PatchParams::default()
        };
        let deployed = deployments
            .patch(&format!("{name}-{}", side.name()), &by, &Patch::Strategic(image))
            .await;
        if deployed.is_err() {
            return;
        }
        let now = second();
        let mut moved = Ok(());
        for (service, to) in [("active", side), ("preview", side.other())] {
            let patch = Patch::Merge(json!({"spec": {"selector": {"color": to.name()}}}));
            moved = moved.and(services.patch(&format!("{name}-{service}"), &by, &patch).await.map(drop));
        }
        self.models[shop].moved(now);
        self.tally.releases += 1;
        if moved.is_err() {
            self.affairs[shop].stage = Stage::Unsure { until: now + REST };
            return;
        }
        let stage = if n.is_multiple_of(4) {
            let from = second() + 6 + (n as u64 * 7) % 11;
            // One in five is bad enough to be flipped by two intervals.
            let percent = if n.is_multiple_of(5) { 82 } else { 30 + (n as u64 * 3) % 25 };
            self.script.spoil(shop, side, from, u64::MAX, percent);
            self.tally.bad += 1;
            if n.is_multiple_of(32) && self.pause(shop, true).await {
                self.tally.pauses += 1;
                self.later.push((Instant::now() + Duration::from_secs(28), Later::Resume(shop)));
            }
            Stage::Bad { from, seen: false }
        } else {
            Stage::Resting { until: second() + REST }
        };
        self.affairs[shop] = Affair { active: side, stage };
    }

    pub(super) async fn pause(&mut self, shop: usize, paused: bool) -> bool {
        let Guard { namespace, name } = &self.shops[shop];
        let guard = format!("{namespace}/{name}");
        let command = if paused {
            json!({"command": "pause", "guard": guard, "by": "the soak", "reason": "a drill"})
        } else {
            json!({"command": "resume", "guard": guard, "by": "the soak"})
        };
        self.house.command(&command).await
    }

    /// Moves a shop through the daemon's API.
    pub(super) async fn move_by_hand(&mut self) {
        let Some(shop) = self.idle(2, RELEASED..BY_HAND) else { return };
        let to = self.affairs[shop].active.other();
        let Guard { namespace, name } = &self.shops[shop];
        let now = second();
        self.models[shop].moved(now);
        *self.tally.asked.entry(shop).or_default() += 1;
        let moved = self.house.command(&house::switch(&format!("{namespace}/{name}"), to.name())).await;
        self.affairs[shop] = if moved {
            *self.tally.moved.entry(shop).or_default() += 1;
            Affair {
                active: to,
                stage: Stage::Resting { until: second() + REST },
            }
        } else {
            Affair {
                active: to.other(),
                stage: Stage::Unsure { until: second() + REST },
            }
        };
    }

    /// Does what has become due.
    pub(super) async fn catch_up(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, Later)> = due;
        for (_, deed) in due {
            match deed {
                Later::Heal => self.prometheus.set(Manner::Well),
                Later::Reopen => self.link.close(false),
                Later::Resume(shop) => {
                    if !self.pause(shop, false).await {
                        self.later.push((Instant::now() + Duration::from_secs(2), Later::Resume(shop)));
                    }
                }
            }
        }
    }
}
