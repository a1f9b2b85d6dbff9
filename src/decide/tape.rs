//! A list that grows at its end and ages at its front, and of which a copy costs next to nothing.
//!
//! The record of a guard keeps the engine as it stood some looks ago, so the last minutes are held twice and copied every few looks. Copied
//! whole, they and their copies were a third of what a daemon of 500 guards holds. Here what was filled is shared by all copies and never
//! changed again; only the end is copied. (Of the persistent vectors that are kept, imbl's has a licence that is not
//! accepted here, and rpds' cannot be shortened at its front.)

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries of a block that is shared, at least.
const BLOCK: usize = 32;

/// The list, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Tape<T> {
    shared: VecDeque<Arc<[T]>>,
    /// Of the first shared block, so many have aged.
    aged: usize,
    end: VecDeque<T>,
}

impl<T> Default for Tape<T> {
    fn default() -> Self {
        Self {
            shared: VecDeque::new(),
            aged: 0,
            end: VecDeque::new(),
        }
    }
}

impl<T: Clone> Tape<T> {
    /// Adds one.
    pub(super) fn push_back(&mut self, one: T) {
        self.end.push_back(one);
    }

    /// Nothing before this moment will be changed: what fills a block is shared from now on.
    pub(super) fn settle(&mut self) {
        if self.end.len() >= BLOCK {
            self.shared.push_back(self.end.drain(..).collect());
        }
    }

    /// What was added since it last settled, and some before, newest first.
    pub(super) fn newest_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.end.iter_mut().rev()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shared.iter().flat_map(|block| block.iter()).skip(self.aged).chain(&self.end)
    }

    /// The oldest.
    pub(super) fn front(&self) -> Option<&T> {
        match self.shared.front() {
            Some(block) => block.get(self.aged),
            None => self.end.front(),
        }
    }

    /// The newest.
    pub(super) fn back(&self) -> Option<&T> {
        self.end.back().or_else(|| self.shared.back()?.last())
    }

    /// Takes the oldest.
    pub(super) fn pop_front(&mut self) -> Option<T> {
        let Some(block) = self.shared.front() else {
            return self.end.pop_front();
        };
        let oldest = block.get(self.aged).cloned();
        self.aged += 1;
        if self.aged >= block.len() {
            self.shared.pop_front();
            self.aged = 0;
        }
        oldest
    }

    /// Takes the newest.
    fn pop_back(&mut self) -> Option<T> {
        if self.end.is_empty() {
            let block = self.shared.pop_back()?;
            let aged = if self.shared.is_empty() {
                std::mem::take(&mut self.aged)
            } else {
                0
            };
            self.end.extend(block.iter().skip(aged).cloned());
        }
        self.end.pop_back()
    }

    /// Drops the oldest as long as they are `old`, and the newest as long as they are `new`.
    pub(super) fn trim(&mut self, old: impl Fn(&T) -> bool, new: impl Fn(&T) -> bool) {
        while self.front().is_some_and(&old) {
            self.pop_front();
        }
        while self.back().is_some_and(&new) {
            self.pop_back();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.shared.iter().map(|block| block.len()).sum::<usize>() - self.aged + self.end.len()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<T: Clone + Serialize> Serialize for Tape<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Tape<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self {
            end: VecDeque::deserialize(deserializer)?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is done to a tape.
    #[derive(Clone, Debug)]
    enum Deed {
        Push(u16),
        Settle,
        PopFront,
        ChangeNewest(u16),
        Trim(u16, u16),
        Clear,
        Copy,
        ReadBack,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            40 => any::<u16>().prop_map(Deed::Push),
            30 => Just(Deed::Settle),
            8 => Just(Deed::PopFront),
            4 => any::<u16>().prop_map(Deed::ChangeNewest),
            4 => (0..9000_u16, 50_000..=u16::MAX).prop_map(|(old, new)| Deed::Trim(old, new)),
            2 => (0..3000_u16, 1000..30_000_u16).prop_map(|(old, new)| Deed::Trim(old, new)),
            1 => Just(Deed::Clear),
            4 => Just(Deed::Copy),
            1 => Just(Deed::ReadBack),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_list_and_what_is_done_to_it_is_not_done_to_its_copies(deeds in prop::collection::vec(deed(), 1..400)) {
            let (mut tape, mut list) = (Tape::default(), VecDeque::new());
            let mut copies: Vec<(Tape<u16>, VecDeque<u16>)> = Vec::new();
            for deed in deeds {
                match deed {
                    Deed::Push(one) => {
                        tape.push_back(one);
                        list.push_back(one);
                    }
                    Deed::Settle => tape.settle(),
                    Deed::PopFront => prop_assert_eq!(tape.pop_front(), list.pop_front()),
                    Deed::ChangeNewest(one) => {
                        if let Some(newest) = tape.newest_mut().next() {
                            *newest = one;
                            *list.back_mut().expect("as long as the tape") = one;
                        }
                    }
                    Deed::Trim(old, new) => {
                        tape.trim(|one| *one < old, |one| *one > new);
                        while list.front().is_some_and(|one| *one < old) {
                            list.pop_front();
                        }
                        while list.back().is_some_and(|one| *one > new) {
                            list.pop_back();
                        }
                    }
                    Deed::Clear => {
                        tape.clear();
                        list.clear();
                    }
                    Deed::Copy => copies.push((tape.clone(), list.clone())),
                    Deed::ReadBack => {
                        let text = serde_json::to_string(&tape).expect("numbers");
                        prop_assert_eq!(&text, &serde_json::to_string(&list).expect("numbers"));
                        tape = serde_json::from_str(&text).expect("what was written");
                    }
                }
                prop_assert_eq!((tape.len(), tape.front(), tape.back()), (list.len(), list.front(), list.back()));
            }
            copies.push((tape, list));
            for (tape, list) in &copies {
                prop_assert!(tape.iter().eq(list), "{:?} instead of {:?}", tape, list);
            }
        }
    }

    #[test]
    fn a_copy_shares_all_but_the_end() {
        let mut tape = Tape::default();
        for one in 0..1000 {
            tape.settle();
            tape.push_back(one);
        }
        let copy = tape.clone();
        let same = tape.shared.iter().zip(&copy.shared).all(|(one, other)| Arc::ptr_eq(one, other));
        assert!(same && tape.end.len() <= BLOCK && copy.len() == 1000);
    }
}
