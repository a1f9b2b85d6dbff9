//! Plays a script in the sandbox, and lets the narrator tell what comes of it. Only executes: what happens and how it
//! must end is the script's.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    DemoError,
    print::{Farewell, Printer},
    script::{Await, Power, Scenario, Step},
    story::{Line, Narrator},
    summary::{Summary, Witnesses},
};
use crate::{
    model::{IncidentSummary, Status},
    sandbox::{Fault, Sandbox},
};

/// How often the world is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long anything may take that the story waits for, before `--speed`; the slowest is about 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// What does not get faster with `--speed`: this machine.
const PATIENCE_MIN: Duration = Duration::from_secs(15);

/// A scenario being played.
pub(super) struct Stage<W> {
    sandbox: Sandbox,
    status: watch::Receiver<Arc<Status>>,
    printer: Printer<W>,
    narrator: Narrator,
    speed: f64,
    served: usize,
    messages: usize,
    scene_at: Timestamp,
    hurt_at: Option<Timestamp>,
    /// The incident that moved traffic, else the newest.
    incident: Option<IncidentSummary>,
    missed: Vec<String>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an edge of the command line: the story is told in the audience's time"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

impl<W: Write> Stage<W> {
    pub(super) fn new(sandbox: Sandbox, status: watch::Receiver<Arc<Status>>, printer: Printer<W>, speed: f64) -> Self {
        let start = now();
        Self {
            sandbox,
            status,
            printer,
            narrator: Narrator::new(start),
            speed,
            served: 0,
            messages: 0,
            scene_at: start,
            hurt_at: None,
            incident: None,
            missed: Vec::new(),
        }
    }

    /// Plays to the end and sums up; `true` when it ended as it must.
    pub(super) async fn play(&mut self, scenario: Scenario) -> Result<bool, DemoError> {
        for step in scenario.steps() {
            self.perform(&step).await?;
        }
        let ending = scenario.ending();
        let incident = &self.incident;
        let summary = Summary::of(
            &ending,
            &Witnesses {
                served: &self.sandbox.served(),
                audit: &self.sandbox.audit(),
                messages: &self.sandbox.messages(),
                daemon_user: self.sandbox.daemon_user(),
                active: &self.sandbox.active(),
                hurt_at: self.hurt_at,
                took_ms: incident.as_ref().and_then(|incident| incident.took_ms),
                evidence: self.evidence(),
                missed: &self.missed,
            },
        );
        self.printer.summary(scenario, &ending, &summary).map_err(DemoError::Print)?;
        Ok(summary.passed)
    }

    /// Leaves the world running until Ctrl-C.
    pub(super) async fn keep(&mut self, text: &str) -> Result<(), DemoError> {
        self.printer.note(text).map_err(DemoError::Print)?;
        // Without a handler Ctrl-C ends the process, which is what it is for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// Says where the report lies and how to look at it later, where there is one.
    pub(super) fn farewell(&mut self, data_dir: &Path) -> Result<(), DemoError> {
        let Some(folder) = self.evidence().map(Path::new) else {
            return Ok(());
        };
        let program = std::env::args_os().next().unwrap_or_else(|| "flipback".into());
        let Some(farewell) = Farewell::of(folder, data_dir, Path::new(&program)) else {
            return Ok(());
        };
        self.printer.farewell(&farewell).map_err(DemoError::Print)
    }

    /// Whether no incident is worth a look afterwards.
    pub(super) fn left_nothing(&self) -> bool {
        self.incident.is_none()
    }

    async fn perform(&mut self, step: &Step) -> Result<(), DemoError> {
        match step {
            Step::Say(text) => {
                self.pump()?;
                self.scene_at = now();
                let line = self.narrator.scene(self.scene_at, text);
                self.tell(&[line])
            }
            Step::Open => {
                self.sandbox.open();
                Ok(())
            }
            Step::Wait(time) => self.watch(time.div_f64(self.speed), |_| false).await.map(|_| ()),
            Step::Switch(color, manager) => {
                if *color == "green" && self.hurt_at.is_some() {
                    self.narrator.trouble_begins(now());
                }
                let done = self.sandbox.switch(color, manager);
                self.noted(done.err())
            }
            Step::Hurt(color, fault) => {
                if *fault != Fault::default() {
                    let at = now();
                    self.hurt_at.get_or_insert(at);
                    self.narrator.trouble_begins(at);
                }
                self.sandbox.hurt(color, *fault);
                Ok(())
            }
            Step::Scale(color, replicas) => {
                let done = self.sandbox.scale(color, *replicas);
                self.noted(done.err())
            }
            Step::Prometheus(Power::Off) => {
                self.sandbox.stop_prometheus().await;
                Ok(())
            }
            Step::Prometheus(Power::On) => {
                let done = self.sandbox.start_prometheus().await;
                self.noted(done.err())
            }
            Step::Await(awaited) => self.wait_for(*awaited).await,
        }
    }

    /// The world's own failure: the story goes on, and cannot end well.
    fn noted(&mut self, error: Option<crate::sandbox::SandboxError>) -> Result<(), DemoError> {
        let Some(error) = error else { return Ok(()) };
        self.missed.push(error.to_string());
        let line = self.narrator.trouble(now(), &error.to_string());
        self.tell(&[line])
    }

    async fn wait_for(&mut self, awaited: Await) -> Result<(), DemoError> {
        let limit = PATIENCE.div_f64(self.speed).max(PATIENCE_MIN);
        if self.watch(limit, |stage| stage.has_come(awaited)).await? {
            return match awaited {
                Await::Evidence => self.show_evidence(),
                _ => Ok(()),
            };
        }
        let what = match awaited {
            Await::Good(color) => format!("flipback to find {color} good"),
            Await::Moved => "flipback to move traffic".to_owned(),
            Await::Told(topic) => format!("the chats to be told {:?}", topic.as_str()),
            Await::Evidence => "the evidence to be complete".to_owned(),
        };
        let text = format!("waited {} s in vain for {what}", limit.as_secs());
        let line = self.narrator.trouble(now(), &text);
        self.missed.push(text);
        self.tell(&[line])
    }

    /// Judged by what anybody can see: the Service, the chats, the disk, the status.
    fn has_come(&self, awaited: Await) -> bool {
        match awaited {
            Await::Moved => self.sandbox.active() == "blue",
            Await::Told(topic) => {
                let told = |chat: &str, key: &str| {
                    let messages = self.sandbox.messages();
                    messages
                        .iter()
                        .any(|message| message.chat == chat && message.body["data"]["topic"] == key)
                };
                told("webhook", topic.as_str())
            }
            Await::Evidence => self.evidence().is_some_and(|folder| std::path::Path::new(folder).is_dir()),
            Await::Good(color) => {
                let status = self.status.borrow();
                status.guards.first().is_some_and(|guard| {
                    let live = guard.active.as_ref().is_some_and(|active| active.as_str() == color);
                    live && status.at > self.scene_at
                        && guard
                            .rules
                            .iter()
                            .any(|rule| rule.kind == "error_rate" && rule.outcome == "pass" && rule.sample_at > Some(self.scene_at))
                })
            }
        }
    }

    fn evidence(&self) -> Option<&str> {
        self.incident.as_ref()?.evidence.as_deref()
    }

    /// Names what lies in the folder; the keeper gives it its name when it is complete.
    fn show_evidence(&mut self) -> Result<(), DemoError> {
        let Some(folder) = self.evidence().map(str::to_owned) else {
            return Ok(());
        };
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        // What is being written has a name with a dot until it is whole.
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        let line = self.narrator.evidence(now(), &folder, &names);
        self.tell(&[line])
    }

    /// Remembers the rescue rather than what came after it.
    fn remember(&mut self, status: &Status) {
        let newest = status.guards.first().and_then(|guard| guard.last_incident.as_ref());
        let rescued = self.incident.as_ref().is_some_and(|known| known.result == "rolled_back");
        if let Some(newest) = newest.filter(|newest| !rescued || newest.result == "rolled_back") {
            self.incident = Some(newest.clone());
        }
    }

    /// Tells what happens until it is enough or the time is over; tells which.
    async fn watch(&mut self, limit: Duration, enough: impl Fn(&Self) -> bool) -> Result<bool, DemoError> {
        let until = Instant::now() + limit;
        loop {
            self.pump()?;
            if enough(self) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep_until((Instant::now() + LOOK_EVERY).min(until)).await;
        }
    }

    /// Tells what is new.
    fn pump(&mut self) -> Result<(), DemoError> {
        let mut lines = Vec::new();
        let served = self.sandbox.served();
        lines.extend(self.narrator.served(served.get(self.served..).unwrap_or_default()));
        self.served = served.len();
        if self.status.has_changed().unwrap_or(false) {
            let status = self.status.borrow_and_update().clone();
            self.remember(&status);
            lines.extend(self.narrator.status(&status));
        }
        let messages = self.sandbox.messages();
        let news = messages.get(self.messages..).unwrap_or_default();
        lines.extend(news.iter().filter_map(|message| self.narrator.message(message)));
        self.messages = messages.len();
        lines.sort_by_key(|line| line.after);
        self.tell(&lines)
    }

    fn tell(&mut self, lines: &[Line]) -> Result<(), DemoError> {
        lines.iter().try_for_each(|line| self.printer.line(line)).map_err(DemoError::Print)
    }
}
