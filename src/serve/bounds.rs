//! How often and from how many places somebody may ask: what acts, what guesses the token, and connections of one address.
//!
//! Commands over HTTP have one bucket for all who hold the token, since what they ask for costs the API server a write. Whoever brings a
//! wrong token is counted by address: beyond a handful nothing from there is looked at for a while, not even the right token, or the count
//! would slow nobody down. Reading (`/metrics`, `/healthz`, `/readyz`, the page, the API) is never counted: what could be starved by
//! somebody's guesses must not be what tells that flipback is alive. Of the places for connections one address gets half at most, so that
//! a single client, however slow or greedy, leaves the others theirs.
//!
//! The counting is `governor`'s (GCRA), over a clock of tokio's so that tests need not wait. Everything that is kept by address is
//! bounded; addresses of IPv6 count by their /64, which is what one customer has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use governor::{
    NotUntil, Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::routes::Problem;
use crate::metrics::Metrics;

/// Commands in a row, as when a script pauses a whole fleet; after that [`COMMANDS_PER_SECOND`].
const COMMANDS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Commands per second in the long run.
const COMMANDS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Wrong tokens in a row from one address: somebody who mistypes needs fewer.
const GUESSES_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// After that one wrong token in so long.
const GUESS_EVERY: Duration = Duration::from_secs(6);
/// Addresses remembered; beyond that all further ones share one count.
const ADDRESSES_MAX: usize = 4096;

/// Who asks. Without one (in a test without sockets) everybody is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(pub(super) IpAddr);

impl Peer {
    /// What is counted for one: the address, or the network that one customer has.
    fn counted(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }
}

/// Time since the server began.
#[derive(Clone, Copy, Debug)]
struct Beat(Instant);

impl Clock for Beat {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Commands = RateLimiter<NotKeyed, InMemoryState, Beat, NoOpMiddleware<Duration>>;
type Guesses = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, Beat, NoOpMiddleware<Duration>>;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(super) struct Rates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Beat,
    commands: Commands,
    guesses: Guesses,
    /// Until when nothing that needs the token is heard from an address.
    deaf: Mutex<HashMap<IpAddr, Duration>>,
    metrics: Metrics,
}

impl Rates {
    pub(super) fn new(metrics: Metrics) -> Self {
        let clock = Beat(Instant::now());
        let commands = Quota::per_second(COMMANDS_PER_SECOND).allow_burst(COMMANDS_AT_ONCE);
        let guesses = Quota::with_period(GUESS_EVERY).expect("not zero").allow_burst(GUESSES_AT_ONCE);
        Self(Arc::new(Inner {
            clock,
            commands: RateLimiter::new(commands, InMemoryState::default(), clock),
            guesses: RateLimiter::new(guesses, HashMapStateStore::default(), clock),
            deaf: Mutex::default(),
            metrics,
        }))
    }

    /// Whether a token from there is looked at now.
    pub(super) fn hear(&self, peer: Peer) -> Result<(), TooMany> {
        let now = self.0.clock.now();
        match self.deaf().get(&peer.counted()) {
            Some(until) if *until > now => Err(self.refused(Why::Guesses, *until - now)),
            _ => Ok(()),
        }
    }

    /// Notes a wrong token; an error when it was one too many.
    pub(super) fn guessed(&self, peer: Peer) -> Result<(), TooMany> {
        let inner = &self.0;
        let mut key = peer.counted();
        if inner.guesses.len() >= ADDRESSES_MAX {
            inner.guesses.retain_recent();
            if inner.guesses.len() >= ADDRESSES_MAX {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let Err(until) = inner.guesses.check_key(&key) else { return Ok(()) };
        let wait = self.wait(&until);
        let now = inner.clock.now();
        let mut deaf = self.deaf();
        if deaf.len() >= ADDRESSES_MAX {
            deaf.retain(|_, until| *until > now);
        }
        // One more of too many is refused this once, and counted with the rest the next time.
        if deaf.len() < ADDRESSES_MAX {
            deaf.insert(peer.counted(), now.saturating_add(wait));
        }
        drop(deaf);
        Err(self.refused(Why::Guesses, wait))
    }

    /// Takes the place of one command.
    pub(super) fn command(&self) -> Result<(), TooMany> {
        let checked = self.0.commands.check();
        checked.map_err(|until| self.refused(Why::Commands, self.wait(&until)))
    }

    fn wait(&self, until: &NotUntil<Duration>) -> Duration {
        until.wait_time_from(self.0.clock.now())
    }

    fn deaf(&self) -> MutexGuard<'_, HashMap<IpAddr, Duration>> {
        self.0.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, why: Why, wait: Duration) -> TooMany {
        self.0.metrics.http_refused.with_label_values(&[why.as_str()]).inc();
        TooMany { why, wait }
    }
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Commands,
    Guesses,
    Connections,
}

impl Why {
    /// As in the metric.
    fn as_str(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Guesses => "guesses",
            Self::Connections => "connections",
        }
    }
}

/// Refused: too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    why: Why,
    wait: Duration,
}

impl IntoResponse for TooMany {
    fn into_response(self) -> Response {
        // Whole seconds, and never so few that it would be too early.
        let seconds = self.wait.as_secs().saturating_add(1);
        let what = match self.why {
            Why::Guesses => "too many wrong tokens came from this address",
            Why::Commands | Why::Connections => "too many commands at once",
        };
        let problem = Problem {
            status: StatusCode::TOO_MANY_REQUESTS,
            error: "too_many_requests",
            message: format!("{what}; ask again in {seconds} s"),
        };
        let mut response = problem.into_response();
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        response
    }
}

/// Places for connections: so many in all, and so many for one address.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Connections per address; one that has none is not in it.
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of_one: usize,
    metrics: Metrics,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _one: OwnedSemaphorePermit,
}

impl Places {
    /// So many places.
    pub(super) fn new(count: usize, metrics: Metrics) -> Self {
        Self {
            all: Arc::new(Semaphore::new(count)),
            taken: Arc::default(),
            of_one: (count / 2).max(1),
            metrics,
        }
    }

    /// Waits until there is a place for anybody.
    pub(super) async fn any(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives the place to somebody; `None` when they have too many.
    pub(super) fn give(&self, one: OwnedSemaphorePermit, peer: Peer) -> Option<Place> {
        let of = peer.counted();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(of).or_default();
        if *count >= self.of_one {
            self.metrics.http_refused.with_label_values(&[Why::Connections.as_str()]).inc();
            return None;
        }
        *count += 1;
        Some(Place {
            of,
            taken: Arc::clone(&self.taken),
            _one: one,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(Metrics::new().expect("registers"))
    }

    fn peer(text: &str) -> Peer {
        Peer(text.parse().expect("an address"))
    }

    fn refused(metrics: &Metrics, why: Why) -> u64 {
        metrics.http_refused.with_label_values(&[why.as_str()]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_is_not_heard_for_a_while_and_nobody_else_pays_for_it() {
        let rates = rates();
        let (thief, owner) = (peer("10.0.0.66"), peer("10.0.0.7"));
        for guess in 0..GUESSES_AT_ONCE.get() {
            assert_eq!((rates.hear(thief), rates.guessed(thief)), (Ok(()), Ok(())), "guess {guess}");
        }
        let too_many = rates.guessed(thief).expect_err("one too many");
        assert!(too_many.wait > Duration::ZERO && too_many.wait <= GUESS_EVERY, "{too_many:?}");
        assert!(rates.hear(thief).is_err(), "not even the right one");
        assert_eq!(rates.hear(owner), Ok(()));
        assert_eq!(refused(&rates.0.metrics, Why::Guesses), 2);

        tokio::time::advance(GUESS_EVERY).await;
        assert_eq!(
            (rates.hear(thief), rates.guessed(thief)),
            (Ok(()), Ok(())),
            "one more each six seconds"
        );
        assert!(rates.guessed(thief).is_err() && rates.hear(thief).is_err());
        tokio::time::advance(GUESS_EVERY * 20).await;
        for _ in 0..GUESSES_AT_ONCE.get() {
            assert_eq!(rates.guessed(thief), Ok(()), "forgiven");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_can_be_paused_in_one_go_and_not_for_ever() {
        let rates = rates();
        for _ in 0..COMMANDS_AT_ONCE.get() {
            assert_eq!(rates.command(), Ok(()));
        }
        let response = rates.command().expect_err("too many").into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(refused(&rates.0.metrics, Why::Commands), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..COMMANDS_PER_SECOND.get() {
            assert_eq!(rates.command(), Ok(()));
        }
        assert!(rates.command().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_full_of_guessers_costs_no_more_memory_than_is_bounded() {
        let rates = rates();
        for n in 0..ADDRESSES_MAX * 3 {
            let address = Ipv6Addr::new(
                0x2001,
                0xdb8,
                u16::try_from(n >> 8).expect("small"),
                u16::try_from(n & 0xff).expect("small"),
                1,
                2,
                3,
                4,
            );
            let _ = rates.guessed(Peer(IpAddr::V6(address)));
        }
        assert!(rates.0.guesses.len() <= ADDRESSES_MAX + 1, "{}", rates.0.guesses.len());
        assert!(rates.deaf().len() <= ADDRESSES_MAX);
        tokio::time::advance(GUESS_EVERY * 20).await;
        assert_eq!(rates.guessed(peer("10.0.0.1")), Ok(()), "what is long over is forgotten");
        assert!(rates.0.guesses.len() < 10);
    }

    #[test]
    fn one_customer_is_one_whatever_address_they_choose() {
        assert_eq!(peer("2001:db8:1:2:a::1").counted(), peer("2001:db8:1:2:ffff::2").counted());
        assert_ne!(peer("2001:db8:1:2::1").counted(), peer("2001:db8:1:3::1").counted());
        assert_eq!(peer("::ffff:10.0.0.7").counted(), peer("10.0.0.7").counted());
        assert_ne!(peer("10.0.0.7").counted(), peer("10.0.0.8").counted());
    }

    #[tokio::test]
    async fn one_address_takes_half_of_the_places_at_most_and_gives_them_back() {
        let places = Places::new(4, Metrics::new().expect("registers"));
        let (greedy, other) = (peer("10.0.0.66"), peer("10.0.0.7"));
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(places.give(places.any().await.expect("free"), greedy).expect("within its half"));
        }
        assert!(places.give(places.any().await.expect("free"), greedy).is_none());
        let of_other = places.give(places.any().await.expect("free"), other).expect("its own");
        assert_eq!(refused(&places.metrics, Why::Connections), 1);
        held.clear();
        assert!(places.give(places.any().await.expect("free"), greedy).is_some());
        drop(of_other);
        assert!(places.taken.lock().expect("whole").is_empty(), "nobody is remembered who has none");
        assert_eq!(places.all.available_permits(), 4);
    }
}
