//! Those who act: the pipeline, people, a GitOps controller, and whoever lets things go wrong.

use std::{collections::BTreeMap, time::Duration};

use flipback::{
    model::{Color, Command, GuardId, ledger::PAUSE_ANNOTATION},
    serve::Request,
};
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    script::Deed,
    truth,
    world::{SERVICE, World},
};

/// How long a pipeline waits for its new pods.
const ROLLOUT: Duration = Duration::from_secs(20);

/// A GitOps controller that holds the Service where its repository says.
#[derive(Clone, Debug, Default)]
pub struct Meddlers {
    holds: Option<&'static str>,
    /// Seconds it waits before each correction, the next one last.
    delays: Vec<u64>,
    /// Since when it has seen the Service elsewhere.
    since: Option<Duration>,
}

impl Meddlers {
    /// Nobody corrects anything any more.
    pub fn rest(&mut self) {
        *self = Self::default();
    }
}

/// Does what the script says, when it says.
pub async fn direct(world: World) {
    let mut queue: BTreeMap<(Duration, usize), Deed> = BTreeMap::new();
    let mut count = 0;
    for (at, deed) in world.setup.deeds.clone() {
        queue.insert((at, count), deed);
        count += 1;
    }
    while let Some(((at, _), deed)) = queue.pop_first() {
        tokio::time::sleep(at.saturating_sub(world.story.age())).await;
        for (after, deed) in world.act(deed) {
            queue.insert((at + after, count), deed);
            count += 1;
        }
    }
}

impl World {
    /// Does one thing; returns what follows from it.
    fn act(&self, deed: Deed) -> Vec<(Duration, Deed)> {
        let calm = self.story.age() >= self.setup.calm;
        match deed {
            Deed::Release { share, after } => self.release(share, after),
            Deed::Promote {
                color,
                share,
                after,
                number,
            } => {
                self.promote(color, share, after, number);
                Vec::new()
            }
            Deed::Redeploy => self.redeploy(),
            Deed::Swap => {
                if let Some(active) = self.active() {
                    let to = truth::other(active);
                    self.story.tell("a person", format!("switches the Service to {to} with kubectl"));
                    self.switch("kubectl-patch", to);
                }
                Vec::new()
            }
            Deed::Hurry => {
                self.with(|state| state.hurry = !calm);
                Vec::new()
            }
            Deed::Ask { daemon, rollback } => {
                self.ask(daemon, rollback);
                Vec::new()
            }
            Deed::Pause(lasts) => {
                self.story.tell("a person", format!("pauses the guard for {} s", lasts.as_secs()));
                let pause = json!({ "by": "ada", "at": self.now().to_string(), "reason": "looking" }).to_string();
                self.edit("kubectl-annotate", |service| {
                    service["metadata"]["annotations"][PAUSE_ANNOTATION] = json!(pause)
                });
                vec![(lasts, Deed::Resume)]
            }
            Deed::Resume => {
                self.story.tell("a person", "resumes the guard");
                self.edit("kubectl-annotate", |service| {
                    if let Some(annotations) = service["metadata"]["annotations"].as_object_mut() {
                        annotations.remove(PAUSE_ANNOTATION);
                    }
                });
                self.judge(|judge| judge.paused = None);
                Vec::new()
            }
            Deed::Touch => {
                self.story.tell("a person", "writes a note on the Service");
                let note = self.story.age().as_millis().to_string();
                self.edit("kubectl-edit", |service| {
                    service["metadata"]["annotations"]["team/note"] = json!(note)
                });
                Vec::new()
            }
            Deed::Stray(lasts) => {
                let Some(active) = self.active() else { return Vec::new() };
                self.story
                    .tell("a person", format!("mistypes the color, for {} s", lasts.as_secs()));
                self.edit("kubectl-edit", |service| service["spec"]["selector"]["color"] = json!("purple"));
                vec![(lasts, Deed::Return(active))]
            }
            Deed::Return(color) => {
                if self.active().is_none() {
                    self.story.tell("a person", format!("corrects the color to {color}"));
                    self.switch("kubectl-edit", color);
                }
                Vec::new()
            }
            _ if calm => self.calmly(deed),
            deed => self.wreak(deed),
        }
    }

    /// What goes wrong with the world itself.
    fn wreak(&self, deed: Deed) -> Vec<(Duration, Deed)> {
        match deed {
            Deed::GitOps { mut delays } => {
                let Some(active) = self.active() else { return Vec::new() };
                self.story
                    .tell("GitOps", format!("holds the Service at {active}; corrects it after {delays:?} s"));
                delays.reverse();
                self.with(|state| {
                    state.meddlers = Meddlers {
                        holds: Some(active),
                        delays,
                        since: None,
                    }
                });
                Vec::new()
            }
            Deed::Outage { active, lasts } => {
                let Some(live) = self.active() else { return Vec::new() };
                let color = if active { live } else { truth::other(live) };
                self.story
                    .tell("node", format!("every pod of {color} goes down, for {} s", lasts.as_secs()));
                self.outage(color, true);
                vec![(lasts, Deed::Back(color))]
            }
            Deed::Shared { share, lasts } => {
                let told = format!(
                    "what both colors need breaks: {:.0} % errors on both, for {} s",
                    share * 100.0,
                    lasts.as_secs()
                );
                self.story.tell("world", told);
                self.with(|state| state.truth.shared = share);
                vec![(lasts, Deed::Mended)]
            }
            Deed::Restart { active } => {
                let Some(live) = self.active() else { return Vec::new() };
                let color = if active { live } else { truth::other(live) };
                self.story
                    .tell("node", format!("the processes of {color} restart, their counters begin at 0"));
                self.restart_pods(color);
                Vec::new()
            }
            Deed::Fault { fault, lasts } => {
                let number = self.begin(fault);
                vec![(lasts, Deed::Over(number))]
            }
            Deed::Cut => {
                self.story.tell("network", "every connection to the API server breaks");
                (0..self.setup.replicas).for_each(|daemon| self.cut(daemon));
                Vec::new()
            }
            Deed::Compact => {
                self.story.tell("API server", "forgets its history and drops its watches");
                self.plane.compact();
                (0..self.setup.replicas).for_each(|daemon| self.cut(daemon));
                Vec::new()
            }
            Deed::Step { daemon, seconds } => {
                self.step(daemon, seconds);
                Vec::new()
            }
            Deed::Kill { daemon, down } => {
                self.crash(daemon, down);
                Vec::new()
            }
            Deed::Light { daemon, fuse } => {
                self.daemon(daemon, |one| one.fuses.push(fuse));
                Vec::new()
            }
            other => self.calmly(other),
        }
    }

    /// What ends something may happen at any time.
    fn calmly(&self, deed: Deed) -> Vec<(Duration, Deed)> {
        match deed {
            Deed::Over(number) => self.end(number),
            Deed::Back(color) => {
                self.story.tell("node", format!("the pods of {color} come back"));
                self.outage(color, false);
            }
            Deed::Mended => {
                self.story.tell("world", "what both colors need works again");
                self.with(|state| state.truth.shared = 0.0);
            }
            Deed::Calm => {
                self.calm();
                (0..self.setup.replicas).for_each(|daemon| self.daemon(daemon, |one| one.fuses.clear()));
            }
            _ => {}
        }
        Vec::new()
    }

    fn release(&self, share: f64, after: Duration) -> Vec<(Duration, Deed)> {
        let Some(active) = self.active() else { return Vec::new() };
        let color = truth::other(active);
        let number = self.with(|state| {
            state.judge.releases += 1;
            state.judge.releases
        });
        self.story.tell("pipeline", format!("deploys release {number} on {color}"));
        // Nobody uses it yet.
        self.deploy(color, number, 0.002, Duration::ZERO);
        let promote = Deed::Promote {
            color,
            share,
            after,
            number,
        };
        vec![(ROLLOUT, promote)]
    }

    fn promote(&self, color: &'static str, share: f64, after: Duration, number: u32) {
        let (now, ready, still) = self.with(|state| {
            let side = state.truth.side(color);
            (self.story.age(), side.ready, side.release == number)
        });
        if ready == 0 || !still || self.active() == Some(color) {
            self.story.tell("pipeline", format!("gives release {number} up"));
            return;
        }
        let when = if after.is_zero() {
            String::new()
        } else {
            format!(" after {} s", after.as_secs())
        };
        let told = format!(
            "switches the Service to {color}: release {number}, {:.1} % errors{when}",
            share * 100.0
        );
        self.story.tell("pipeline", told);
        self.with(|state| {
            let side = state.truth.side_mut(color);
            side.share = share;
            side.share_from = now + after;
        });
        self.switch("deploy-pipeline", color);
    }

    /// Puts the release back that was deployed two before on the color that is not active.
    fn redeploy(&self) -> Vec<(Duration, Deed)> {
        let Some(active) = self.active() else { return Vec::new() };
        let color = truth::other(active);
        let bad = self.with(|state| state.judge.left_for_bad(color));
        if let Some(number) = bad {
            self.story.tell(
                "a person",
                format!("puts release {number} back on {color}, which was rolled back from"),
            );
            self.deploy(color, number, 0.5, Duration::ZERO);
        }
        Vec::new()
    }

    fn ask(&self, daemon: usize, rollback: bool) {
        let (Some(active), Some(commands)) = (self.active(), self.daemon(daemon, |one| one.commands())) else {
            return;
        };
        let guard = GuardId::new("", "shop", "web").expect("a constant");
        let (by, reason) = ("ada".to_owned(), "a hunch".to_owned());
        let command = if rollback {
            self.story.tell("a person", format!("asks daemon {daemon} to roll back"));
            Command::Rollback {
                guard,
                from: None,
                by,
                reason,
                dry_run: false,
            }
        } else {
            let to = truth::other(active);
            self.story.tell("a person", format!("asks daemon {daemon} to switch to {to}"));
            Command::Switch {
                guard,
                to: Color::new(to).expect("a constant"),
                by,
                reason,
                dry_run: false,
            }
        };
        let (reply, answer) = oneshot::channel();
        let world = self.clone();
        if commands.try_send(Request { command, reply }).is_ok() {
            tokio::spawn(async move {
                let said = match answer.await {
                    Ok(Ok(_)) => "carries the person's request out".to_owned(),
                    Ok(Err(error)) => format!("refuses the person's request: {error}"),
                    Err(_) => "never answers the person".to_owned(),
                };
                world.story.tell(world.name(daemon), said);
            });
        }
    }

    /// A second of the GitOps controller.
    pub fn meddle(&self) {
        let now = self.story.age();
        let (active, there) = (self.active(), self.plane.get(SERVICE).is_some());
        let back = self.with(|state| {
            let meddler = &mut state.meddlers;
            let holds = meddler.holds?;
            if active == Some(holds) || !there {
                meddler.since = None;
                return None;
            }
            let since = *meddler.since.get_or_insert(now);
            let delay = *meddler.delays.last()?;
            if now.saturating_sub(since) < Duration::from_secs(delay) {
                return None;
            }
            meddler.delays.pop();
            meddler.since = None;
            Some(holds)
        });
        if let Some(color) = back {
            self.story.tell("GitOps", format!("puts the Service back to {color}"));
            self.switch("argocd-controller", color);
        }
    }
}
