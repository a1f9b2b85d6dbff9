//! What must happen in time. Each due has premises, all of them about the world; while they hold without a break its
//! time runs, and when it runs out before the deed is done, a promise is broken.

use std::time::Duration;

use flipback::model::{Topic, ledger::PAUSE_ANNOTATION};
use serde_json::Value;

use crate::{
    faults::Weather,
    invariants::Judge,
    script::{CHATS, Setup},
    truth::{BAD, Truth, other},
};

/// The policy: `poll`, `consecutive`, `blind_after`, `flips_per_day`, and how often what lasts is told again.
const POLL: Duration = Duration::from_secs(5);
const CONSECUTIVE: u32 = 3;
const BLIND_AFTER: Duration = Duration::from_secs(60);
const FLIPS_PER_DAY: usize = 3;
const TOLD_AGAIN: Duration = Duration::from_secs(5 * 60);
/// After a trouble: the backoff of a watch (2 s), its list (5 s), and what a look or a flip from before still holds
/// (4 s; 1 s for the read, 5 s for the patch, 4 s to learn what became of it).
const RECOVER: Duration = Duration::from_secs(22);
/// A Lease whose holder died runs out after 15 s, and is taken within a renewal or two.
const LEASE: Duration = Duration::from_secs(20);
/// A leader that sees nothing is blind after `blind_after`; when the other one has seen for 15 s what it has not, it makes room, within
/// a look, a round of either, and one to take the Lease.
const GROPING: Duration = Duration::from_secs(60 + 15 + 15);
/// A replica is given what another has when it has watched for so long.
const SEASONED: Duration = Duration::from_secs(30);
/// A clock that is ahead of Prometheus' by so many seconds makes what it measures look older than a switch: until the
/// samples have caught up nothing is judged. A limit that `docs/simulation.md` names.
const AHEAD: i64 = 2;
/// A chat that failed is tried again after 30 s, or after the 40 s that it asks for here; a message takes its way.
const CHAT: Duration = Duration::from_secs(50);
/// A dead watch is noticed after 35 s, and its cache counts as the truth for 30 s more.
const LOST: Duration = Duration::from_secs(70);

/// One thing that is due while its premises hold.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    since: Option<Duration>,
    told: bool,
}

impl Due {
    /// How long its premises have held by now.
    fn held(&mut self, holds: bool, now: Duration) -> Option<Duration> {
        self.held_since(holds.then_some(Duration::ZERO), now)
    }

    /// The same, where they did not hold before an instant. `None`: they do not hold.
    fn held_since(&mut self, earliest: Option<Duration>, now: Duration) -> Option<Duration> {
        let Some(earliest) = earliest else {
            *self = Self::default();
            return None;
        };
        let since = self.since.insert(self.since.unwrap_or(now).max(earliest));
        Some(now.saturating_sub(*since))
    }
}

/// Why a daemon cannot do what is due, while another can take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    /// Dead, or cut off from the API server: its Lease runs out.
    Gone,
    /// It reaches the API server, and nothing of Prometheus: it gives its Lease away.
    Blind,
}

impl Out {
    /// How long another takes to be the leader.
    fn takes(self) -> Duration {
        match self {
            Self::Gone => LEASE,
            Self::Blind => GROPING,
        }
    }
}

/// All dues.
#[derive(Clone, Debug)]
pub struct Dues {
    pub now: Duration,
    /// How long a flip may take from when it could be made, decided and sent.
    pub flip_bound: Duration,
    /// How long after a switch every rule may flip; later only the slow ones do.
    watch: Duration,
    errors: Due,
    empty: Due,
    refused: Due,
    blind: Due,
    unreadable: Due,
    unknown: Due,
    unsound: Vec<bool>,
    /// Since when each daemon has been fit to do what is due: up, its clock right, in sight of the API server and of Prometheus.
    fit: Vec<Option<Duration>>,
    /// How each of the others is out, if so.
    out: Vec<Option<Out>>,
    /// When one went out, and how.
    lost: Vec<(Duration, Out)>,
    /// The longest that a flip took that was due, for the closing line.
    pub slowest: Duration,
}

impl Dues {
    pub fn new(setup: &Setup) -> Self {
        let unit = setup.scrape.max(POLL);
        // A baseline, N intervals and one that the switch cut in two; the look that sees the last of them.
        let detect = setup.scrape + unit * (CONSECUTIVE + 1) + POLL;
        Self {
            now: Duration::ZERO,
            flip_bound: detect + POLL + RECOVER + if setup.replicas > 1 { LEASE } else { Duration::ZERO },
            watch: setup.watch,
            errors: Due::default(),
            empty: Due::default(),
            refused: Due::default(),
            blind: Due::default(),
            unreadable: Due::default(),
            unknown: Due::default(),
            unsound: vec![false; setup.replicas],
            fit: vec![None; setup.replicas],
            out: vec![None; setup.replicas],
            lost: Vec::new(),
            slowest: Duration::ZERO,
        }
    }

    /// Whether a daemon's road was in trouble at the last look.
    pub fn unsound(&self, daemon: usize) -> bool {
        self.unsound[daemon]
    }

    /// How much later than by the bound something may be done that has been due for so long: a Lease runs out for each replica
    /// that was lost meanwhile, and the others have to take it.
    fn later(&self, held: Duration) -> Duration {
        let since = self.now.saturating_sub(held);
        // A dead one's Lease runs out by the clock, while a blind one may have just begun to be.
        let counts = |(at, how): &&(Duration, Out)| *at >= since || (*how == Out::Blind && *at + how.takes() >= since);
        self.lost.iter().filter(counts).map(|(_, how)| how.takes()).sum()
    }

    /// A flip was made.
    pub fn moved(&mut self, automatic: bool) {
        let since = self.errors.since.or(self.empty.since);
        if let Some(since) = since.filter(|_| automatic) {
            self.slowest = self.slowest.max(self.now.saturating_sub(since));
        }
        self.errors = Due::default();
        self.empty = Due::default();
        self.refused = Due::default();
    }
}

impl Judge {
    /// Looks at everything that is due, once a second.
    pub fn second(
        &mut self,
        now: Duration,
        active: Option<&'static str>,
        service: Option<&Value>,
        truth: &Truth,
        weather: &Weather,
        up: &[bool],
    ) {
        self.dues.now = now;
        let paused = service.is_some_and(|service| service["metadata"]["annotations"].get(PAUSE_ANNOTATION).is_some());
        self.paused = if paused { self.paused.or(Some(now)) } else { None };
        for (daemon, unsound) in self.dues.unsound.iter_mut().enumerate() {
            *unsound = weather.api(daemon);
            if *unsound {
                self.daemons[daemon].disturbed = Some(now);
            }
        }
        let living: Vec<usize> = (0..up.len()).filter(|daemon| up[*daemon]).collect();
        let all = |holds: &dyn Fn(usize) -> bool| !living.is_empty() && living.iter().all(|daemon| holds(*daemon));
        // A kill, a start or a stepped clock begins every time anew.
        let settled = up.iter().all(|up| *up)
            && self.daemons.iter().all(|known| {
                let steady = |then: Option<Duration>| then.is_none_or(|then| now.saturating_sub(then) > POLL);
                known.ahead <= AHEAD && steady(known.stepped) && steady(Some(known.since))
            });
        let reach = all(&|daemon| !weather.api(daemon));
        let chats = CHATS.iter().all(|chat| weather.mood(chat).is_none());
        let watched = now.saturating_sub(self.switched) + POLL < self.dues.watch;
        let survivor = self.survivor(now, weather, up).filter(|_| watched);
        if let Some(active) = active {
            self.due_flip(now, active, truth, survivor, paused, chats);
        } else {
            self.due_flip(now, "blue", truth, None, paused, chats);
        }
        let dark = all(&|daemon| weather.lies(daemon).iter().any(|(lie, share)| *share >= 1.0 && lie.blinds()));
        let blind = settled && reach && dark && chats && active.is_some();
        self.due_word(now, blind, BLIND_AFTER + POLL * 3 + RECOVER + CHAT, Topic::Blind, |dues| {
            &mut dues.blind
        });
        let gone = settled && chats && all(&|daemon| weather.cut_off(daemon).is_some());
        self.due_word(now, gone, LOST + POLL + RECOVER + CHAT, Topic::Unreadable, |dues| {
            &mut dues.unreadable
        });
        let unknown = settled && reach && chats && active.is_none();
        self.due_word(now, unknown, POLL * 2 + RECOVER + CHAT, Topic::UnknownColor, |dues| {
            &mut dues.unknown
        });
    }

    /// Since when one daemon has been fit without a break. The others may die, come back, be cut off from the API server, which makes the
    /// Lease run out, and see nothing of Prometheus, which makes them give it away. `None` where there is no such one, or where another holds the Lease, perhaps, and can do nothing with it.
    fn survivor(&mut self, now: Duration, weather: &Weather, up: &[bool]) -> Option<Duration> {
        let mut sick = false;
        for (daemon, known) in self.daemons.iter().enumerate() {
            let steady = |then: Option<Duration>| then.is_none_or(|then| now.saturating_sub(then) > POLL);
            let lies = weather.lies(daemon);
            let dark = !weather.api(daemon) && lies.iter().any(|(lie, share)| *share >= 1.0 && lie.blinds());
            let out = if !up[daemon] || weather.cut_off(daemon).is_some() {
                Some(Out::Gone)
            } else {
                dark.then_some(Out::Blind)
            };
            let sees = !weather.api(daemon) && lies.is_empty();
            let well = out.is_none() && sees && known.ahead <= AHEAD && steady(known.stepped);
            let fit = well && steady(Some(known.since));
            sick |= out.is_none() && !well;
            let goes_out = out.filter(|out| self.dues.out[daemon] != Some(*out));
            self.dues.out[daemon] = out;
            if !fit && self.dues.fit[daemon].take().is_some() || goes_out.is_some() {
                self.dues.lost.push((now, out.unwrap_or(Out::Gone)));
            }
            if fit {
                self.dues.fit[daemon].get_or_insert(now);
            }
        }
        let any_blind = self.dues.out.contains(&Some(Out::Blind));
        let ready = self.dues.fit.iter().zip(&self.daemons).filter_map(|(fit, known)| {
            let seasoned = if any_blind { known.since + SEASONED } else { Duration::ZERO };
            fit.map(|fit| fit.max(seasoned)).filter(|ready| *ready <= now)
        });
        ready.min().filter(|_| !sick)
    }

    /// Bad active, able standby, reachable API: flipped. Bad and not to be flipped: told. `survivor`: since when there has been
    /// somebody who could.
    fn due_flip(&mut self, now: Duration, active: &str, truth: &Truth, survivor: Option<Duration>, paused: bool, chats: bool) {
        let standby = other(active);
        let (live, rest) = (truth.side(active), truth.side(standby));
        let empty = live.ready == 0;
        let errors = !empty && truth.share(active, now) >= BAD;
        let last = self.flips.iter().rfind(|flip| flip.automatic || flip.bad);
        // By a clock that was stepped back, or is behind that of whoever flipped, the cooldown ends so much later.
        let clocks = self.daemons.iter().map(|known| known.ahead);
        let apart = clocks.clone().max().unwrap_or_default() - clocks.min().unwrap_or_default();
        let back = self.daemons.iter().map(|known| known.back).max().unwrap_or_default();
        let longer = Duration::from_secs(back.max(apart.unsigned_abs()));
        let free = last.is_none_or(|last| now.saturating_sub(last.at) > self.cooldown + longer);
        let report_only = last.is_some_and(|last| last.to == active);
        let stands_against = rest.unable.is_some()
            || truth.share(standby, now) >= BAD
            || self.perhaps_auto_left.contains(&(active.to_owned(), live.release))
            || self.perhaps_bad_left.contains(&(standby.to_owned(), rest.release))
            || self.flips.iter().filter(|flip| flip.automatic).count() >= FLIPS_PER_DAY
            || !free
            || report_only
            || self.switched_from_bad
            || paused;
        let bound = self.dues.flip_bound;
        for (holds, what) in [(errors, "answers with errors"), (empty, "has no Ready pod")] {
            let due = if empty == (what == "has no Ready pod") { holds } else { false };
            let place = if what == "has no Ready pod" {
                &mut self.dues.empty
            } else {
                &mut self.dues.errors
            };
            let Some(held) = place.held_since(survivor.filter(|_| due && !stands_against), now) else {
                continue;
            };
            let told = place.told;
            if held > bound + self.dues.later(held) && !told {
                let place = if empty { &mut self.dues.empty } else { &mut self.dues.errors };
                place.told = true;
                let told = format!(
                    "FLIPPED WITHIN THE BOUND: {active} {what}, {standby} is able, somebody reaches everything, for {} s by now",
                    held.as_secs()
                );
                self.violated(now, told);
            }
        }
        let refused = survivor.filter(|_| (errors || empty) && stands_against && chats);
        let Some(held) = self.dues.refused.held_since(refused, now) else {
            return;
        };
        let since = now.saturating_sub(held).saturating_sub(TOLD_AGAIN);
        let told = self.messages.iter().any(|heard| heard.at >= since && tells_of_refusal(heard.topic));
        if held > bound + self.dues.later(held) + CHAT && !told && !self.dues.refused.told {
            self.dues.refused.told = true;
            let told = format!(
                "BLOCKED IS ANNOUNCED WITHIN THE BOUND: {active} is bad, for {} s by now, and no chat knows why",
                held.as_secs()
            );
            self.violated(now, told);
        }
    }

    /// What lasts is told.
    fn due_word(&mut self, now: Duration, holds: bool, bound: Duration, topic: Topic, place: fn(&mut Dues) -> &mut Due) {
        let due = place(&mut self.dues);
        let Some(held) = due.held(holds, now) else { return };
        let since = now.saturating_sub(held).saturating_sub(TOLD_AGAIN);
        if held > bound && !due.told && !self.messages.iter().any(|heard| heard.at >= since && heard.topic == topic) {
            place(&mut self.dues).told = true;
            self.violated(
                now,
                format!("TOLD WITHIN THE BOUND: {} has been true for {} s", topic.as_str(), held.as_secs()),
            );
        }
    }
}

/// Whether a message tells people that something is bad and is not being flipped.
fn tells_of_refusal(topic: Topic) -> bool {
    matches!(
        topic,
        Topic::RollbackBlocked
            | Topic::RollbackSuppressed
            | Topic::RollbackFailed
            | Topic::DidNotHelp
            | Topic::FlippedBack
            | Topic::Disarmed
    )
}
