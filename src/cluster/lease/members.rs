//! Who else is there: replicas announce themselves in the annotations of one Lease, each by a line of its own. Pure.
//!
//! A line changes with every round of its writer, and whoever has not changed its line for a Lease's duration, by our clock, is
//! taken for dead. This decides who is given which shard and nothing else; who *leads* is the Leases' word alone.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{sight::Standing, spread};

/// Before each member's name in the annotations' keys.
const MEMBER: &str = "member.flipback.dev/";
/// The name part of an annotation's key has at most 63 characters; eight and a separator tell processes apart.
const NAME_CHARS_MAX: usize = 54;
/// A member's line is a time and three flags.
const LINE_BYTES_MAX: usize = 256;
/// Members that were silent for so many Leases' durations are struck off.
const FORGET_AFTER: u32 = 10;
/// Struck off at once: a crash loop leaves a line per start.
const FORGET_AT_ONCE: usize = 16;

/// Everybody else, as far as seen.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<String, Member>);

/// Another replica's line, and since when it is as it is.
#[derive(Clone, Debug, PartialEq)]
struct Member {
    line: String,
    since: Duration,
}

/// What a process is called in Leases: its replica's name, and a number that no other process of that name has, for none began in
/// the same microsecond. No lots are drawn, so that a simulated world plays the same twice.
pub(super) fn holder(replica: &str, started: Timestamp) -> String {
    let name: String = replica.chars().take(NAME_CHARS_MAX).collect();
    let number = spread::score(replica, &started.as_microsecond().to_string());
    format!("{name}_{:08x}", number >> 32)
}

/// The replica's name, without what tells its process from others.
pub(super) fn plain(holder: &str) -> String {
    holder.rsplit_once('_').map_or(holder, |(name, _)| name).to_owned()
}

/// The key of a member's line.
pub(super) fn key(holder: &str) -> String {
    format!("{MEMBER}{holder}")
}

/// Our own line.
pub(super) fn line(at: Timestamp, standing: Standing) -> String {
    json!({"at": at, "seasoned": standing.seasoned, "sees": standing.sees, "yields": standing.yields}).to_string()
}

impl Members {
    /// Takes in the annotations as they are now.
    pub(super) fn met(&mut self, annotations: &BTreeMap<String, String>, me: &str, now: Duration) {
        let lines: BTreeMap<&str, &String> = annotations
            .iter()
            .filter_map(|(key, line)| Some((key.strip_prefix(MEMBER)?, line)))
            .filter(|(name, line)| *name != me && line.len() <= LINE_BYTES_MAX)
            .collect();
        self.0.retain(|name, _| lines.contains_key(name.as_str()));
        for (name, line) in lines {
            if self.0.get(name).is_none_or(|known| known.line != *line) {
                let line = line.clone();
                self.0.insert(name.to_owned(), Member { line, since: now });
            }
        }
    }

    /// Those that are alive, and how each stands.
    pub(super) fn alive(&self, duration: Duration, now: Duration) -> BTreeMap<String, Standing> {
        let alive = self.0.iter().filter(|(_, member)| now < member.since.saturating_add(duration));
        alive.map(|(name, member)| (name.clone(), member.standing())).collect()
    }

    /// Those that have been silent for so long that their lines go.
    pub(super) fn forgotten(&self, duration: Duration, now: Duration) -> Vec<String> {
        let silent = |member: &Member| now.saturating_sub(member.since) > duration.saturating_mul(FORGET_AFTER);
        let gone = self.0.iter().filter(|(_, member)| silent(member));
        gone.map(|(name, _)| name.clone()).take(FORGET_AT_ONCE).collect()
    }
}

impl Member {
    fn standing(&self) -> Standing {
        let line: Value = serde_json::from_str(&self.line).unwrap_or_default();
        // An earlier version does not say whether it sees: nobody makes room for it.
        Standing {
            seasoned: line["seasoned"] == true,
            sees: line["sees"] == true,
            yields: line["yields"] == true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);
    const COLD: Standing = Standing {
        seasoned: false,
        sees: false,
        yields: false,
    };
    const WARM: Standing = Standing { seasoned: true, ..COLD };

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn said(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
        lines.iter().map(|(name, line)| (key(name), (*line).to_owned())).collect()
    }

    #[test]
    fn whoever_changes_its_line_is_alive_and_whoever_does_not_is_not() {
        let mut members = Members::default();
        let (old, new) = (r#"{"at":1,"seasoned":false}"#, r#"{"at":2,"seasoned":true}"#);
        members.met(&said(&[("a_1", old), ("b_2", old), ("me_3", old)]), "me_3", at(0));
        assert_eq!(
            members.alive(DURATION, at(14)),
            BTreeMap::from([("a_1".into(), COLD), ("b_2".into(), COLD)])
        );
        members.met(&said(&[("a_1", new), ("b_2", old), ("me_3", old)]), "me_3", at(10));
        assert_eq!(members.alive(DURATION, at(15)), BTreeMap::from([("a_1".into(), WARM)]));
        assert!(members.alive(DURATION, at(25)).is_empty());
        // Struck off by whoever it was: gone at once.
        members.met(&said(&[("b_2", new)]), "me_3", at(12));
        assert_eq!(members.alive(DURATION, at(12)), BTreeMap::from([("b_2".into(), WARM)]));
        assert!(members.forgotten(DURATION, at(162)).is_empty());
        assert_eq!(members.forgotten(DURATION, at(163)), ["b_2"]);
    }

    #[test]
    fn foreign_annotations_and_nonsense_are_no_members() {
        let mut members = Members::default();
        let mut lines = said(&[("a_1", "no JSON"), ("b_2", &"x".repeat(1000))]);
        lines.insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
        members.met(&lines, "me_3", at(0));
        assert_eq!(members.alive(DURATION, at(0)), BTreeMap::from([("a_1".into(), COLD)]));
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for bits in 0..8_u8 {
            let mut members = Members::default();
            let standing = Standing {
                seasoned: bits & 1 > 0,
                sees: bits & 2 > 0,
                yields: bits & 4 > 0,
            };
            let line = line(Timestamp::UNIX_EPOCH, standing);
            members.met(&said(&[("a_1", &line)]), "me_3", at(0));
            assert_eq!(members.alive(DURATION, at(0)), BTreeMap::from([("a_1".into(), standing)]), "{line}");
        }
    }

    #[test]
    fn a_crash_loop_is_forgotten_a_few_at_a_time() {
        let mut members = Members::default();
        let lines: BTreeMap<String, String> = (0..40)
            .map(|n| {
                (
                    key(&holder("flipback-0", Timestamp::from_microsecond(n).expect("in range"))),
                    line(Timestamp::UNIX_EPOCH, COLD),
                )
            })
            .collect();
        members.met(&lines, "me", at(0));
        assert_eq!(members.forgotten(DURATION, at(1000)).len(), FORGET_AT_ONCE);
    }

    #[test]
    fn a_process_has_a_name_that_fits_a_key_and_a_replica_one_for_people() {
        let at = |micros| Timestamp::from_microsecond(micros).expect("in range");
        let name = "flipback-".repeat(20);
        let (first, second) = (holder(&name, at(1)), holder(&name, at(2)));
        assert!(
            first.len() <= 63 && first != second && plain(&first) == plain(&second),
            "{first} {second}"
        );
        assert_eq!(plain("flipback-0_00000abc"), "flipback-0");
        assert_eq!(plain("somebody"), "somebody");
    }
}
