//! The decisions about a Lease, and a world of replicas that are slow, cut off, stopped and woken, in which never two lead.

use proptest::prelude::*;

use super::*;

const MINE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(2);

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn held(by: &str, renewed: &str) -> Record {
    Record {
        holder: by.to_owned(),
        duration: MINE,
        renewed: renewed.to_owned(),
        transitions: 1,
    }
}

fn seen(record: Record, now: f64) -> Observed {
    Observed::see(None, Some(record), at(now))
}

fn act(observed: &Observed, now: f64, wish: Wish) -> Act {
    next(observed, "me", MINE, at(now), wish)
}

fn given_back() -> Record {
    Record {
        duration: Duration::ZERO,
        ..held("", "t")
    }
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let free = seen(given_back(), 5.0);
    assert_eq!(act(&free, 5.0, Wish::Hold), Act::Take);
    assert_eq!(act(&free, 6.9, Wish::After(RENEW)), Act::Follow);
    assert_eq!(act(&free, 7.0, Wish::After(RENEW)), Act::Take);
    assert_eq!(act(&free, 700.0, Wish::Give { writing: false }), Act::Follow);
}

#[test]
fn a_lease_that_is_not_there_is_made_and_taken_when_a_holder_of_a_deleted_one_must_have_stopped() {
    let none = Observed::see(None, None, at(5.0));
    assert_eq!(act(&none, 5.0, Wish::Hold), Act::Create);
    let made = Observed::see(Some(none), Some(held("", "t")), at(6.0));
    assert_eq!(act(&made, 20.9, Wish::Hold), Act::Follow);
    assert_eq!(act(&made, 21.0, Wish::Hold), Act::Take);
    for holder in ["other", "me", ""] {
        let deleted = Observed::see(Some(seen(held(holder, "t"), 0.0)), None, at(10.0));
        assert_eq!(act(&deleted, 10.0, Wish::Hold), Act::Create);
        assert_eq!(deleted.holder(MINE, at(10.0)), None);
    }
}

#[test]
fn anothers_lease_runs_out_by_our_own_clock_from_when_we_saw_it() {
    // Its times say anything: a clock that is a day ahead, one that is a day behind, none at all.
    for renewed in ["2026-11-22T13:00:00Z", "2026-11-20T13:00:00Z", ""] {
        let other = seen(held("other", renewed), 100.0);
        assert_eq!(act(&other, 100.0, Wish::Hold), Act::Follow, "{renewed}");
        assert_eq!(act(&other, 114.999, Wish::Hold), Act::Follow, "{renewed}");
        assert_eq!(act(&other, 115.0, Wish::Hold), Act::Take, "{renewed}");
        assert_eq!(act(&other, 116.9, Wish::After(RENEW)), Act::Follow, "{renewed}");
        assert_eq!(other.holder(MINE, at(114.9)), Some("other"));
        assert_eq!(other.holder(MINE, at(115.0)), None);
    }
}

#[test]
fn any_change_of_the_record_begins_its_time_anew_and_none_does_not() {
    let first = seen(held("other", "1"), 100.0);
    let same = Observed::see(Some(first.clone()), Some(held("other", "1")), at(110.0));
    assert_eq!(same, first, "a reading of the same record proves nothing");
    // A holder whose clock was set back still renews.
    let renewed = Observed::see(Some(same), Some(held("other", "0")), at(112.0));
    assert_eq!(act(&renewed, 126.9, Wish::Hold), Act::Follow);
    assert_eq!(act(&renewed, 127.0, Wish::Hold), Act::Take);
}

#[test]
fn the_time_a_holder_claims_is_the_time_it_gets() {
    let patient = Record {
        duration: at(60.0),
        ..held("other", "t")
    };
    assert_eq!(act(&seen(patient, 0.0), 59.9, Wish::Hold), Act::Follow);
    let silent = Record {
        duration: Duration::ZERO,
        ..held("other", "t")
    };
    assert_eq!(act(&seen(silent.clone(), 0.0), 14.9, Wish::Hold), Act::Follow);
    assert_eq!(act(&seen(silent, 0.0), 15.0, Wish::Hold), Act::Take);
    let endless = Record {
        duration: Duration::MAX,
        ..held("other", "t")
    };
    assert_eq!(act(&seen(endless, 1.0), 1e9, Wish::Hold), Act::Follow);
}

#[test]
fn our_own_is_renewed_also_when_it_ran_out_and_given_away_when_nothing_is_being_written() {
    let ours = seen(held("me", "t"), 0.0);
    for now in [0.0, 10.0, 1000.0] {
        assert_eq!(act(&ours, now, Wish::Hold), Act::Renew);
        assert_eq!(act(&ours, now, Wish::After(RENEW)), Act::Renew);
        assert_eq!(act(&ours, now, Wish::Give { writing: true }), Act::Renew);
        assert_eq!(act(&ours, now, Wish::Give { writing: false }), Act::Release);
    }
}

#[test]
fn what_a_lease_says_is_read_with_care() {
    let lease = |spec: serde_json::Value| -> Lease {
        let json = serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": spec});
        serde_json::from_value(json).expect("a Lease")
    };
    let whole = lease(serde_json::json!({
        "holderIdentity": "flipback-0_1", "leaseDurationSeconds": 15, "renewTime": "2026-11-21T13:00:00.000001Z", "leaseTransitions": 3
    }));
    let record = Record::of(&whole);
    assert_eq!(
        (record.holder.as_str(), record.duration, record.transitions),
        ("flipback-0_1", MINE, 3)
    );
    let odd = Record::of(&lease(serde_json::json!({"leaseDurationSeconds": -4})));
    assert_eq!((odd.holder.as_str(), odd.duration), ("", Duration::ZERO));
    assert_eq!(Record::of(&Lease::default()), odd);
}

/// One replica in the world: a monotonic clock with an origin of its own, and what it believes.
#[derive(Clone)]
struct Replica {
    me: String,
    /// What its clock shows more than the world's.
    ahead: Duration,
    observed: Option<Observed>,
    version: u64,
    /// Until when it leads, by its own clock.
    until: Duration,
    /// A write that it decided on and has not sent yet: with which version, decided when.
    pending: Option<(Act, u64, Duration)>,
}

/// What happens next in the world.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, in milliseconds.
    Wait(u64),
    /// A replica reads the Lease.
    Read(usize),
    /// A replica decides, and its write is on its way.
    Decide(usize, bool),
    /// The write arrives; its answer is lost where so.
    Arrive(usize, bool),
    /// Somebody deletes the Lease.
    Delete,
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0_usize..3;
    prop_oneof![
        4 => (1_u64..6_000).prop_map(Event::Wait),
        4 => who.clone().prop_map(Event::Read),
        4 => (who.clone(), any::<bool>()).prop_map(|(who, give)| Event::Decide(who, give)),
        4 => (who, any::<bool>()).prop_map(|(who, lost)| Event::Arrive(who, lost)),
        1 => Just(Event::Delete),
    ]
}

/// The API server's Lease: compare-and-swap on its version.
#[derive(Default)]
struct Server {
    record: Option<Record>,
    version: u64,
    writes: u64,
}

impl Server {
    fn write(&mut self, act: Act, version: u64, me: &str) -> Option<u64> {
        let expected = if act == Act::Create {
            self.record.is_none()
        } else {
            self.record.is_some() && self.version == version
        };
        if !expected {
            return None;
        }
        self.writes += 1;
        self.version = self.writes;
        // Its wall clock is a bad one.
        let renewed = format!("{}", self.writes % 3);
        self.record = Some(match act {
            Act::Release => given_back(),
            Act::Create => held("", &renewed),
            _ => held(me, &renewed),
        });
        Some(self.version)
    }
}

impl Replica {
    fn now(&self, world: Duration) -> Duration {
        world + self.ahead
    }

    fn decide(&mut self, world: Duration, give: bool) {
        let now = self.now(world);
        let Some(observed) = &self.observed else { return };
        let wish = if give { Wish::Give { writing: false } } else { Wish::Hold };
        let act = next(observed, &self.me, MINE, now, wish);
        if act == Act::Follow {
            return;
        }
        if act == Act::Release {
            self.until = Duration::ZERO;
        }
        self.pending = Some((act, self.version, now));
    }

    fn arrive(&mut self, server: &mut Server, world: Duration, lost: bool) {
        let Some((act, version, sent)) = self.pending.take() else { return };
        let Some(version) = server.write(act, version, &self.me) else {
            return;
        };
        if lost {
            return;
        }
        self.version = version;
        self.observed = Some(Observed::see(self.observed.take(), server.record.clone(), self.now(world)));
        if matches!(act, Act::Take | Act::Renew) {
            self.until = self.until.max(sent + MINE);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is slow, lost, stopped or deleted: never do two lead at the same instant.
    #[test]
    fn never_two_lead(ahead in proptest::collection::vec(0_u64..1_000_000, 3), events in proptest::collection::vec(event(), 1..120)) {
        let mut server = Server::default();
        let mut world = Duration::ZERO;
        let mut replicas: Vec<Replica> = ahead.iter().enumerate().map(|(n, ahead)| Replica {
            me: format!("r{n}"), ahead: Duration::from_millis(*ahead), observed: None, version: 0, until: Duration::ZERO, pending: None,
        }).collect();
        for event in events {
            match event {
                Event::Wait(millis) => world += Duration::from_millis(millis),
                Event::Read(who) => {
                    let replica = &mut replicas[who];
                    let now = replica.now(world);
                    replica.observed = Some(Observed::see(replica.observed.take(), server.record.clone(), now));
                    replica.version = server.version;
                }
                Event::Decide(who, give) => replicas[who].decide(world, give),
                Event::Arrive(who, lost) => replicas[who].arrive(&mut server, world, lost),
                Event::Delete => server.record = None,
            }
            let leading: Vec<&str> = replicas.iter().filter(|r| r.until > r.now(world)).map(|r| r.me.as_str()).collect();
            prop_assert!(leading.len() <= 1, "{leading:?} lead at {world:?}");
        }
    }
}
