//! One message for one chat.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::threads::thread_of;
use crate::model::{Announcement, Topic};

/// One message for one chat, as it lies on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::notify) struct Letter {
    /// Its place in the order of pushing.
    #[serde(default)]
    pub(in crate::notify) seq: u64,
    /// It was sent at least once.
    #[serde(default)]
    pub(in crate::notify) sealed: bool,
    /// Ids of messages it stands for, whose files may still exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::notify) replaces: Vec<String>,
    pub(in crate::notify) announcement: Arc<Announcement>,
}

impl Letter {
    pub(in crate::notify) fn id(&self) -> &str {
        &self.announcement.id
    }

    pub(super) fn thread(&self) -> &str {
        thread_of(&self.announcement)
    }

    pub(super) fn topic(&self) -> Topic {
        self.announcement.topic
    }

    /// What it takes, nearly.
    pub(super) fn bytes(&self) -> usize {
        let a = &self.announcement;
        let images = [&a.from_release, &a.to_release]
            .into_iter()
            .flatten()
            .flat_map(|release| &release.images);
        let texts = [a.evidence.as_deref(), a.link.as_deref(), Some(a.why.as_str())]
            .into_iter()
            .flatten();
        1024 + images.map(String::len).sum::<usize>() + texts.map(str::len).sum::<usize>()
    }
}
