//! Lots, drawn by seed: the same seed draws the same lots.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A stream of lots.
#[derive(Clone, Debug)]
pub struct Chance(SmallRng);

impl Chance {
    /// The stream of a seed; `stream` tells several of one seed apart.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(SmallRng::seed_from_u64(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.rotate_left(32),
        ))
    }

    /// One lot of its own for what happens now: it does not depend on what else was drawn before, and so not on the order in
    /// which those are woken who wait for the same instant (`tokio::sync::watch` wakes them in any).
    pub fn of(seed: u64, what: &impl Hash, now: Duration) -> Self {
        let mut hasher = DefaultHasher::new();
        (what, now.as_micros()).hash(&mut hasher);
        Self::new(seed, hasher.finish())
    }

    /// A number for who draws elsewhere.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability.clamp(0.0, 1.0))
    }

    /// A whole number from `from` up to, not including, `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        if from < to { self.0.random_range(from..to) } else { from }
    }

    /// A time between two, in whole milliseconds.
    pub fn span(&mut self, from_seconds: u64, to_seconds: u64) -> Duration {
        Duration::from_millis(self.between(from_seconds * 1000, to_seconds * 1000))
    }

    /// One of several.
    pub fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        let index = self.between(0, of.len() as u64) as usize;
        of[index].clone()
    }
}
