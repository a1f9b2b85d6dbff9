//! Stories and properties of the order, the pauses and the quiet repeats of one chat. No disk, no chat, no clock.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Topic;

const SECOND: Duration = Duration::from_secs(1);

fn wall(second: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(second).expect("small")).expect("in range")
}

fn at(second: u64) -> Now {
    Now {
        since_start: Duration::from_secs(second),
        wall: wall(second),
    }
}

fn of(id: &str, thread: &str, topic: Topic) -> Arc<Announcement> {
    Arc::new(Announcement {
        id: id.into(),
        thread: thread.into(),
        ..Announcement::example(topic)
    })
}

/// A queue that has looked at an empty disk.
fn queue(quiet: Duration) -> Queue {
    let mut queue = Queue::new(Pace::default(), quiet);
    queue.restore(Vec::new(), Vec::new(), at(0));
    queue
}

impl Queue {
    fn add(&mut self, id: &str, thread: &str, topic: Topic, second: u64) -> Pushed {
        let announcement = Announcement {
            at: wall(second),
            ..(*of(id, thread, topic)).clone()
        };
        let pushed = self.push(Arc::new(announcement), false, Duration::from_secs(second));
        let unstored = self.at(Place::Memory);
        self.moved(&unstored, Place::Disk);
        pushed
    }

    fn turn(&mut self, now: Now) -> Turn {
        match self.next(now) {
            Next::Send(turn) => turn,
            other => panic!("nothing goes: {other:?}"),
        }
    }

    /// The chat accepts what goes next.
    fn deliver(&mut self, now: Now) -> Letter {
        let turn = self.turn(now);
        self.accepted(&turn.letter, None, now.wall);
        self.remove(&turn.letter);
        turn.letter
    }

    /// The chat refuses what goes next.
    fn fail(&mut self, now: Now, failure: Failure) -> (String, Verdict) {
        let turn = self.turn(now);
        let verdict = self.failed(&turn.letter, failure, now);
        if verdict == Verdict::GiveUp {
            self.remove(&turn.letter);
        }
        (turn.letter.id().to_owned(), verdict)
    }

    fn waits_until(&mut self, now: Now) -> Duration {
        match self.next(now) {
            Next::Wait(until) => until,
            other => panic!("does not wait: {other:?}"),
        }
    }
}

const TROUBLE: Failure = Failure {
    permanent: false,
    limited: false,
    retry_after: None,
};
const REFUSED: Failure = Failure {
    permanent: true,
    ..TROUBLE
};

#[test]
fn a_full_lane_gives_up_the_oldest_of_the_least_loud() {
    let mut queue = queue(Duration::ZERO);
    for n in 0..LANE_MAX {
        let topic = if n % 2 == 0 { Topic::RollbackFailed } else { Topic::Switched };
        assert!(queue.add(&format!("{n:05}"), "t", topic, 1).given_up.is_empty());
    }
    let dropped = queue.add("last", "t", Topic::RollbackFailed, 1).given_up;
    assert_eq!(dropped.iter().map(Letter::id).collect::<Vec<_>>(), ["00001"]);
    assert_eq!(queue.waiting().0, LANE_MAX);
}

#[test]
fn what_ends_something_is_not_given_up_for_what_only_happened() {
    assert!(weight(Topic::Recovered) > weight(Topic::Degraded));
    let ends = Topic::ALL.into_iter().filter(|topic| topic.stage() == Stage::Resolves);
    assert!(ends.into_iter().all(|topic| weight(topic) == Severity::Critical));
}

#[test]
fn a_lane_full_of_large_messages_is_full_too() {
    let mut queue = queue(Duration::ZERO);
    let mut given_up = 0;
    for n in 0..LANE_MAX / 2 {
        let large = Announcement {
            why: "x".repeat(32 * 1024),
            ..(*of(&n.to_string(), "t", Topic::Alert)).clone()
        };
        given_up += queue.push(Arc::new(large), false, SECOND).given_up.len();
    }
    let bytes: usize = queue.waiting.iter().map(|waiting| waiting.letter.bytes()).sum();
    assert!(bytes <= LANE_BYTES_MAX && given_up > 0, "{bytes}, {given_up}");
}

#[test]
fn the_same_message_waits_once_and_is_not_taken_again_after_it_was_accepted() {
    let mut queue = queue(Duration::ZERO);
    queue.add("a", "t", Topic::Blind, 1);
    queue.add("a", "t", Topic::Blind, 1);
    assert_eq!(queue.waiting().0, 1);
    queue.deliver(at(1));
    queue.add("a", "t", Topic::Blind, 2);
    assert_eq!(queue.waiting().0, 0);
}

#[test]
fn a_failing_message_delays_its_thread_and_no_other() {
    let mut queue = queue(Duration::ZERO);
    for (id, thread) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        queue.add(id, thread, Topic::RollbackFailed, 1);
    }
    assert_eq!(queue.fail(at(1), TROUBLE).0, "a1");
    assert_eq!(queue.deliver(at(1)).id(), "b1");
    assert_eq!(queue.deliver(at(1)).id(), "b2");
    let until = queue.waits_until(at(1));
    assert!(until > SECOND && until <= 2 * SECOND, "{until:?}");
    assert_eq!(queue.deliver(at(3)).id(), "a1");
    assert_eq!(queue.deliver(at(3)).id(), "a2");
    assert!(matches!(queue.next(at(3)), Next::Idle));
}

#[test]
fn two_threads_that_fail_in_a_row_mean_the_chat_and_it_is_tried_at_growing_distances() {
    let mut queue = queue(Duration::ZERO);
    for n in 0..50 {
        queue.add(&n.to_string(), &format!("t{n}"), Topic::RollbackFailed, 1);
    }
    let mut now = at(1);
    let mut attempts = 0;
    while now.since_start < Duration::from_secs(601) {
        match queue.next(now) {
            Next::Send(turn) => {
                attempts += 1;
                queue.failed(&turn.letter, TROUBLE, now);
            }
            Next::Wait(until) => now.since_start = until,
            Next::Idle => panic!("messages wait"),
        }
    }
    // 0.5 + 1 + 2 + .. + 30 s, then every 30 to 60 s: no stampede of 50 threads.
    assert!((15..=30).contains(&attempts), "{attempts}");
    // Once one is accepted, all go at once, in order.
    queue.deliver(now);
    let rest: Vec<u32> = (1..50).map(|_| queue.deliver(now).id().parse().expect("a number")).collect();
    assert!(rest.windows(2).filter(|pair| pair[0] > pair[1]).count() <= 2, "{rest:?}");
    assert!(matches!(queue.next(now), Next::Idle));
}

#[test]
fn messages_that_always_fail_do_not_keep_the_chat_from_the_others() {
    let mut queue = queue(Duration::ZERO);
    for (id, thread) in [("bad1", "x"), ("bad2", "y"), ("good", "z")] {
        queue.add(id, thread, Topic::RollbackFailed, 1);
    }
    assert_eq!(queue.fail(at(1), TROUBLE).0, "bad1");
    assert_eq!(queue.fail(at(1), TROUBLE).0, "bad2");
    let until = queue.waits_until(at(1));
    assert!(until <= 2 * SECOND, "{until:?}");
    // Both bad ones may go again by then as well.
    assert_eq!(queue.deliver(at(10)).id(), "good");
}

#[test]
fn two_messages_that_always_fail_are_tried_less_and_less_while_others_pass() {
    let mut queue = queue(Duration::ZERO);
    queue.add("bad1", "x", Topic::RollbackFailed, 0);
    queue.add("bad2", "y", Topic::RollbackFailed, 0);
    let (mut now, mut attempts, mut passed) = (at(0), 0, 0);
    for second in 0..600 {
        now.since_start = now.since_start.max(Duration::from_secs(second));
        queue.add(&format!("good{second}"), &format!("t{second}"), Topic::RollbackFailed, second);
        // All that may go within this second.
        loop {
            match queue.next(now) {
                Next::Send(turn) if turn.letter.id().starts_with("bad") => {
                    attempts += 1;
                    queue.failed(&turn.letter, TROUBLE, now);
                }
                Next::Send(turn) => {
                    passed += 1;
                    queue.accepted(&turn.letter, None, now.wall);
                    queue.remove(&turn.letter);
                }
                Next::Wait(until) if until < Duration::from_secs(second + 1) => now.since_start = until,
                Next::Wait(_) => break,
                Next::Idle => panic!("the bad ones wait"),
            }
        }
    }
    assert!(passed >= 595, "{passed}");
    assert!(attempts < 120, "{attempts}");
}

#[test]
fn a_rate_limit_pauses_the_whole_chat_and_changes_no_order() {
    let mut queue = queue(Duration::ZERO);
    queue.add("a", "a", Topic::RollbackFailed, 1);
    queue.add("b", "b", Topic::RollbackFailed, 1);
    let limit = Failure {
        limited: true,
        retry_after: Some(7 * SECOND),
        permanent: false,
    };
    assert_eq!(queue.fail(at(1), limit), ("a".into(), Verdict::Retry(7 * SECOND)));
    assert_eq!(queue.waits_until(at(2)), 8 * SECOND);
    queue.add("c", "c", Topic::RollbackFailed, 3);
    assert_eq!(queue.waits_until(at(3)), 8 * SECOND);
    let order: Vec<_> = (0..3).map(|_| queue.deliver(at(8)).id().to_owned()).collect();
    assert_eq!(order, ["a", "b", "c"]);
}

#[test]
fn a_chat_may_not_make_us_wait_for_ever() {
    for (asked, at_least, at_most) in [(7, 7, 7), (0, 0, 1), (u64::MAX, 300, 300)] {
        let mut queue = queue(Duration::ZERO);
        queue.add("a", "a", Topic::RollbackFailed, 1);
        let limit = Failure {
            limited: true,
            retry_after: Some(Duration::from_secs(asked)),
            permanent: false,
        };
        let (_, verdict) = queue.fail(at(1), limit);
        let Verdict::Retry(wait) = verdict else { panic!("gives up") };
        assert!(wait >= at_least * SECOND && wait <= at_most * SECOND, "{asked}: {wait:?}");
    }
}

#[test]
fn a_refused_message_is_given_up_and_the_next_of_its_thread_goes() {
    let mut queue = queue(Duration::ZERO);
    queue.add("a1", "a", Topic::RollbackFailed, 1);
    queue.add("a2", "a", Topic::DidNotHelp, 1);
    let refused: Vec<_> = (0..3).map(|n| queue.fail(at(10 * (n + 1)), REFUSED)).collect();
    assert!(refused.iter().all(|(id, _)| id == "a1"));
    assert_eq!(refused.last().map(|(_, verdict)| *verdict), Some(Verdict::GiveUp));
    assert_eq!(queue.deliver(at(30)).id(), "a2");
}

#[test]
fn old_news_is_given_up() {
    let mut queue = queue(Duration::ZERO);
    queue.add("a", "a", Topic::RollbackFailed, 1);
    assert!(matches!(queue.fail(at(60), TROUBLE).1, Verdict::Retry(_)));
    assert_eq!(queue.fail(at(24 * 3600 + 1), TROUBLE).1, Verdict::GiveUp);
}

#[test]
fn the_receipt_of_a_thread_goes_with_its_next_message() {
    let mut queue = queue(Duration::ZERO);
    queue.add("a1", "a", Topic::RollbackInitiated, 1);
    queue.add("a2", "a", Topic::RollbackCompleted, 1);
    let turn = queue.turn(at(1));
    assert_eq!((turn.receipt, turn.seal), (None, false));
    queue.accepted(&turn.letter, Some("ts-1".into()), wall(1));
    queue.remove(&turn.letter);
    assert_eq!(queue.turn(at(1)).receipt.as_deref(), Some("ts-1"));
}

#[test]
fn the_end_goes_only_to_who_was_told_of_the_beginning() {
    let mut queue = queue(Duration::ZERO);
    let end = |queue: &mut Queue, id: &str, thread: &str| {
        queue.push(of(id, thread, Topic::Recovered), true, SECOND);
        queue.waiting().0
    };
    assert_eq!(end(&mut queue, "r1", "unheard"), 0);
    queue.add("o", "heard", Topic::RollbackInitiated, 1);
    assert_eq!(end(&mut queue, "r2", "heard"), 2, "the beginning still waits");
    queue.deliver(at(1));
    let unstored = queue.at(Place::Memory);
    queue.moved(&unstored, Place::Disk);
    queue.deliver(at(1));
    assert_eq!(end(&mut queue, "r3", "heard"), 0, "its end was told");
}

#[test]
fn an_end_pushed_before_the_disk_was_read_waits_for_what_the_disk_says() {
    let mut before = queue(Duration::ZERO);
    before.add("o", "heard", Topic::RollbackInitiated, 1);
    let turn = before.turn(at(1));
    let record = before.accepted(&turn.letter, Some("ts".into()), wall(1)).write.expect("kept");

    let mut queue = Queue::new(Pace::default(), Duration::ZERO);
    queue.push(of("r1", "heard", Topic::Recovered), true, SECOND);
    queue.push(of("r2", "unheard", Topic::Recovered), true, SECOND);
    queue.restore(Vec::new(), vec![record], at(2));
    let unstored = queue.at(Place::Memory);
    assert_eq!(unstored.iter().map(Letter::id).collect::<Vec<_>>(), ["r1"]);
    queue.moved(&unstored, Place::Disk);
    assert_eq!(queue.turn(at(2)).receipt.as_deref(), Some("ts"));
}

#[test]
fn what_a_crash_left_after_it_was_accepted_is_not_sent_again() {
    let mut before = queue(Duration::ZERO);
    before.add("o", "t", Topic::RollbackInitiated, 1);
    before.add("c", "t", Topic::RollbackCompleted, 1);
    let left: Vec<Letter> = before.waiting.iter().map(|waiting| waiting.letter.clone()).collect();
    let turn = before.turn(at(1));
    let record = before.accepted(&turn.letter, None, wall(1)).write.expect("kept");

    let mut queue = Queue::new(Pace::default(), Duration::ZERO);
    let restored = queue.restore(left, vec![record], at(2));
    assert_eq!((restored.taken, restored.unneeded), (1, vec!["o".to_owned()]));
    assert_eq!(queue.deliver(at(2)).id(), "c");
    assert!(queue.add("c", "t", Topic::RollbackCompleted, 3).given_up.is_empty());
    assert_eq!(queue.waiting().0, 0);
}

#[test]
fn files_come_back_in_the_order_of_pushing_and_before_what_was_pushed_since() {
    let letter = |seq, id: &str| Letter {
        seq,
        sealed: false,
        replaces: Vec::new(),
        announcement: of(id, "t", Topic::RollbackCompleted),
    };
    let mut queue = Queue::new(Pace::default(), Duration::ZERO);
    queue.push(of("new", "t", Topic::RollbackCompleted), false, SECOND);
    queue.restore(vec![letter(8, "a"), letter(7, "b"), letter(0, "old")], Vec::new(), at(1));
    let unstored = queue.at(Place::Memory);
    queue.moved(&unstored, Place::Disk);
    let order: Vec<_> = (0..4).map(|_| queue.deliver(at(1)).id().to_owned()).collect();
    assert_eq!(order, ["old", "b", "a", "new"]);
    assert!(queue.seq > 8, "{}", queue.seq);
}

#[test]
fn repeats_are_held_and_told_as_one_when_the_time_is_over() {
    let mut queue = queue(60 * SECOND);
    queue.add("b0", "b", Topic::Blind, 0);
    assert_eq!(queue.deliver(at(0)).announcement.repeats, None, "the first is told at once");
    assert!(!queue.add("b1", "b", Topic::Blind, 10).merged);
    assert!(queue.add("b2", "b", Topic::Blind, 20).merged && queue.add("b3", "b", Topic::Blind, 30).merged);
    assert_eq!(queue.waits_until(at(30)), 60 * SECOND);
    assert_eq!(queue.waiting(), (0, None), "nothing waits for the chat");
    let told = queue.deliver(at(60));
    assert_eq!((told.id(), told.replaces.len()), ("b3", 2));
    assert_eq!(told.announcement.repeats.map(|r| (r.count, r.since)), Some((3, wall(10))));
    queue.add("b4", "b", Topic::Blind, 61);
    assert_eq!(queue.waits_until(at(61)), 120 * SECOND, "the window begins anew");
}

#[test]
fn a_single_held_message_is_told_as_it_is() {
    let mut queue = queue(60 * SECOND);
    queue.add("b0", "b", Topic::Blind, 0);
    queue.deliver(at(0));
    queue.add("b1", "b", Topic::Blind, 10);
    assert!(matches!(queue.next(at(59)), Next::Wait(_)));
    assert_eq!(queue.deliver(at(60)).announcement.repeats, None);
}

#[test]
fn what_may_not_wait_takes_the_held_before_it_along() {
    let mut queue = queue(60 * SECOND);
    queue.add("b0", "b", Topic::Blind, 0);
    queue.deliver(at(0));
    queue.add("b1", "b", Topic::Blind, 10);
    queue.add("b2", "b", Topic::Blind, 20);
    assert!(matches!(queue.next(at(20)), Next::Wait(_)));
    queue.add("s", "b", Topic::Sighted, 30);
    let told = queue.deliver(at(30));
    assert_eq!((told.id(), told.announcement.repeats.map(|r| r.count)), ("b2", Some(2)));
    assert_eq!(queue.deliver(at(30)).id(), "s");
}

#[test]
fn flapping_is_told_once_each_way() {
    let mut queue = queue(60 * SECOND);
    for (n, topic) in [Topic::Blind, Topic::Sighted].into_iter().enumerate() {
        queue.add(&format!("first{n}"), "b", topic, 0);
        queue.deliver(at(0));
    }
    for n in 0..10 {
        queue.add(&format!("b{n}"), "b", Topic::Blind, 2 * n + 1);
        queue.add(&format!("s{n}"), "b", Topic::Sighted, 2 * n + 2);
    }
    assert!(matches!(queue.next(at(30)), Next::Wait(_)));
    let told: Vec<_> = (0..2).map(|_| queue.deliver(at(60))).collect();
    let told: Vec<_> = told.iter().map(|l| (l.id(), l.announcement.repeats.map(|r| r.count))).collect();
    assert_eq!(told, [("b9", Some(10)), ("s9", Some(10))]);
}

#[test]
fn what_was_sent_takes_up_no_other_whatever_came_of_it() {
    let mut queue = queue(60 * SECOND);
    queue.add("b0", "b", Topic::Blind, 0);
    let turn = queue.turn(at(0));
    assert!(turn.seal);
    queue.failed(&turn.letter, TROUBLE, at(0));
    assert!(!queue.add("b1", "b", Topic::Blind, 1).merged, "the chat may have seen b0");
    let again = queue.turn(at(5));
    assert_eq!((again.letter.id(), again.seal), ("b0", false));
    let left: Vec<Letter> = queue.waiting.iter().map(|waiting| waiting.letter.clone()).collect();

    // The same after a crash.
    let mut queue = Queue::new(Pace::default(), 60 * SECOND);
    queue.restore(left, Vec::new(), at(6));
    assert!(queue.add("b2", "b", Topic::Blind, 6).merged, "b1 was never sent");
    assert_eq!(queue.deliver(at(6)).id(), "b0");
    assert_eq!(queue.waits_until(at(6)), 66 * SECOND);
    let told = queue.deliver(at(66));
    assert_eq!((told.id(), told.announcement.repeats.map(|r| r.count)), ("b2", Some(2)));
}

#[test]
fn files_of_messages_that_another_stands_for_are_not_told() {
    let letter = |seq, id: &str, replaces: &[&str]| Letter {
        seq,
        sealed: false,
        replaces: replaces.iter().map(|id| (*id).to_owned()).collect(),
        announcement: of(id, "b", Topic::Blind),
    };
    let mut queue = Queue::new(Pace::default(), 60 * SECOND);
    let restored = queue.restore(vec![letter(1, "b1", &[]), letter(2, "b2", &["b1", "b0"])], Vec::new(), at(0));
    assert_eq!((restored.taken, restored.unneeded), (1, vec!["b1".to_owned()]));
}

/// One thing that happens to a lane.
#[derive(Clone, Debug)]
enum Event {
    Push { thread: u8, topic: Topic },
    Accept,
    Fail { permanent: bool, limited: bool },
    Pass(u8),
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    let topics = prop::sample::select(vec![
        Topic::RollbackInitiated,
        Topic::RollbackCompleted,
        Topic::Recovered,
        Topic::Blind,
        Topic::Sighted,
        Topic::Alert,
    ]);
    prop_oneof![
        4 => (0_u8..4, topics).prop_map(|(thread, topic)| Event::Push { thread, topic }),
        4 => Just(Event::Accept),
        2 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(permanent, limited)| Event::Fail { permanent, limited }),
        2 => (1_u8..120).prop_map(Event::Pass),
        1 => Just(Event::Crash),
    ]
}

/// A lane, its disk, and what its chat saw.
struct World {
    quiet: Duration,
    queue: Queue,
    records: BTreeMap<String, Record>,
    now: u64,
    /// Id, count, thread, as accepted.
    seen: Vec<(u64, u32, String)>,
    given_up: Vec<(u64, u32)>,
    pushed: Vec<(u64, String)>,
    /// The receipt the chat last gave for a thread.
    receipts: BTreeMap<String, String>,
}

impl World {
    fn happen(&mut self, event: &Event) {
        let now = at(self.now);
        match event {
            Event::Push { thread, topic } => {
                let (id, thread) = (self.pushed.len() as u64, format!("t{thread}"));
                self.queue.add(&format!("{id:06}"), &thread, *topic, self.now);
                self.pushed.push((id, thread));
            }
            Event::Accept => {
                if let Next::Send(turn) = self.queue.next(now) {
                    self.accept(&turn, now);
                }
            }
            Event::Fail { permanent, limited } => {
                if let Next::Send(turn) = self.queue.next(now) {
                    let failure = Failure {
                        permanent: *permanent,
                        limited: *limited,
                        retry_after: None,
                    };
                    if self.queue.failed(&turn.letter, failure, now) == Verdict::GiveUp {
                        self.given_up.push(counted(&turn.letter));
                        self.queue.remove(&turn.letter);
                    }
                }
            }
            Event::Pass(seconds) => self.now += u64::from(*seconds),
            Event::Crash => {
                let left = self.queue.waiting.iter().map(|waiting| waiting.letter.clone()).collect();
                self.queue = Queue::new(Pace::default(), self.quiet);
                self.queue.restore(left, self.records.values().cloned().collect(), now);
            }
        }
    }

    fn accept(&mut self, turn: &Turn, now: Now) {
        let letter = &turn.letter;
        let thread = letter.thread().to_owned();
        assert_eq!(turn.receipt, self.receipts.get(&thread).cloned(), "the receipt of {thread}");
        let receipt = format!("receipt-of-{}", letter.id());
        let change = self.queue.accepted(letter, Some(receipt.clone()), now.wall);
        if let Some(record) = change.write {
            self.records.insert(record.thread.clone(), record);
        }
        for thread in change.forget {
            self.records.remove(&thread);
            self.receipts.remove(&thread);
        }
        self.receipts.insert(thread.clone(), receipt);
        let (id, count) = counted(letter);
        self.seen.push((id, count, thread));
        self.queue.remove(letter);
    }
}

fn counted(letter: &Letter) -> (u64, u32) {
    let id = letter.id().parse().expect("a number");
    (id, letter.announcement.repeats.map_or(1, |repeats| repeats.count))
}

proptest! {
    /// Whatever happens, in the end each message was told or given up, by itself or in another's count; each thread in
    /// order; none twice; and each thread's messages carried its receipt.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(
        quiet in prop::sample::select(vec![0_u64, 60]),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let quiet = Duration::from_secs(quiet);
        let mut world = World {
            quiet,
            queue: queue(quiet),
            records: BTreeMap::new(),
            now: 1,
            seen: Vec::new(),
            given_up: Vec::new(),
            pushed: Vec::new(),
            receipts: BTreeMap::new(),
        };
        // An incident's thread keeps its receipt; a condition's begins anew, which is told elsewhere.
        for event in &events {
            let event = match event {
                Event::Push { thread, topic: Topic::Blind } => &Event::Push { thread: *thread, topic: Topic::Alert },
                other => other,
            };
            world.happen(event);
        }
        for _ in 0..10_000 {
            match world.queue.next(at(world.now)) {
                Next::Send(turn) => world.accept(&turn, at(world.now)),
                Next::Wait(_) => world.now += 30,
                Next::Idle => break,
            }
        }
        prop_assert_eq!(world.queue.waiting.len(), 0);
        let told: u32 = world.seen.iter().map(|(_, count, _)| count).sum();
        let lost: u32 = world.given_up.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(told as usize + lost as usize, world.pushed.len());
        for thread in 0..4 {
            let thread = format!("t{thread}");
            let ids: Vec<u64> = world.seen.iter().filter(|(.., of)| *of == thread).map(|(id, ..)| *id).collect();
            prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{}: {:?}", thread, ids);
        }
        if quiet == Duration::ZERO {
            prop_assert!(world.seen.iter().all(|(_, count, _)| *count == 1));
        }
    }
}
