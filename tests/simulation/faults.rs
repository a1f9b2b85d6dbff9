//! What can be wrong with the world for a while, and how each thing is told.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    api::{Requests, Road, Trouble},
    chats::Mood,
    measure::Lie,
};

/// Something that is wrong for a while.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Requests to the API server meet a trouble, each with this probability.
    Api {
        who: Option<usize>,
        on: Requests,
        trouble: Trouble,
        share: f64,
    },
    /// No way to the API server: silence, or refused connections.
    CutOff { who: Option<usize>, silent: bool },
    /// Open watches go silent and nobody notices.
    Stall { who: Option<usize> },
    /// Watches are late.
    Lag { who: Option<usize>, by: Duration },
    /// Prometheus does not tell what is.
    Prometheus { who: Option<usize>, lie: Lie, share: f64 },
    /// A chat misbehaves.
    Chat { chat: String, mood: Mood },
    /// A daemon's data folder refuses every write.
    Disk { who: usize },
}

fn whose(who: Option<usize>) -> String {
    who.map_or_else(|| "every daemon".to_owned(), |who| format!("daemon {who}"))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api { who, on, trouble, share } => {
                let on = match on {
                    Requests::All => "requests",
                    Requests::Reads => "reads",
                    Requests::Writes => "writes",
                };
                write!(
                    f,
                    "{:.0} % of the {on} of {} to the API server: {trouble:?}",
                    share * 100.0,
                    whose(*who)
                )
            }
            Self::CutOff { who, silent: true } => write!(f, "{} is cut off from the API server, without a word", whose(*who)),
            Self::CutOff { who, silent: false } => write!(f, "the API server refuses connections of {}", whose(*who)),
            Self::Stall { who } => write!(f, "the watches of {} go silent unnoticed", whose(*who)),
            Self::Lag { who, by } => write!(f, "the watches of {} are {} s late", whose(*who), by.as_secs()),
            Self::Prometheus { who, lie, share } => {
                write!(
                    f,
                    "Prometheus answers {:.0} % of the looks of {} with {lie:?}",
                    share * 100.0,
                    whose(*who)
                )
            }
            Self::Chat { chat, mood } => write!(f, "the chat {chat} is {mood:?}"),
            Self::Disk { who } => write!(f, "the disk of daemon {who} refuses every write"),
        }
    }
}

impl Fault {
    /// Its kind in a word, for the summary of a failing seed.
    pub fn kind(&self) -> String {
        match self {
            Self::Api { trouble, .. } => {
                let told = format!("{trouble:?}");
                format!("api {}", told.split('(').next().unwrap_or_default().to_lowercase())
            }
            Self::CutOff { .. } => "partition".into(),
            Self::Stall { .. } => "stale watch".into(),
            Self::Lag { .. } => "late watch".into(),
            Self::Prometheus { lie, .. } => format!("prometheus {lie:?}").to_lowercase(),
            Self::Chat { mood, .. } => format!("chat {mood:?}").to_lowercase(),
            Self::Disk { .. } => "disk".into(),
        }
    }
}

/// What is wrong right now.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    on: BTreeMap<u64, Fault>,
    next: u64,
}

fn hits(who: Option<usize>, daemon: usize) -> bool {
    who.is_none_or(|who| who == daemon)
}

impl Weather {
    /// Something goes wrong; returns its number.
    pub fn begin(&mut self, fault: Fault) -> u64 {
        self.next += 1;
        self.on.insert(self.next, fault);
        self.next
    }

    /// It ends.
    pub fn end(&mut self, number: u64) -> Option<Fault> {
        self.on.remove(&number)
    }

    /// Everything ends.
    pub fn clear(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.on).into_values().collect()
    }

    /// The troubles that a request of a daemon may meet.
    pub fn troubles(&self, daemon: usize, read: bool) -> Vec<(Trouble, f64)> {
        let of = |fault: &Fault| match fault {
            Fault::Api { who, on, trouble, share } if hits(*who, daemon) => {
                let meets = match on {
                    Requests::All => true,
                    Requests::Reads => read,
                    Requests::Writes => !read,
                };
                meets.then(|| (trouble.clone(), *share))
            }
            _ => None,
        };
        self.on.values().filter_map(of).collect()
    }

    /// Whether a daemon is cut off, and whether silently.
    pub fn cut_off(&self, daemon: usize) -> Option<bool> {
        self.on.values().find_map(|fault| match fault {
            Fault::CutOff { who, silent } if hits(*who, daemon) => Some(*silent),
            _ => None,
        })
    }

    /// How a daemon's road is, but for its cuts.
    pub fn road(&self, daemon: usize) -> Road {
        let mut road = Road::default();
        for fault in self.on.values() {
            match fault {
                Fault::Stall { who } | Fault::CutOff { who, silent: true } if hits(*who, daemon) => road.stalled = true,
                Fault::Lag { who, by } if hits(*who, daemon) => road.lag = road.lag.max(*by),
                _ => {}
            }
        }
        road
    }

    /// The lies that a look of a daemon may meet.
    pub fn lies(&self, daemon: usize) -> Vec<(Lie, f64)> {
        let of = |fault: &Fault| match fault {
            Fault::Prometheus { who, lie, share } if hits(*who, daemon) => Some((*lie, *share)),
            _ => None,
        };
        self.on.values().filter_map(of).collect()
    }

    /// How a chat answers.
    pub fn mood(&self, chat: &str) -> Option<Mood> {
        self.on.values().find_map(|fault| match fault {
            Fault::Chat { chat: name, mood } if name == chat => Some(*mood),
            _ => None,
        })
    }

    /// Whether a daemon's disk refuses.
    pub fn disk(&self, daemon: usize) -> bool {
        self.on.values().any(|fault| matches!(fault, Fault::Disk { who } if *who == daemon))
    }

    /// Whether anything stands between a daemon and the API server.
    pub fn api(&self, daemon: usize) -> bool {
        self.on.values().any(|fault| match fault {
            Fault::Api { who, .. } | Fault::CutOff { who, .. } | Fault::Stall { who } | Fault::Lag { who, .. } => hits(*who, daemon),
            _ => false,
        })
    }
}
