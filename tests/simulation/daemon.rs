//! The real daemon in this world: started, killed as by `kill -9`, started again on the same folder.
//!
//! A kill drops every task of the daemon between two polls of the scheduler: no code of its own runs any more. What it
//! had handed to the disk is finished, what it had handed to the network may still arrive.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use flipback::{
    cluster::Cluster,
    evidence::report::PEN,
    monitor::{self, COMMANDS_MAX},
    plot::{Plot, PlotError, Theme},
    serve::Request,
};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use crate::{api::Way, chats::Chat, measure::Prometheus, world::World};

/// One world in so many has its pictures drawn.
const DRAWN: u64 = 64;

/// What a kill may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Its patch of the Service sets out.
    Sent,
    /// Its patch of the Service was carried out.
    Applied,
    /// A chat got a message of it.
    Told,
}

/// A kill that waits for its moment, then for so many polls of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Fuse {
    pub moment: Moment,
    pub polls: i64,
    pub down: Duration,
}

/// One daemon, up or not.
#[derive(Default)]
pub struct Daemon {
    life: Option<Life>,
    /// Counts its lives.
    pub lives: u64,
    pub fuses: Vec<Fuse>,
}

struct Life {
    stop: CancellationToken,
    tasks: Vec<AbortHandle>,
    commands: mpsc::Sender<Request>,
    /// Polls left to live; below zero: no end in sight.
    left: Arc<AtomicI64>,
    /// How long it stays down after that.
    down: Arc<Mutex<Duration>>,
}

impl Daemon {
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Where a person's commands go, while it is up.
    pub fn commands(&self) -> Option<mpsc::Sender<Request>> {
        self.life.as_ref().map(|life| life.commands.clone())
    }
}

/// A task of the daemon, whose polls are counted.
struct Mortal {
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
    world: World,
    daemon: usize,
    left: Arc<AtomicI64>,
    down: Arc<Mutex<Duration>>,
}

impl Future for Mortal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        } else if left == 0 {
            self.left.store(-1, Ordering::Relaxed);
            let down = *self.down.lock().unwrap_or_else(PoisonError::into_inner);
            self.world.crash(self.daemon, down);
            return Poll::Pending;
        }
        // What it draws depends on nobody else.
        self.world.shuffle(self.daemon, "poll");
        self.inner.as_mut().poll(context)
    }
}

impl World {
    /// Starts a daemon, on whatever its folder holds.
    pub fn start(&self, daemon: usize) {
        let mut config = self.config.clone();
        config.data_dir = self.data(daemon);
        if let Some(replicas) = &mut config.replicas {
            replicas.identity = identity(daemon);
        }
        let stop = CancellationToken::new();
        let parts = monitor::assemble(&config, &self.outside(daemon), &stop).expect("nothing here needs the network");
        let (commands, requests) = mpsc::channel(COMMANDS_MAX);
        let (left, down) = (Arc::new(AtomicI64::new(-1)), Arc::new(Mutex::new(Duration::ZERO)));
        // Never cancelled: a daemon here ends by being killed.
        let never = CancellationToken::new();
        let mortal = |inner: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let task = Mortal {
                inner,
                world: self.clone(),
                daemon,
                left: Arc::clone(&left),
                down: Arc::clone(&down),
            };
            tokio::spawn(task).abort_handle()
        };
        let tasks = vec![
            mortal(Box::pin(parts.monitor.run(requests, never.clone()))),
            mortal(Box::pin(parts.outbox.run(never.clone(), never, self.clock(daemon)))),
        ];
        let life = Life {
            stop,
            tasks,
            commands,
            left,
            down,
        };
        let lives = self.daemon(daemon, |one| {
            one.life = Some(life);
            one.lives += 1;
            one.lives
        });
        self.story
            .tell(self.name(daemon), if lives == 1 { "starts" } else { "starts again" });
        let age = self.story.age();
        self.judge(|judge| judge.started(daemon, age));
    }

    /// Kills a daemon now and starts it again after so long.
    pub fn crash(&self, daemon: usize, down: Duration) {
        let Some(life) = self.daemon(daemon, |one| one.life.take()) else {
            return;
        };
        life.stop.cancel();
        life.tasks.iter().for_each(AbortHandle::abort);
        self.story
            .tell(self.name(daemon), format!("is killed, for {:.1} s", down.as_secs_f64()));
        let age = self.story.age();
        self.judge(|judge| judge.killed(daemon, age));
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(down).await;
            if !world.daemon(daemon, |one| one.is_up()) {
                world.start(daemon);
            }
        });
    }

    /// Looks at, or changes, one daemon.
    pub fn daemon<T>(&self, daemon: usize, look: impl FnOnce(&mut Daemon) -> T) -> T {
        look(&mut self.daemons.lock().unwrap_or_else(PoisonError::into_inner)[daemon])
    }

    /// The moment that a kill may have waited for; for how long it is down where that is at once.
    pub fn burn(&self, daemon: usize, moment: Moment) -> Option<Duration> {
        self.daemon(daemon, |one| {
            let index = one.fuses.iter().position(|fuse| fuse.moment == moment)?;
            let life = one.life.as_ref()?;
            let fuse = one.fuses.remove(index);
            if moment == Moment::Applied && fuse.polls == 0 {
                return Some(fuse.down);
            }
            *life.down.lock().unwrap_or_else(PoisonError::into_inner) = fuse.down;
            life.left.store(fuse.polls, Ordering::Relaxed);
            None
        })
    }

    /// What a daemon stands on.
    fn outside(&self, daemon: usize) -> monitor::World {
        let (way, eyes, voice) = (self.clone(), self.clone(), self.clone());
        monitor::World {
            clock: self.clock(daemon),
            cluster: Arc::new(move |settings, namespaces, metrics, stop| {
                let world = way.clone();
                Cluster::over(Way { world, daemon }.client(), settings, namespaces, metrics, stop)
            }),
            measure: Arc::new(move |config, _| {
                Ok(Arc::new(Prometheus {
                    world: eyes.clone(),
                    daemon,
                    guards: config.guards.clone(),
                    shown: Mutex::new(BTreeMap::new()),
                }))
            }),
            notifier: Arc::new(move |chat| {
                Box::new(Chat {
                    world: voice.clone(),
                    daemon,
                    name: chat.name.clone(),
                })
            }),
            pen: if self.setup.seed.is_multiple_of(DRAWN) { PEN } else { sketch },
        }
    }
}

/// The picture of a bundle that nobody will look at: drawing one takes as long as half of a world.
fn sketch(_: &Plot, _: Theme) -> Result<Vec<u8>, PlotError> {
    Ok(b"\x89PNG\r\n\x1a\n".to_vec())
}

/// Who a daemon is among the replicas.
pub fn identity(daemon: usize) -> String {
    format!("replica-{daemon}")
}

/// Folders that a disk which refuses takes away, and gives back as they were.
const FOLDERS: [&str; 2] = ["incidents", "outbox"];

/// Makes every write into a daemon's folders fail, or lets it succeed again: a file stands where the folder should be.
pub fn refuse_writes(data: &Path, refuse: bool) {
    let _ = fs::create_dir_all(data);
    for name in FOLDERS {
        let (folder, aside) = (data.join(name), data.join(format!("{name}.aside")));
        if refuse && !aside.exists() {
            let _ = fs::create_dir_all(&folder);
            fs::rename(&folder, &aside).expect("the folder is ours");
            fs::write(&folder, "full").expect("the folder is ours");
        } else if !refuse && aside.exists() {
            fs::remove_file(&folder).expect("the file is ours");
            fs::rename(&aside, &folder).expect("the folder is ours");
        }
    }
}
