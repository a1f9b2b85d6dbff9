//! How those who follow the writes are woken: in the order in which they began to wait. A `watch` channel wakes them in any, and a
//! simulation would not be told the same way twice.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// The version of the newest write.
#[derive(Debug, Default)]
pub(super) struct Newest {
    version: AtomicU64,
    grown: Notify,
}

/// Follows it.
#[derive(Debug)]
pub(in crate::sandbox) struct Follower {
    newest: Arc<Newest>,
    seen: u64,
}

impl Newest {
    /// Notes a version, and wakes everybody where it is newer.
    pub(super) fn reach(&self, version: u64) {
        if version > self.version.fetch_max(version, Ordering::AcqRel) {
            self.grown.notify_waiters();
        }
    }

    /// From now on.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            newest: Arc::clone(self),
            seen: self.version.load(Ordering::Acquire),
        }
    }
}

impl Follower {
    /// What there is by now is known.
    pub(in crate::sandbox) fn catch_up(&mut self) {
        self.seen = self.newest.version.load(Ordering::Acquire);
    }

    /// Waits for something newer.
    pub(in crate::sandbox) async fn changed(&mut self) {
        loop {
            // Made before the look: what is written in between wakes it.
            let grown = self.newest.grown.notified();
            let version = self.newest.version.load(Ordering::Acquire);
            if version > self.seen {
                self.seen = version;
                return;
            }
            grown.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_write_wakes_once_who_began_to_follow_before_it() {
        let newest = Arc::new(Newest::default());
        newest.reach(3);
        let (mut first, mut second) = (newest.follow(), newest.follow());
        assert_eq!(first.changed().now_or_never(), None);
        newest.reach(5);
        newest.reach(4);
        assert_eq!(first.changed().now_or_never(), Some(()));
        assert_eq!(first.changed().now_or_never(), None);
        second.catch_up();
        assert_eq!(second.changed().now_or_never(), None);
    }

    #[tokio::test]
    async fn they_are_woken_in_the_order_in_which_they_wait() {
        let newest = Arc::new(Newest::default());
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for nth in 0..20 {
            let (mut follower, told) = (newest.follow(), told.clone());
            tokio::spawn(async move {
                follower.changed().await;
                told.send(nth)
            });
        }
        tokio::task::yield_now().await;
        newest.reach(1);
        drop(told);
        let mut woken = Vec::new();
        while let Some(nth) = order.recv().await {
            woken.push(nth);
        }
        assert_eq!(woken, (0..20).collect::<Vec<_>>());
    }
}
