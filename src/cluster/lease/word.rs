//! A person's word about all guards, as replicas pass it on: one more annotation of the Lease in which they announce themselves. Pure.
//!
//! Every replica writes there in each round and reads what all have written, so that the word needs no right of its own, is known to
//! everybody a round later, and outlives whoever it was said to. Who knows a newer one than stands there writes it; of two that are
//! written in the same moment the newer comes back a round later.

use std::collections::BTreeMap;

use crate::model::Lifted;

/// The annotation.
const KEY: &str = "flipback.dev/override";
/// Names, two times and a reason, which is clipped where it is said.
const BYTES_MAX: usize = 4 * 1024;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// The newest.
    newest: Option<Lifted>,
    /// What stood in the Lease when it was last read.
    written: Option<Lifted>,
}

impl Word {
    /// A person has said it here.
    pub(super) fn said(&mut self, word: Lifted) {
        if word.is_newer_than(self.newest.as_ref()) {
            self.newest = Some(word);
        }
    }

    /// The newest that is known.
    pub(super) fn newest(&self) -> Option<&Lifted> {
        self.newest.as_ref()
    }

    /// The annotation to write, where what stands there is older.
    pub(super) fn line(&self) -> Option<(&'static str, String)> {
        let newest = self.newest.as_ref().filter(|newest| newest.is_newer_than(self.written.as_ref()))?;
        Some((KEY, serde_json::to_string(newest).ok()?))
    }

    /// Takes in the annotations as they are now.
    pub(super) fn met(&mut self, annotations: &BTreeMap<String, String>) {
        let text = annotations.get(KEY).filter(|text| text.len() <= BYTES_MAX);
        self.written = text.and_then(|text| serde_json::from_str(text).ok());
        if let Some(written) = self.written.clone() {
            self.said(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn word(at: i64, by: &str) -> Lifted {
        let second = |second| Timestamp::from_second(second).expect("in range");
        Lifted {
            at: second(at),
            until: second(at + 600),
            by: by.into(),
            reason: "the release".into(),
        }
    }

    /// One round: writes what is to be written into the Lease, and reads it.
    fn round(of: &mut Word, lease: &mut BTreeMap<String, String>) {
        lease.extend(of.line().map(|(key, text)| (key.to_owned(), text)));
        of.met(lease);
    }

    #[test]
    fn what_was_said_to_one_is_known_to_all_and_to_who_comes_later() {
        let mut lease = BTreeMap::new();
        let (mut first, mut second) = (Word::default(), Word::default());
        first.said(word(1, "ann"));
        round(&mut first, &mut lease);
        round(&mut second, &mut lease);
        assert_eq!(second.newest(), Some(&word(1, "ann")));
        assert_eq!((first.line(), second.line()), (None, None), "it is written once");
        let mut later = Word::default();
        round(&mut later, &mut lease);
        assert_eq!(later.newest(), Some(&word(1, "ann")));
    }

    #[test]
    fn the_newer_of_two_holds_whoever_wrote_last() {
        let mut lease = BTreeMap::new();
        let (mut first, mut second) = (Word::default(), Word::default());
        first.said(word(1, "ann"));
        second.said(word(2, "bob"));
        // Both in the same moment, the older one last.
        lease.extend(second.line().map(|(key, text)| (key.to_owned(), text)));
        second.met(&lease);
        lease.extend(first.line().map(|(key, text)| (key.to_owned(), text)));
        first.met(&lease);
        for _ in 0..2 {
            round(&mut second, &mut lease);
            round(&mut first, &mut lease);
        }
        assert_eq!((first.newest(), second.newest()), (Some(&word(2, "bob")), Some(&word(2, "bob"))));
        assert_eq!(lease[KEY], serde_json::to_string(&word(2, "bob")).expect("serializes"));
    }

    #[test]
    fn nonsense_is_no_word_and_is_overwritten_by_one() {
        let mut lease = BTreeMap::from([(KEY.to_owned(), "yes".to_owned())]);
        let mut one = Word::default();
        round(&mut one, &mut lease);
        assert_eq!(one.newest(), None);
        one.said(word(1, "ann"));
        round(&mut one, &mut lease);
        assert_eq!(serde_json::from_str::<Lifted>(&lease[KEY]).expect("written"), word(1, "ann"));
        lease.insert(KEY.to_owned(), "x".repeat(BYTES_MAX + 1));
        round(&mut one, &mut lease);
        assert_eq!(one.newest(), Some(&word(1, "ann")), "what was known stays known");
    }
}
