//! What must survive a restart: written on the guarded object, in the same patch as the flip.
//!
//! The format is `docs/ledger.md`. It refuses to lose what it does not understand: fields and flips that a newer flipback wrote are
//! carried along and written back as they were, and the version never goes down. It refuses to rewrite history, too: what a
//! person forgives is noted beside the flip that it was held for, and the flip stays.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Case, Color, Trigger};

/// Annotation that carries the [`Ledger`] as JSON.
pub const LEDGER_ANNOTATION: &str = "flipback.dev/ledger";
/// Annotation that keeps a text that was found in place of a [`Ledger`] and could not be understood.
pub const DAMAGED_ANNOTATION: &str = "flipback.dev/ledger-damaged";
/// Annotation that carries a [`Pause`] as JSON.
pub const PAUSE_ANNOTATION: &str = "flipback.dev/paused";
/// The newest version of the format that is understood as a whole.
pub const LEDGER_VERSION: u32 = 2;
/// Flips a ledger remembers: more than three a day for a week; annotations are bounded by 256 KiB in all.
pub const LEDGER_FLIPS_MAX: usize = 20;
/// The span over which flips are counted before a guard disarms itself; no cooldown is longer.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Images that a flip names; pods of more containers than this are told apart by their release.
pub const LEDGER_IMAGES_MAX: usize = 16;

/// What flipback did to a route, newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Ledger {
    /// Version of this format.
    pub version: u32,
    /// The flips, newest last.
    pub flips: Vec<FlipRecord>,
    /// Flips that are none to this version, as they were found.
    pub unread: Vec<Value>,
    /// Everything else that was found, as it was found.
    pub rest: Map<String, Value>,
}

/// A ledger as it is written.
#[derive(Clone, Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    flips: Vec<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl From<Written> for Ledger {
    fn from(written: Written) -> Self {
        let (mut flips, mut unread) = (Vec::new(), Vec::new());
        for value in written.flips {
            match FlipRecord::deserialize(&value) {
                Ok(flip) => flips.push(flip),
                Err(_) => unread.push(value),
            }
        }
        Self {
            version: written.version,
            flips,
            unread,
            rest: written.rest,
        }
    }
}

impl From<Ledger> for Written {
    fn from(ledger: Ledger) -> Self {
        let read = ledger.flips.iter().map(|flip| serde_json::to_value(flip).expect("text keys"));
        Self {
            version: ledger.version,
            flips: ledger.unread.into_iter().chain(read).collect(),
            rest: ledger.rest,
        }
    }
}

/// One flip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlipRecord {
    /// When it was decided.
    pub at: Timestamp,
    /// The color that was left.
    pub from: Color,
    /// The color that took over.
    pub to: Color,
    /// Id of the release that was left, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_release: Option<String>,
    /// Id of the release that took over, where known; flips that an older flipback made do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_release: Option<String>,
    /// The images that the left release ran: by digest where its pods reported it, else as its template names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_images: Vec<String>,
    /// `true` for a rule's flip, `false` for a person's.
    pub automatic: bool,
    /// `true` when the left release is thereby marked as bad.
    pub bad: bool,
    /// The trigger's name: a rule, `manual`, or `reassert`.
    pub trigger: String,
    /// Who asked for it, where it was a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// One sentence with numbers.
    pub why: String,
    /// Id of the incident, which is the name of its evidence folder.
    pub incident: String,
    /// The how-manieth time the same rollback is made again because somebody undid it; `None`: it is no such flip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassert: Option<u32>,
    /// The person who took the mark off the release that was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Clearance>,
    /// The person who took it out of the day's count and of the cooldown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discounted: Option<Clearance>,
    /// The incident whose thread of messages it goes on with; `None`: it began its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Everything else that was found, as it was found.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A person's word that something is no longer held against a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clearance {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
}

/// What is no longer to be held against a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "release")]
pub enum Clear {
    /// The flips of the last day: a disarmed guard is armed again, and its cooldown is over.
    Count,
    /// That this release was bad.
    Release(String),
    /// Everything: every bad release, the count, the cooldown, and a ledger that cannot be understood.
    All,
}

impl FlipRecord {
    /// The flip that a case asks for: one that marks the release it leaves, and is a person's only where a person asked for it.
    #[must_use]
    pub fn of(case: &Case, incident: &str) -> Self {
        let (by, reassert) = match &case.trigger {
            Trigger::Manual { by, .. } => (Some(by.clone()), None),
            Trigger::Reassert { attempt, .. } => (None, Some(*attempt)),
            Trigger::Rule { .. } => (None, None),
        };
        Self {
            at: case.at,
            from: case.from.clone(),
            to: case.to.clone(),
            from_release: case.from_release.as_ref().map(|release| release.id.clone()),
            to_release: case.to_release.as_ref().map(|release| release.id.clone()),
            from_images: case.from_release.as_ref().map(|release| release.images.clone()).unwrap_or_default(),
            automatic: by.is_none(),
            bad: true,
            trigger: case.trigger.to_string(),
            by,
            why: case.why.clone(),
            incident: incident.to_owned(),
            reassert,
            forgotten: None,
            discounted: None,
            thread: None,
            rest: Map::new(),
        }
    }

    /// Whether it speaks against the release that it left.
    #[must_use]
    pub fn marks(&self) -> bool {
        self.bad && self.forgotten.is_none()
    }

    /// Whether it is one of the automatic flips that are counted, and that a release has one of.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.automatic && self.discounted.is_none()
    }

    /// Whether it went back from something bad, as opposed to a person's switch to something new.
    #[must_use]
    pub fn is_rollback(&self) -> bool {
        self.automatic || self.bad
    }
}

impl Ledger {
    /// The ledger with one more flip. Beyond [`LEDGER_FLIPS_MAX`] one is dropped: of the older half the oldest that marks no release, else
    /// the oldest. People's switches come and go; what was found bad shall be known for as long as there is room.
    #[must_use]
    pub fn with(&self, flip: FlipRecord) -> Self {
        let mut ledger = self.clone();
        ledger.version = self.version.max(LEDGER_VERSION);
        ledger.flips.push(flip);
        while ledger.flips.len() > LEDGER_FLIPS_MAX {
            let older = ledger.flips.iter().take(LEDGER_FLIPS_MAX / 2);
            let unmarked = older.into_iter().position(|flip| !flip.marks());
            ledger.flips.remove(unmarked.unwrap_or(0));
        }
        ledger
    }

    /// The newest flip.
    #[must_use]
    pub fn last(&self) -> Option<&FlipRecord> {
        self.flips.last()
    }

    /// The rollback that the newest flip is, or that it made again.
    #[must_use]
    pub fn origin(&self) -> Option<&FlipRecord> {
        let first = self.flips.iter().rposition(|flip| flip.reassert.is_none());
        first.and_then(|index| self.flips.get(index)).or_else(|| self.flips.first())
    }

    /// Whether a release is marked as one that was rolled back from.
    #[must_use]
    pub fn is_bad(&self, release: &str) -> bool {
        self.flips
            .iter()
            .any(|flip| flip.marks() && flip.from_release.as_deref() == Some(release))
    }

    /// The releases that are marked, each with the flip that marked it last.
    #[must_use]
    pub fn marked(&self) -> BTreeMap<&str, &FlipRecord> {
        let marking = self.flips.iter().filter(|flip| flip.marks());
        marking.filter_map(|flip| Some((flip.from_release.as_deref()?, flip))).collect()
    }

    /// The ledger after `clear`, `None`: there is nothing of the kind to clear.
    #[must_use]
    pub fn cleared(&self, clear: &Clear, word: &Clearance) -> Option<Self> {
        let mut ledger = self.clone();
        let mut concerned = false;
        let since = word.at.saturating_sub(DAY).unwrap_or(Timestamp::MIN);
        for flip in &mut ledger.flips {
            let forget = match clear {
                Clear::Count => false,
                // Where releases cannot be told apart, the color stands for what it ran.
                Clear::Release(release) => flip.from_release.as_deref().unwrap_or(flip.from.as_str()) == release,
                Clear::All => true,
            };
            if forget && flip.is_rollback() && flip.forgotten.is_none() {
                flip.forgotten = Some(word.clone());
                concerned = true;
            }
            let discount = matches!(clear, Clear::Count | Clear::All) && flip.at > since;
            if discount && flip.is_rollback() && flip.discounted.is_none() {
                flip.discounted = Some(word.clone());
                concerned = true;
            }
        }
        ledger.version = self.version.max(LEDGER_VERSION);
        concerned.then_some(ledger)
    }

    /// Whether a person's word is in it: of use to whoever sent it and has not heard whether it arrived.
    #[must_use]
    pub fn has(&self, word: &Clearance) -> bool {
        let given = |one: &Option<Clearance>| one.as_ref() == Some(word);
        self.flips.iter().any(|flip| given(&flip.forgotten) || given(&flip.discounted))
    }
}

/// A person's word that nothing shall be flipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
    /// When it ends by itself; `None`: when it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Whether it is in force; one that has ended is no pause, though its annotation is still there.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn flip(n: i64) -> FlipRecord {
        FlipRecord {
            at: at(n),
            from: Color::new("green").expect("valid"),
            to: Color::new("blue").expect("valid"),
            from_release: Some(format!("r{n}")),
            to_release: None,
            from_images: Vec::new(),
            automatic: true,
            bad: true,
            trigger: "error_rate".into(),
            by: None,
            why: "12 % over 5 %".into(),
            incident: "i".into(),
            reassert: None,
            forgotten: None,
            discounted: None,
            thread: None,
            rest: Map::new(),
        }
    }

    fn word(second: i64) -> Clearance {
        Clearance {
            by: "ann".into(),
            at: at(second),
            reason: "mended".into(),
        }
    }

    fn of(flips: &[i64]) -> Ledger {
        flips.iter().fold(Ledger::default(), |ledger, n| ledger.with(flip(*n)))
    }

    #[test]
    fn the_oldest_flip_leaves_first() {
        let ledger = (0..25).fold(Ledger::default(), |ledger, n| ledger.with(flip(n)));
        assert_eq!(ledger.flips.len(), LEDGER_FLIPS_MAX);
        assert!(!ledger.is_bad("r4"));
        assert!(ledger.is_bad("r5") && ledger.is_bad("r24"));
    }

    #[test]
    fn switches_of_people_do_not_drive_out_what_was_found_bad() {
        let switch = |n: i64| FlipRecord {
            automatic: false,
            bad: false,
            ..flip(n)
        };
        let ledger = (1..100).fold(of(&[0]), |ledger, n| ledger.with(switch(n)));
        assert!(ledger.is_bad("r0") && !ledger.is_bad("r50"));
        assert_eq!((ledger.flips.len(), ledger.flips[1].at), (LEDGER_FLIPS_MAX, at(81)));
        // Half of it is the newest flips, whatever they are; what nobody holds against a release any more goes like a switch.
        let full = (1..=20).fold(of(&[0]), |ledger, n| ledger.with(flip(n)));
        let ledger = (21..=30).fold(full, |ledger, n| ledger.with(switch(n)));
        assert!(!ledger.is_bad("r10") && ledger.is_bad("r11"));
        let forgiven = FlipRecord {
            forgotten: Some(word(2)),
            ..flip(0)
        };
        let ledger = (2..=21).fold(of(&[1]).with(forgiven), |ledger, n| ledger.with(flip(n)));
        assert!(ledger.is_bad("r2") && !ledger.is_bad("r1") && ledger.flips.len() == LEDGER_FLIPS_MAX);
    }

    /// Guards `flipback pause --for`: the annotation stays, and the pause must not.
    #[test]
    fn a_pause_ends_by_itself_where_it_has_an_end() {
        let pause = |until: Option<i64>| Pause {
            by: "ann".into(),
            at: at(0),
            reason: String::new(),
            until: until.map(at),
        };
        assert!(pause(None).holds(at(1_000_000)), "until it is resumed");
        assert!(pause(Some(60)).holds(at(59)));
        assert!(!pause(Some(60)).holds(at(60)) && !pause(Some(60)).holds(at(61)));
    }

    #[test]
    fn a_full_ledger_fits_an_annotation() {
        let image = format!("registry.example/a/quite/long/name/of/an/image@sha256:{}", "a".repeat(64));
        let long = FlipRecord {
            why: "x".repeat(400),
            from_images: vec![image; LEDGER_IMAGES_MAX],
            forgotten: Some(word(2)),
            discounted: Some(word(3)),
            ..flip(1)
        };
        let ledger = (0..LEDGER_FLIPS_MAX).fold(Ledger::default(), |ledger, _| ledger.with(long.clone()));
        assert!(serde_json::to_string(&ledger).expect("serializes").len() < 64 * 1024);
    }

    #[test]
    fn the_first_version_is_read_for_ever() {
        let text = r#"{"version":1,"flips":[{"at":"2026-11-21T04:12:31Z","from":"green","to":"blue","from_release":"9f1c",
            "automatic":true,"bad":true,"trigger":"error_rate","why":"12 % over 5 %","incident":"shop_web_x"}]}"#;
        let ledger: Ledger = serde_json::from_str(text).expect("understood");
        assert!(ledger.is_bad("9f1c") && ledger.unread.is_empty() && ledger.rest.is_empty());
        assert_eq!(ledger.with(flip(1)).version, LEDGER_VERSION);
    }

    #[test]
    fn what_a_newer_version_wrote_comes_back_as_it_was() {
        let newer = json!({
            "version": 7,
            "lease": {"holder": "b", "until": 12},
            "flips": [
                {"kind": "swap", "what": ["is", "this"]},
                {"at": "2026-11-21T04:12:31Z", "from": "green", "to": "blue", "from_release": "9f1c", "automatic": true, "bad": true,
                 "trigger": "error_rate", "why": "12 %", "incident": "i", "weight": 0.5}
            ]
        });
        let ledger: Ledger = serde_json::from_value(newer.clone()).expect("read as far as understood");
        assert!(ledger.is_bad("9f1c"));
        assert_eq!((ledger.flips.len(), ledger.unread.len()), (1, 1));
        assert_eq!(serde_json::to_value(&ledger).expect("serializes"), newer);

        let more = serde_json::to_value(ledger.with(flip(5))).expect("serializes");
        assert_eq!(more["version"], 7, "a version never goes down");
        assert_eq!(more["lease"], newer["lease"]);
        assert_eq!(more["flips"][0], newer["flips"][0]);
        assert_eq!(more["flips"][1]["weight"], 0.5);
        assert_eq!(more["flips"][2]["from_release"], "r5");
        let cleared = ledger.cleared(&Clear::All, &word(9)).expect("there was something");
        let cleared = serde_json::to_value(cleared).expect("serializes");
        assert_eq!((&cleared["flips"][0], &cleared["lease"]), (&newer["flips"][0], &newer["lease"]));
    }

    #[test]
    fn what_is_no_ledger_is_none() {
        for text in ["", "{", "[]", "7", r#"{"version":"three"}"#, r#"{"flips":{}}"#] {
            assert!(serde_json::from_str::<Ledger>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_release_is_forgotten_by_name_and_the_flip_stays() {
        let ledger = of(&[1, 2]).cleared(&Clear::Release("r1".into()), &word(9)).expect("marked");
        assert!(!ledger.is_bad("r1") && ledger.is_bad("r2"));
        assert_eq!(ledger.flips.len(), 2);
        assert!(ledger.flips.iter().all(FlipRecord::counts), "the count is another matter");
        assert!(ledger.has(&word(9)) && !ledger.has(&word(8)));
        assert_eq!(
            ledger.cleared(&Clear::Release("r1".into()), &word(10)),
            None,
            "it is forgotten already"
        );
        assert_eq!(ledger.cleared(&Clear::Release("r7".into()), &word(10)), None);
    }

    #[test]
    fn without_releases_the_color_is_named() {
        let unknown = FlipRecord {
            from_release: None,
            to_release: None,
            ..flip(1)
        };
        let ledger = Ledger::default().with(unknown);
        assert_eq!(ledger.cleared(&Clear::Release("blue".into()), &word(9)), None);
        let ledger = ledger.cleared(&Clear::Release("green".into()), &word(9)).expect("marked");
        assert!(!ledger.flips[0].marks());
    }

    #[test]
    fn arming_again_discounts_the_last_day_and_forgets_no_release() {
        let day = 24 * 60 * 60;
        let ledger = of(&[1, day, day + 5]).cleared(&Clear::Count, &word(day + 10)).expect("counted");
        let counted: Vec<bool> = ledger.flips.iter().map(FlipRecord::counts).collect();
        assert_eq!(counted, [true, false, false], "what is older than a day counts no more anyway");
        assert!(ledger.is_bad("r1") && ledger.is_bad(&format!("r{day}")));
        assert_eq!(ledger.cleared(&Clear::Count, &word(day + 11)), None);
    }

    #[test]
    fn a_persons_switch_is_nothing_to_clear() {
        let switch = FlipRecord {
            automatic: false,
            bad: false,
            ..flip(1)
        };
        assert_eq!(Ledger::default().with(switch).cleared(&Clear::All, &word(9)), None);
    }

    #[test]
    fn a_rollback_made_again_has_its_origin() {
        let again = |n, times| FlipRecord {
            reassert: Some(times),
            trigger: "reassert".into(),
            ..flip(n)
        };
        assert_eq!(Ledger::default().origin(), None);
        let ledger = of(&[1, 2]).with(again(3, 1)).with(again(4, 2));
        assert_eq!(ledger.origin().map(|flip| flip.at), Some(at(2)));
    }
}
