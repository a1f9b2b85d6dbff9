//! What the applications of the town count, second by second: written beforehand, so that the daemon's numbers can be told.
//!
//! Every color of every guard has one target that is scraped once a second. Its counters are a pure function of the guard, the color,
//! the second and the phases that were scripted for it: nothing is measured, and nothing is random but by number. The counts are large
//! (a million requests a second), so that a share tells from which seconds it was made.

use std::sync::{Mutex, PoisonError};

/// Over this share an interval breaches: the default of `error_rate`.
pub const THRESHOLD: f64 = 0.05;
/// A share of bad requests that is no news, at most.
const CALM_MAX: u64 = 20_000;
/// Requests a second; a little more for each further guard and for the other color, so that no two divide alike.
const REQUESTS: u64 = 1_000_003;

/// One of the two colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `blue`.
    Blue,
    /// `green`.
    Green,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Blue, Self::Green];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|side| side.name() == name)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

/// A time in which a color is bad.
#[derive(Clone, Copy, Debug)]
struct Phase {
    from: u64,
    to: u64,
    /// In percent of the requests, at least; up to ten more.
    percent: u64,
}

#[derive(Debug, Default)]
struct Counted {
    phases: Vec<Phase>,
    /// Bad requests up to and including each second since the beginning.
    bad: Vec<u64>,
}

/// The whole script. Seconds are since 1970.
#[derive(Debug)]
pub struct Script {
    begun: u64,
    /// By guard, both colors.
    counted: Vec<[Mutex<Counted>; 2]>,
}

/// Well mixed bits of some numbers.
fn mixed(guard: usize, side: Side, second: u64, salt: u64) -> u64 {
    let mut x = (guard as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ second.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x ^= salt.wrapping_mul(0x94D0_49BB_1331_11EB) ^ if side == Side::Blue { 0 } else { 0xBF58_476D_1CE4_E5B9 };
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Script {
    /// A script in which `guards` guards are well from `begun` on.
    #[must_use]
    pub fn new(guards: usize, begun: u64) -> Self {
        Self {
            begun,
            counted: (0..guards).map(|_| [Mutex::default(), Mutex::default()]).collect(),
        }
    }

    /// When it begins.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Requests of a color in each second.
    #[must_use]
    pub fn requests(guard: usize, side: Side) -> u64 {
        REQUESTS + 2 * guard as u64 + if side == Side::Blue { 0 } else { 500_000 }
    }

    /// Makes a color bad from one second to before another; both in the future.
    pub fn spoil(&self, guard: usize, side: Side, from: u64, to: u64, percent: u64) {
        self.edit(guard, side, |counted| counted.phases.push(Phase { from, to, percent }));
    }

    /// Ends what is bad of a color from a second in the future on.
    pub fn mend(&self, guard: usize, side: Side, from: u64) {
        self.edit(guard, side, |counted| {
            counted.phases.iter_mut().for_each(|phase| phase.to = phase.to.min(from));
            counted.phases.retain(|phase| phase.from < phase.to);
        });
    }

    /// All requests of a color up to a second.
    #[must_use]
    pub fn total(&self, guard: usize, side: Side, second: u64) -> u64 {
        second.saturating_sub(self.begun) * Self::requests(guard, side)
    }

    /// The bad ones among them.
    #[must_use]
    pub fn bad(&self, guard: usize, side: Side, second: u64) -> u64 {
        let index = second.saturating_sub(self.begun);
        self.edit(guard, side, |counted| {
            while (counted.bad.len() as u64) <= index {
                let n = counted.bad.len() as u64;
                let before = counted.bad.last().copied().unwrap_or_default();
                let more = if n == 0 {
                    0
                } else {
                    increment(guard, side, self.begun + n, &counted.phases)
                };
                counted.bad.push(before + more);
            }
            usize::try_from(index)
                .ok()
                .and_then(|index| counted.bad.get(index))
                .copied()
                .unwrap_or_default()
        })
    }

    /// The share of bad requests after one second, up to and with another.
    #[must_use]
    pub fn share(&self, guard: usize, side: Side, after: u64, to: u64) -> f64 {
        let bad = self.bad(guard, side, to) - self.bad(guard, side, after);
        let total = self.total(guard, side, to) - self.total(guard, side, after);
        // Exact: both are far below 2^53, and so the daemon divides the same two numbers.
        bad as f64 / total as f64
    }

    fn edit<T>(&self, guard: usize, side: Side, edit: impl FnOnce(&mut Counted) -> T) -> T {
        let [blue, green] = &self.counted[guard];
        let counted = if side == Side::Blue { blue } else { green };
        edit(&mut counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bad requests of one second.
fn increment(guard: usize, side: Side, second: u64, phases: &[Phase]) -> u64 {
    let requests = Script::requests(guard, side);
    let chance = mixed(guard, side, second, 1);
    if let Some(phase) = phases.iter().find(|phase| (phase.from..phase.to).contains(&second)) {
        return requests * phase.percent / 100 + chance % (requests / 10);
    }
    let calm = 1 + chance % CALM_MAX;
    if is_blip(guard, side, second) {
        calm + requests / 4 + chance % (requests / 20)
    } else {
        calm
    }
}

/// One or two bad seconds now and then, which nobody is rolled back for.
fn is_blip(guard: usize, side: Side, second: u64) -> bool {
    let every = 26 + mixed(guard, side, 0, 2) % 13;
    let (turn, within) = (second / every, second % every);
    // Never two within 19 s: an outage that makes one interval of ten seconds would put them into one streak, and that is a fault.
    let at = 8 + mixed(guard, side, turn, 3) % (every - 20);
    let lasts = 1 + mixed(guard, side, turn, 4) % 2;
    (at..at + lasts).contains(&within)
}
