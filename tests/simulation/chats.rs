//! Chats in memory: they write down what reaches them, and behave as badly as told.

use std::time::Duration;

use flipback::{
    model::Topic,
    notify::{DeliverError, Notifier, Parcel},
};
use futures::{FutureExt as _, future::BoxFuture};

use crate::world::World;

/// How a chat answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// 429, asking to wait so many seconds.
    Limited(u64),
    /// 500.
    Broken,
    /// Never.
    Silent,
    /// It takes the message, and its answer is lost.
    Forgetful,
}

/// One message that reached a chat.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Duration,
    pub chat: String,
    pub id: String,
    pub topic: Topic,
    pub incident: Option<String>,
    pub thread: String,
}

/// One daemon's connection to one chat.
pub struct Chat {
    pub world: World,
    pub daemon: usize,
    pub name: String,
}

impl Notifier for Chat {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let status = |status, retry_after| DeliverError::Status {
                status,
                said: "simulated".into(),
                retry_after,
            };
            match self.world.mood(&self.name) {
                Some(Mood::Limited(seconds)) => Err(status(429, Some(Duration::from_secs(seconds)))),
                Some(Mood::Broken) => Err(status(500, None)),
                Some(Mood::Silent) => {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Err(DeliverError::Timeout(Duration::from_secs(10)))
                }
                Some(Mood::Forgetful) => {
                    self.hear(parcel);
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Err(DeliverError::Timeout(Duration::from_secs(10)))
                }
                None => {
                    self.hear(parcel);
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

impl Chat {
    fn hear(&self, parcel: Parcel<'_>) {
        let told = parcel.announcement;
        self.world.heard(
            self.daemon,
            Heard {
                at: self.world.story.age(),
                chat: self.name.clone(),
                id: told.id.clone(),
                topic: told.topic,
                incident: told.incident.clone(),
                thread: told.thread.clone(),
            },
            &told.why,
        );
    }
}
