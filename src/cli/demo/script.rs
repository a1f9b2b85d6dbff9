//! The scenarios as data: what happens, what is waited for, and how each must end. Pure.

use std::time::Duration;

use clap::ValueEnum;

use crate::{model::Topic, sandbox::Fault};

/// What goes wrong in the demo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The new release answers with errors: it is rolled back.
    #[default]
    Errors,
    /// The new release is slow: it is rolled back.
    Latency,
    /// The new release crashes: no pod is Ready, it is rolled back.
    Crash,
    /// A short burst of errors: nothing must be moved.
    Blip,
    /// The metrics server dies: nothing must be moved, and it must be told.
    PrometheusDown,
    /// The old release is not running any more: a rollback must be refused.
    StandbyDown,
    /// Somebody undoes the rollback: it must be told, and not fought over.
    Gitops,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Said to the audience.
    Say(String),
    /// Users begin to come.
    Open,
    /// Nothing happens for so long, before `--speed`.
    Wait(Duration),
    /// Somebody points the Service to a color, under this name.
    Switch(&'static str, &'static str),
    /// What is wrong with a color from now on.
    Hurt(&'static str, Fault),
    /// Somebody scales a color.
    Scale(&'static str, u8),
    /// The metrics server dies or comes back.
    Prometheus(Power),
    /// The story goes on when this is so.
    Await(Await),
}

/// Whether a part runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    Off,
}

/// What the story waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Await {
    /// flipback judged this color and found it good.
    Good(&'static str),
    /// flipback moved traffic.
    Moved,
    /// The chats were told.
    Told(Topic),
    /// The evidence is complete.
    Evidence,
}

/// How a scenario must end, by the API server's own record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ending {
    /// Flips by flipback.
    pub flips: usize,
    /// The color that serves.
    pub active: &'static str,
    /// What the chats must have been told, in this order, whatever came between.
    pub told: &'static [Topic],
    /// In one sentence.
    pub moral: &'static str,
}

const WELL: Fault = Fault {
    errors: 0.0,
    slow: 0.0,
    delay: Duration::ZERO,
    crashed: false,
};
const FAILING: Fault = Fault { errors: 0.35, ..WELL };
const BURST: Fault = Fault { errors: 0.6, ..WELL };
const SLOW: Fault = Fault {
    slow: 0.4,
    delay: Duration::from_millis(900),
    ..WELL
};
const CRASHED: Fault = Fault { crashed: true, ..WELL };

/// Shorter than a look and a half: at most two looks can see it.
const BLIP: Duration = Duration::from_millis(1500);

fn say(text: &str) -> Step {
    Step::Say(text.to_owned())
}

fn seconds(seconds: u64) -> Step {
    Step::Wait(Duration::from_secs(seconds))
}

impl Scenario {
    /// The name as on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What happens, in order.
    pub(super) fn steps(self) -> Vec<Step> {
        let mut steps = vec![
            say("Users arrive. The Service points to blue."),
            Step::Open,
            seconds(3),
            say("The team releases 1.1.0: it points the Service to green."),
            Step::Switch("green", "kubectl-patch"),
            Step::Await(Await::Good("green")),
            seconds(2),
        ];
        steps.extend(self.trouble());
        steps
    }

    fn trouble(self) -> Vec<Step> {
        let rescued = [
            Step::Await(Await::Moved),
            Step::Await(Await::Told(Topic::RollbackCompleted)),
            Step::Await(Await::Told(Topic::Recovered)),
            Step::Await(Await::Evidence),
        ];
        match self {
            Self::Errors => [
                vec![
                    say("Green goes bad: from now on 35 % of its requests end in an error."),
                    Step::Hurt("green", FAILING),
                ],
                rescued.to_vec(),
            ]
            .concat(),
            Self::Latency => [
                vec![
                    say("Green goes bad: from now on 40 % of its requests take almost a second longer."),
                    Step::Hurt("green", SLOW),
                ],
                rescued.to_vec(),
            ]
            .concat(),
            Self::Crash => [
                vec![
                    say("Green goes bad: its processes die, and no pod of it is Ready."),
                    Step::Hurt("green", CRASHED),
                ],
                rescued.to_vec(),
            ]
            .concat(),
            Self::Blip => vec![
                say("For a second and a half, 60 % of green's requests end in an error."),
                Step::Hurt("green", BURST),
                Step::Wait(BLIP),
                Step::Hurt("green", WELL),
                say("It is over. Rolling back now would only add to the trouble."),
                seconds(8),
                Step::Await(Await::Good("green")),
            ],
            Self::PrometheusDown => vec![
                say("The metrics server dies. Green is as good as before, but flipback cannot know it."),
                Step::Prometheus(Power::Off),
                Step::Await(Await::Told(Topic::Blind)),
                seconds(3),
                say("The metrics server comes back."),
                Step::Prometheus(Power::On),
                Step::Await(Await::Told(Topic::Sighted)),
                Step::Await(Await::Good("green")),
            ],
            Self::StandbyDown => vec![
                say("Somebody scales blue to nothing: the release went well, and machines cost money."),
                Step::Scale("blue", 0),
                seconds(2),
                say("Green goes bad: from now on 35 % of its requests end in an error. Where should traffic go?"),
                Step::Hurt("green", FAILING),
                Step::Await(Await::Told(Topic::RollbackBlocked)),
                seconds(5),
            ],
            Self::Gitops => vec![
                say("Green goes bad: from now on 35 % of its requests end in an error."),
                Step::Hurt("green", FAILING),
                Step::Await(Await::Moved),
                Step::Await(Await::Told(Topic::RollbackCompleted)),
                Step::Await(Await::Evidence),
                say("A GitOps tool applies what Git says, and Git still says green."),
                Step::Switch("green", "argocd-controller"),
                Step::Await(Await::Told(Topic::FlippedBack)),
                seconds(8),
            ],
        }
    }

    /// How it must end.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Errors | Self::Latency | Self::Crash => Ending {
                flips: 1,
                active: "blue",
                told: &[Topic::RollbackInitiated, Topic::RollbackCompleted, Topic::Recovered],
                moral: "Traffic is back on the release that works, and everything about the one that does not is on disk.",
            },
            Self::Blip => Ending {
                flips: 0,
                active: "green",
                told: &[],
                moral: "A blip is forgiven: one bad look or two are not three in a row.",
            },
            Self::PrometheusDown => Ending {
                flips: 0,
                active: "green",
                told: &[Topic::Blind, Topic::Sighted],
                moral: "No data is neither good nor bad: nothing was moved, and people were told that nobody was watching.",
            },
            Self::StandbyDown => Ending {
                flips: 0,
                active: "green",
                told: &[Topic::RollbackBlocked],
                moral: "A bad release is better than none: traffic was not moved to a color without pods, and people were told to act.",
            },
            Self::Gitops => Ending {
                flips: 1,
                active: "green",
                told: &[Topic::RollbackCompleted, Topic::FlippedBack],
                moral: "flipback moved traffic once and told who undid it. Two machines fighting over a Service would help nobody.",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_that_is_waited_for_is_also_demanded_at_the_end() {
        for scenario in Scenario::value_variants() {
            for step in scenario.steps() {
                if let Step::Await(Await::Told(topic)) = step {
                    assert!(scenario.ending().told.contains(&topic), "{scenario:?} {topic:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_rescues_may_move_traffic() {
        for scenario in Scenario::value_variants() {
            let waits = scenario.steps().contains(&Step::Await(Await::Moved));
            assert_eq!(waits, scenario.ending().flips == 1, "{scenario:?}");
        }
    }
}
