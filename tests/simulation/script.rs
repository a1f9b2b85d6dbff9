//! What will happen in a seed, drawn before it begins: who releases what, who meddles, what goes wrong and when.

use std::{fmt, time::Duration};

use crate::{
    api::{Requests, Trouble},
    chance::Chance,
    chats::Mood,
    daemon::{Fuse, Moment},
    faults::Fault,
    measure::Lie,
};

/// The chats.
pub const CHATS: [&str; 2] = ["ops", "dev"];
/// Nobody releases or meddles before; the daemons have long seen the world by then.
const QUIET_START: u64 = 45;

/// The policy's `watch`, where a world has no shorter one.
const WATCH: Duration = Duration::from_secs(30 * 60);

/// One thing somebody does.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// The pipeline deploys a new release on the color that is not active, which answers so badly from so long after the
    /// switch on, and switches to it when it is Ready.
    Release {
        share: f64,
        after: Duration,
    },
    /// The second half of a release.
    Promote {
        color: &'static str,
        share: f64,
        after: Duration,
        number: u32,
    },
    /// Somebody puts an earlier release back on the color that is not active.
    Redeploy,
    /// Somebody points the Service at the other color by hand.
    Swap,
    /// When the next patch of a daemon sets out, somebody points the Service at the other color first.
    Hurry,
    /// Somebody asks a daemon to roll back, or to switch.
    Ask {
        daemon: usize,
        rollback: bool,
    },
    /// Somebody pauses the guard for a while.
    Pause(Duration),
    Resume,
    /// Somebody writes something else on the Service.
    Touch,
    /// Somebody points the Service at something that is no color, for a while.
    Stray(Duration),
    Return(&'static str),
    /// A GitOps controller begins to hold the Service at what its repository says: after so many seconds, so often.
    GitOps {
        delays: Vec<u64>,
    },
    /// The pods of a color go down for a while.
    Outage {
        active: bool,
        lasts: Duration,
    },
    Back(&'static str),
    /// What both colors need is broken for a while.
    Shared {
        share: f64,
        lasts: Duration,
    },
    Mended,
    /// The processes of a color restart: counters begin anew.
    Restart {
        active: bool,
    },
    /// Something goes wrong for a while.
    Fault {
        fault: Fault,
        lasts: Duration,
    },
    Over(u64),
    /// All connections of all daemons break.
    Cut,
    /// The API server forgets its history and drops its watches.
    Compact,
    /// A clock is stepped.
    Step {
        daemon: usize,
        seconds: i64,
    },
    /// A daemon is killed.
    Kill {
        daemon: usize,
        down: Duration,
    },
    /// A daemon will be killed at its next such moment.
    Light {
        daemon: usize,
        fuse: Fuse,
    },
    /// Every trouble ends.
    Calm,
}

/// How a seed is laid out.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    /// Daemons over the one cluster.
    pub replicas: usize,
    /// Pods per color.
    pub pods: u32,
    /// Requests per second.
    pub rate: f64,
    /// Share of them that still reaches the other color.
    pub leftover: f64,
    /// Time between two scrapes.
    pub scrape: Duration,
    pub preview: bool,
    pub cooldown: Duration,
    /// How long after a switch every rule may flip, and after a rollback none may.
    pub watch: Duration,
    /// When everything calms down.
    pub calm: Duration,
    /// When it ends.
    pub end: Duration,
    pub deeds: Vec<(Duration, Deed)>,
}

/// So long after the calm everything that was owed must have been done.
pub const SETTLE: Duration = Duration::from_secs(6 * 60);

impl Setup {
    /// What a seed's world will be like.
    pub fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed, 1);
        let replicas = chance.one_of(&[1, 1, 1, 2, 2, 3]);
        let length = chance.between(5, 13) * 60;
        let calm = Duration::from_secs(length);
        let mut setup = Self {
            seed,
            replicas,
            pods: chance.between(1, 5) as u32,
            rate: chance.one_of(&[25.0, 60.0, 200.0]),
            leftover: chance.one_of(&[0.0, 0.0, 0.0, 0.2]),
            scrape: Duration::from_secs(chance.one_of(&[5, 5, 2, 10])),
            preview: chance.happens(0.5),
            cooldown: Duration::from_secs(chance.one_of(&[60, 180, 600])),
            watch: WATCH,
            calm,
            end: calm + SETTLE,
            deeds: vec![(calm, Deed::Calm)],
        };
        setup.releases(&mut chance, length);
        for _ in 0..chance.between(0, 4) {
            let deed = meddling(&mut chance, replicas);
            setup.at(&mut chance, length, deed);
        }
        for _ in 0..chance.between(0, 7) {
            let deed = trouble(&mut chance, replicas);
            setup.at(&mut chance, length, deed);
        }
        setup.embellish(length);
        setup.deeds.sort_by_key(|(at, _)| *at);
        setup
    }

    /// What some worlds have besides.
    fn embellish(&mut self, length: u64) {
        let mut chance = Chance::new(self.seed, 3);
        if chance.happens(0.25) {
            self.watch = Duration::from_secs(chance.one_of(&[120, 240]));
            // Both what was restored and what was left are there when it is over.
            if chance.happens(0.5) {
                let lasts = chance.span(30, 90);
                self.at(&mut chance, length, Deed::Outage { active: true, lasts });
            }
        }
        if chance.happens(0.15) {
            self.at(&mut chance, length, Deed::Hurry);
        }
    }

    fn at(&mut self, chance: &mut Chance, length: u64, deed: Deed) {
        let at = chance.span(QUIET_START, length - 20);
        self.deeds.push((at, deed));
    }

    fn releases(&mut self, chance: &mut Chance, length: u64) {
        let mut at = Duration::from_secs(QUIET_START) + chance.span(0, 60);
        while at < Duration::from_secs(length - 60) {
            let share = chance.one_of(&[0.002, 0.002, 0.15, 0.3, 0.6, 1.0]);
            let after = if chance.happens(0.25) {
                chance.span(20, 120)
            } else {
                Duration::ZERO
            };
            self.deeds.push((at, Deed::Release { share, after }));
            at += chance.span(90, 420);
        }
    }
}

fn meddling(chance: &mut Chance, replicas: usize) -> Deed {
    let daemon = chance.between(0, replicas as u64) as usize;
    match chance.between(0, 11) {
        0 => Deed::Swap,
        1 => Deed::Pause(chance.span(20, 150)),
        2 => Deed::Touch,
        3 => Deed::Stray(chance.span(5, 60)),
        4 => Deed::GitOps {
            delays: chance.one_of(&[vec![0], vec![0, 2, 6, 18], vec![30], vec![2, 6]]),
        },
        5 => Deed::Outage {
            active: true,
            lasts: chance.span(4, 90),
        },
        6 => Deed::Outage {
            active: false,
            lasts: chance.span(20, 240),
        },
        7 => Deed::Shared {
            share: chance.one_of(&[0.2, 0.8]),
            lasts: chance.span(20, 120),
        },
        8 => Deed::Restart {
            active: chance.happens(0.7),
        },
        9 => Deed::Ask {
            daemon,
            rollback: chance.happens(0.7),
        },
        _ => Deed::Redeploy,
    }
}

fn trouble(chance: &mut Chance, replicas: usize) -> Deed {
    let daemon = chance.between(0, replicas as u64) as usize;
    let who = if chance.happens(0.6) { Some(daemon) } else { None };
    let lasts = chance.span(5, 150);
    let fault = match chance.between(0, 15) {
        0..=3 => api(chance, who),
        4 => Fault::CutOff {
            who,
            silent: chance.happens(0.5),
        },
        5 => Fault::Stall { who },
        6 => Fault::Lag {
            who,
            by: chance.span(1, 8),
        },
        7 | 8 => Fault::Prometheus {
            who,
            lie: chance.one_of(&Lie::ALL),
            share: chance.one_of(&[0.3, 0.7, 1.0]),
        },
        9 => Fault::Chat {
            chat: chance.one_of(&CHATS).to_owned(),
            mood: chance.one_of(&[Mood::Limited(5), Mood::Limited(40), Mood::Broken, Mood::Silent, Mood::Forgetful]),
        },
        10 => {
            let lasts = lasts.min(Duration::from_secs(60));
            let fault = Fault::Disk { who: daemon };
            return Deed::Fault { fault, lasts };
        }
        11 => {
            return Deed::Step {
                daemon,
                seconds: chance.one_of(&[-3600, -90, -20, 20, 90, 1200, 3600]),
            };
        }
        12 => {
            let down = chance.one_of(&[Duration::from_millis(200), Duration::from_secs(3), Duration::from_secs(40)]);
            return Deed::Kill { daemon, down };
        }
        13 => {
            let fuse = Fuse {
                moment: chance.one_of(&[Moment::Sent, Moment::Applied, Moment::Told]),
                polls: chance.between(0, 12) as i64,
                down: chance.one_of(&[Duration::from_millis(200), Duration::from_secs(3), Duration::from_secs(20)]),
            };
            return Deed::Light { daemon, fuse };
        }
        _ => return chance.one_of(&[Deed::Cut, Deed::Compact]),
    };
    Deed::Fault { fault, lasts }
}

fn api(chance: &mut Chance, who: Option<usize>) -> Fault {
    let millis = |chance: &mut Chance, from, to| Duration::from_millis(chance.between(from, to));
    let trouble = match chance.between(0, 14) {
        0..=6 => Trouble::Refuse(chance.one_of(&[409, 422, 429, 403, 500, 503, 504, 401])),
        7 => Trouble::Swallow,
        8 => Trouble::Break,
        9 => Trouble::Slow(millis(chance, 100, 4500)),
        10 => Trouble::LoseAnswer,
        11 => Trouble::BreakAnswer,
        12 => Trouble::Deny(chance.one_of(&[500, 504])),
        _ => Trouble::Late(millis(chance, 500, 12_000)),
    };
    Fault::Api {
        who,
        on: chance.one_of(&[Requests::All, Requests::Writes, Requests::Writes, Requests::Reads]),
        trouble,
        share: chance.one_of(&[0.3, 0.7, 1.0]),
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} daemon(s), {} pods per color, {} requests/s{}, scraped every {} s, cooldown {} s, watch {} s{}, trouble until {}, over at {}",
            self.replicas,
            self.pods,
            self.rate,
            if self.leftover > 0.0 {
                " (a part of them stays on the other color)"
            } else {
                ""
            },
            self.scrape.as_secs(),
            self.cooldown.as_secs(),
            self.watch.as_secs(),
            if self.preview { ", with a preview Service" } else { "" },
            crate::story::clock(self.calm),
            crate::story::clock(self.end)
        )
    }
}
