//! What goes wrong around the daemon.

use std::time::Duration;

use tokio::time::Instant;

use super::{Later, RELEASED, Story, kubeconfig};
use crate::prometheus::Manner;

impl Story {
    pub(super) fn hurt_prometheus(&mut self) {
        let n = self.turn(3);
        let guard = RELEASED + n % 200;
        let manners = [
            Manner::Unavailable,
            Manner::Refuses(guard),
            Manner::Hangs,
            Manner::Partial,
            Manner::Broken,
            Manner::Page,
            Manner::NotANumber,
            Manner::Slow,
            Manner::Truncates,
        ];
        let manner = manners[n % manners.len()];
        // Now and then for so long that every guard is blind, which is told and has to be taken back.
        let lasts = if n % 6 == 5 { 27 } else { 4 + (n as u64 * 5) % 8 };
        self.prometheus.set(manner);
        self.tally.prometheus_faults += 1;
        self.later.push((Instant::now() + Duration::from_secs(lasts), Later::Heal));
    }

    pub(super) fn hurt_road(&mut self) {
        let n = self.turn(4);
        self.tally.cuts += 1;
        if n % 4 == 3 {
            self.link.close(true);
            self.later.push((Instant::now() + Duration::from_secs(6), Later::Reopen));
        } else {
            self.link.cut();
        }
    }

    pub(super) fn hurt_chats(&mut self) {
        let n = self.turn(5);
        self.chat.set_silent(n % 5 == 3);
        self.chat.set_status([429, 200, 500, 200, 404][n % 5]);
        if n % 5 != 1 && n % 5 != 3 {
            self.tally.chat_faults += 1;
        }
    }

    pub(super) async fn restart_apiserver(&mut self) {
        self.tally.restarts += 1;
        self.cluster.stop_apiserver().await;
        self.cluster.start_apiserver().await;
    }

    /// Gives the daemon another token.
    pub(super) async fn rotate(&mut self) {
        let text = kubeconfig(&self.cluster, &self.link).await;
        self.house.folder.write("kubeconfig.yaml", text);
        self.tally.rotations += 1;
    }
}
