//! Lots, drawn by seed: the same seed draws the same lots.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rand_distr::{Binomial, Distribution, Poisson};

/// A stream of lots.
#[derive(Clone, Debug)]
pub struct Chance(SmallRng);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// How many of events that come at random, `mean` of them on average, come.
    pub fn arrivals(&mut self, mean: f64) -> f64 {
        if mean <= 0.0 {
            return 0.0;
        }
        Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(&mut self.0))
    }

    /// How many of `all` are so, when each is with probability `share`.
    pub fn among(&mut self, all: f64, share: f64) -> f64 {
        Binomial::new(all as u64, share.clamp(0.0, 1.0)).map_or(0.0, |binomial| binomial.sample(&mut self.0) as f64)
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random_bool(probability.min(1.0))
    }

    /// A whole number from 0 up to, not including, `end`; 0 when there is none.
    pub fn below(&mut self, end: i64) -> i64 {
        if end > 0 { self.0.random_range(0..end) } else { 0 }
    }

    /// A time until something that happens every `mean` on average.
    pub fn wait(&mut self, mean: f64) -> i64 {
        (-self.0.random_range(f64::MIN_POSITIVE..1.0).ln() * mean) as i64
    }
}
