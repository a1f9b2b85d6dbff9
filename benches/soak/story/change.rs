//! Other configurations.

use tokio::time::Instant;

use super::{BY_HAND, Change, Story};
use crate::house::CHATS;

impl Story {
    /// Writes the file; what is `anew` is judged anew once it is taken.
    pub(super) fn write(&mut self, broken: bool, anew: Vec<usize>) {
        if broken {
            let kind = self.turn(7);
            self.house.break_file(&self.shops, &self.plan, kind);
        } else {
            self.house.rewrite(&self.shops, &self.plan);
        }
        self.tally.names.extend(self.plan.guards.iter().map(|entry| entry.name.clone()));
        // Asked for the first guard late by a new client, and not by a slow look.
        self.prometheus.excuse();
        self.change = Some(Change {
            written: Instant::now(),
            before: self.hash.clone(),
            refused: broken,
            anew,
        });
    }

    /// The next change.
    pub(super) fn reload(&mut self) {
        let n = self.turn(6);
        let (kind, round) = (n % 9, n / 9);
        let first = BY_HAND + (round * 10) % 90;
        let some: Vec<usize> = (first..first + 10).collect();
        match kind {
            0 => {
                self.plan.quiet = if self.plan.quiet == 300 { 240 } else { 300 };
                let with = self.plan.chats.len() == CHATS.len();
                self.plan.chats = CHATS[..CHATS.len() - usize::from(with)]
                    .iter()
                    .map(|&name| name.to_owned())
                    .collect();
                self.write(false, Vec::new());
            }
            1 => {
                let (out, stay) = std::mem::take(&mut self.plan.guards)
                    .into_iter()
                    .partition(|entry| some.contains(&entry.shop));
                (self.out, self.plan.guards) = (out, stay);
                self.write(false, Vec::new());
            }
            2 => self.write(true, Vec::new()),
            3 => {
                self.plan.guards.append(&mut self.out);
                self.write(false, Vec::new());
            }
            4 => {
                // Another name for the same object is another guard.
                self.rename(&some, &format!("-r{round}"));
                self.write(false, some);
            }
            5 => {
                let of_some = self.plan.guards.iter_mut().filter(|entry| some.contains(&entry.shop));
                of_some.for_each(|entry| entry.thousandths = 1 + (entry.thousandths + 1) % 7);
                self.write(false, some);
            }
            6 => {
                self.plan.bundles = if self.plan.bundles == 50 { 40 } else { 50 };
                self.write(false, Vec::new());
            }
            7 if round % 3 == 1 => {
                // Another connection to the cluster: every guard is judged anew.
                self.plan.read_timeout = if self.plan.read_timeout == 5000 { 5500 } else { 5000 };
                self.write(false, (0..self.shops.len()).collect());
            }
            7 => {
                self.rename(&some, "");
                self.write(false, some);
            }
            _ => {
                self.plan.query_timeout = if self.plan.query_timeout == 4000 { 3900 } else { 4000 };
                self.write(false, Vec::new());
            }
        }
    }

    fn rename(&mut self, shops: &[usize], suffix: &str) {
        for entry in self.plan.guards.iter_mut().filter(|entry| shops.contains(&entry.shop)) {
            entry.name = format!("{}{suffix}", self.shops[entry.shop].name);
        }
    }
}
