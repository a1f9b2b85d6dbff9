//! A second place for bundles: an object store, or another folder. Best kept where the cluster that fails cannot take it along.
//!
//! Principles:
//! - Only a whole bundle is copied, file by file, to `<url>/<incident>/`, each with its content type: `report.html` opens in
//!   a browser from there. `MANIFEST.sha256` comes last: a copy without it, or whose hashes do not hold, is not complete.
//! - What is to be copied is read from the disk, never only remembered, and every file that the store took is noted beside the bundle
//!   ([`journal`]): `kill -9` costs at most one file's upload.
//! - Nothing waits for a copy: the task runs by itself, one bundle at a time, newest first. A store that is down is asked
//!   again with a growing, jittered, capped delay; a bundle that is refused goes to the end of the queue.
//! - Memory is bounded: a few parts of a few MiB, whatever a log's size. Every request has a deadline.
//! - Credentials are read again for every bundle; none is ever printed ([`store`]).
//! - Nothing is ever deleted there: that is the store's own lifecycle rules' to do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{StreamExt, stream};
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    disk::{self, EvidenceError, MANIFEST, failed},
    manifest,
    shelf::chain,
    stock::{Found, stock},
};
use crate::{
    metrics::Metrics,
    model::settings::{CopySettings, SecretError},
};

mod journal;
mod store;

use journal::Journal;
use store::{Options, Store};

/// Bytes of one request: the least that S3 takes as a part, and what is held in memory of one file.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Files on their way at a time.
const FILES_AT_ONCE: usize = 3;
/// How long one request may take, its retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one read from the disk may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long looking through all bundles may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// The first pause after a failure, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// How often is looked for what nobody told of.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);

/// Why a bundle is not copied. Never carries a secret, nor what a store answered in full.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The URL is of no known kind.
    #[error("cannot copy evidence to {0}: expected s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder")]
    Url(String),
    /// The store knows no such option.
    #[error("{store} knows no option {option:?} for copies of evidence")]
    Option {
        /// Its name.
        option: String,
        /// The kind of store.
        store: &'static str,
    },
    /// An option's secret cannot be read.
    #[error("failed to read the option {option:?} for copies of evidence")]
    Secret {
        /// Its name.
        option: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The store cannot be used as it is set up.
    #[error("cannot copy evidence to {place}: {why}")]
    Settings {
        /// Where to.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The store did not take a file.
    #[error("failed to copy {file:?} to {place}: {why}")]
    Store {
        /// Which file of the bundle.
        file: String,
        /// Where to.
        place: String,
        /// What went wrong.
        why: String,
    },
    /// A file is not what the list of the bundle says.
    #[error("{file:?} of {incident} is not what {MANIFEST} says: `flipback evidence verify {incident}` tells more")]
    Unsound {
        /// Which bundle.
        incident: String,
        /// Which file.
        file: String,
    },
    /// The bundle got a new version meanwhile, which is copied next.
    #[error("{0} changed while it was copied")]
    Changed(String),
    /// Somebody else copies it at this moment.
    #[error("{0} is being copied by another process")]
    Busy(String),
    /// The bundle cannot be read.
    #[error("failed to read what is to be copied")]
    Bundle(#[source] EvidenceError),
}

impl CopyError {
    /// Whether the next bundle will fare the same.
    fn is_of_store(&self) -> bool {
        !matches!(self, Self::Unsound { .. } | Self::Changed(_) | Self::Busy(_) | Self::Bundle(_))
    }
}

/// Names a copy's place without what may be secret: its URL without a password and without parameters.
#[must_use]
pub fn place(settings: &CopySettings) -> String {
    let mut url = settings.url.clone();
    // Neither fails on a URL with a host; one without has neither.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether a place (as [`place`] names it) holds all of a bundle as it is now.
#[must_use]
pub fn is_copied(folder: &Path, place: &str) -> bool {
    copied_to(folder).as_deref() == Some(place)
}

/// The place, as [`place`] names it, that holds all of a bundle as it is now.
#[must_use]
pub fn copied_to(folder: &Path) -> Option<String> {
    journal::copied_to(folder)
}

/// Checks what can be checked without a request: the URL, the options' names, that secrets can be read.
///
/// # Errors
/// [`CopyError`] with the first thing that is wrong.
pub fn check(settings: &CopySettings) -> Result<(), CopyError> {
    Store::open(settings, &Options::read(settings)?).map(|_| ())
}

/// What a copy took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files sent.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the store had already.
    pub had: usize,
}

/// Copies one bundle now; with `again` everything, whatever was noted of earlier copies.
///
/// # Errors
/// [`CopyError`] with the first file that failed; what the store took until then is not sent again.
pub async fn copy(found: &Found, settings: &CopySettings, again: bool) -> Result<Copied, CopyError> {
    let mut round = Round::default();
    match round.copy(found, settings, again).await {
        // Rare, and rarer twice.
        Err(CopyError::Changed(_)) => round.copy(found, settings, false).await,
        copied => copied,
    }
}

/// The store, as long as its credentials are what they were.
#[derive(Default)]
struct Round {
    open: Option<(Options, Arc<Store>)>,
}

impl Round {
    fn store(&mut self, settings: &CopySettings) -> Result<Arc<Store>, CopyError> {
        let options = Options::read(settings)?;
        if let Some((known, store)) = &self.open
            && known.same(&options)
        {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(Store::open(settings, &options)?);
        self.open = Some((options, Arc::clone(&store)));
        Ok(store)
    }

    async fn copy(&mut self, found: &Found, settings: &CopySettings, again: bool) -> Result<Copied, CopyError> {
        let place = place(settings);
        let store = self.store(settings)?;
        let disk = Arc::new(Semaphore::new(FILES_AT_ONCE));
        let (folder, to) = (found.folder.clone(), place.clone());
        let begun = disk::bounded(&disk, READ_TIMEOUT, "read", folder.clone(), move || {
            let Some(journal) = Journal::open(&folder, &to, again)? else {
                return Ok(None);
            };
            let path = folder.join(MANIFEST);
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            Ok(Some((journal, journal::list_hash(&folder)?, manifest::read(&text).0)))
        });
        let Some((journal, list_hash, listed)) = begun.await.map_err(CopyError::Bundle)? else {
            return Err(CopyError::Busy(found.kept.id.clone()));
        };
        let (wanted, had): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(name, hash)| !journal.has(name, hash));
        store.prepare(&found.kept.id).map_err(|error| CopyError::Settings {
            place: place.clone(),
            why: error.to_string(),
        })?;
        let upload = Upload {
            found,
            store: &store,
            place: &place,
            disk: &disk,
            journal: Mutex::new(journal),
        };
        let mut copied = match upload.everything(wanted, &list_hash).await {
            // The second pass, or an amendment, came in between: nothing is wrong with what is there now.
            Err(CopyError::Unsound { incident, .. }) if journal::list_hash(&found.folder).is_ok_and(|now| now != list_hash) => {
                return Err(CopyError::Changed(incident));
            }
            sent => sent?,
        };
        copied.had = had.len();
        Ok(copied)
    }
}

/// One bundle on its way.
struct Upload<'a> {
    found: &'a Found,
    store: &'a Store,
    place: &'a str,
    disk: &'a Arc<Semaphore>,
    journal: Mutex<Journal>,
}

impl Upload<'_> {
    /// Sends files, then the list, and notes that all is there.
    async fn everything(&self, wanted: Vec<(String, String)>, list_hash: &str) -> Result<Copied, CopyError> {
        let mut copied = self.all(wanted).await?;
        copied.bytes += self.send(MANIFEST.to_owned(), list_hash.to_owned()).await?;
        copied.files += 1;
        self.note(|journal| journal.whole(list_hash))?;
        Ok(copied)
    }

    /// Sends files, a few at a time. One that is unsound keeps no other from being sent, a store that fails does.
    async fn all(&self, wanted: Vec<(String, String)>) -> Result<Copied, CopyError> {
        let sum = Mutex::new((Copied::default(), None::<CopyError>));
        let send = async |(name, hash): (String, String)| {
            if disk::hold(&sum).1.as_ref().is_some_and(CopyError::is_of_store) {
                return;
            }
            let sent = self.send(name, hash).await;
            let mut sum = disk::hold(&sum);
            match sent {
                Ok(bytes) => {
                    sum.0.files += 1;
                    sum.0.bytes += bytes;
                }
                Err(error) if sum.1.is_none() || error.is_of_store() => sum.1 = Some(error),
                Err(_) => {}
            }
        };
        stream::iter(wanted).for_each_concurrent(FILES_AT_ONCE, send).await;
        match sum.into_inner().unwrap_or_else(PoisonError::into_inner) {
            (copied, None) => Ok(copied),
            (_, Some(error)) => Err(error),
        }
    }

    /// Sends one file and notes it; returns its bytes.
    async fn send(&self, name: String, hash: String) -> Result<u64, CopyError> {
        let mut source = Source {
            path: self.found.folder.join(&name),
            file: None,
            digest: Sha256::new(),
            bytes: 0,
        };
        let to = self.store.path(&self.found.kept.id, &name);
        let first = self.part(&mut source).await?;
        if first.len() < PART_BYTES {
            self.must_be(&name, &hash, &source)?;
            let put = self.store.inner.put_opts(&to, PutPayload::from(first), self.store.options(&name));
            self.asked(&name, put).await?;
        } else {
            let options = PutMultipartOptions::from(self.store.attributes(&name));
            let begin = self.store.inner.put_multipart_opts(&to, options);
            let mut parts = self.asked(&name, begin).await?;
            let sent = self.send_parts(&name, &hash, &mut source, first, parts.as_mut()).await;
            if let Err(error) = sent {
                // Parts that nobody completes cost money; a store that is gone keeps them all the same.
                let _ = timeout(REQUEST_TIMEOUT, parts.abort()).await;
                return Err(error);
            }
        }
        self.note(|journal| journal.took(&name, &hash))?;
        Ok(source.bytes)
    }

    async fn send_parts(
        &self,
        name: &str,
        hash: &str,
        source: &mut Source,
        first: Vec<u8>,
        parts: &mut dyn MultipartUpload,
    ) -> Result<(), CopyError> {
        let mut part = first;
        while !part.is_empty() {
            self.asked(name, parts.put_part(PutPayload::from(part))).await?;
            part = self.part(source).await?;
        }
        self.must_be(name, hash, source)?;
        self.asked(name, parts.complete()).await.map(|_| ())
    }

    /// The next part of a file; a shorter one is the last.
    async fn part(&self, source: &mut Source) -> Result<Vec<u8>, CopyError> {
        let (path, file) = (source.path.clone(), source.file.take());
        let read = disk::bounded(self.disk, READ_TIMEOUT, "read", path.clone(), move || {
            let mut file = match file {
                Some(file) => file,
                None => File::open(&path).map_err(failed("open", &path))?,
            };
            let mut part = Vec::new();
            let limit = PART_BYTES as u64;
            Read::by_ref(&mut file)
                .take(limit)
                .read_to_end(&mut part)
                .map_err(failed("read", &path))?;
            Ok((file, part))
        });
        let (file, part) = read.await.map_err(CopyError::Bundle)?;
        source.file = Some(file);
        source.digest.update(&part);
        source.bytes += part.len() as u64;
        Ok(part)
    }

    fn must_be(&self, name: &str, hash: &str, source: &Source) -> Result<(), CopyError> {
        if manifest::hexadecimal(source.digest.clone()) == hash {
            return Ok(());
        }
        Err(CopyError::Unsound {
            incident: self.found.kept.id.clone(),
            file: name.to_owned(),
        })
    }

    async fn asked<T>(&self, name: &str, request: impl Future<Output = object_store::Result<T>>) -> Result<T, CopyError> {
        let why = match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => self.store.explain(&error),
            Err(_) => format!("no answer within {}", humantime::format_duration(REQUEST_TIMEOUT)),
        };
        Err(CopyError::Store {
            file: name.to_owned(),
            place: self.place.to_owned(),
            why,
        })
    }

    /// Writes a line into the journal: a few bytes to the page cache.
    fn note(&self, line: impl FnOnce(&mut Journal) -> std::io::Result<()>) -> Result<(), CopyError> {
        let mut journal = disk::hold(&self.journal);
        line(&mut journal).map_err(|error| CopyError::Bundle(failed("note the copy in", &self.found.folder)(error)))
    }
}

/// A file that is being read part by part.
struct Source {
    path: PathBuf,
    file: Option<File>,
    digest: Sha256,
    bytes: u64,
}

/// Copies whatever is whole and not yet copied, in a task of its own that ends with the last clone of this.
#[derive(Clone, Debug)]
pub struct Copier {
    bell: Arc<watch::Sender<()>>,
}

impl Copier {
    /// Starts copying what lies there already. Needs a runtime.
    #[must_use]
    pub fn start(incidents: PathBuf, settings: CopySettings, metrics: Metrics) -> Self {
        let (bell, heard) = watch::channel(());
        let queue = Queue {
            incidents,
            place: place(&settings),
            settings,
            metrics,
            round: Round::default(),
            failures: BTreeMap::new(),
            said: None,
        };
        tokio::spawn(queue.run(heard));
        Self { bell: Arc::new(bell) }
    }

    /// Tells that a bundle became whole, or changed. Never waits.
    pub fn nudge(&self) {
        self.bell.send_replace(());
    }
}

/// What is to be copied, and how it went.
struct Queue {
    incidents: PathBuf,
    place: String,
    settings: CopySettings,
    metrics: Metrics,
    round: Round,
    /// How often each bundle failed.
    failures: BTreeMap<String, u32>,
    /// The failure that was told last: a store that is down all night is told once.
    said: Option<String>,
}

impl Queue {
    async fn run(mut self, mut heard: watch::Receiver<()>) {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_jitter()
            .without_max_times();
        let mut pause = pauses.build();
        loop {
            let wait = if self.pass().await {
                pause = pauses.build();
                LOOK_AGAIN
            } else {
                pause.next().unwrap_or(PAUSE_MAX)
            };
            // Nobody is left who could tell of more.
            if let Ok(Err(_)) = timeout(wait, heard.changed()).await {
                return;
            }
        }
    }

    /// Copies everything that is not copied yet; whether nothing is left to be tried again.
    async fn pass(&mut self) -> bool {
        let (incidents, place) = (self.incidents.clone(), self.place.clone());
        let disk = Arc::new(Semaphore::new(1));
        let listed = disk::bounded(&disk, LIST_TIMEOUT, "list", incidents.clone(), move || {
            stock(&incidents, Some(&place))
        });
        let mut waiting: Vec<Found> = match listed.await {
            Ok(found) => found.into_iter().filter(|one| one.kept.awaits_copy).collect(),
            Err(error) => {
                self.failed(&chain(&error));
                return false;
            }
        };
        self.failures.retain(|id, _| waiting.iter().any(|one| one.kept.id == *id));
        // Newest first, and what failed behind what did not.
        waiting.reverse();
        waiting.sort_by_key(|one| self.failures.get(&one.kept.id).copied().unwrap_or_default());
        let pending = &self.metrics.evidence_copies_pending;
        pending.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        let mut all = true;
        for found in waiting {
            let begun = Instant::now();
            match self.round.copy(&found, &self.settings, false).await {
                Ok(copied) => {
                    let (incident, to, took) = (&found.kept.id, &self.place, begun.elapsed());
                    info!(incident, to, copied.files, copied.bytes, ?took, "Copied evidence");
                    self.metrics.evidence_copies.with_label_values(&["copied"]).inc();
                    self.metrics.evidence_copies_pending.dec();
                    self.said = None;
                }
                Err(error @ CopyError::Changed(_)) => {
                    all = false;
                    debug!(%error, "Evidence is copied again");
                }
                // Retention was faster.
                Err(_) if !found.folder.exists() => self.metrics.evidence_copies_pending.dec(),
                Err(error) => {
                    all = false;
                    *self.failures.entry(found.kept.id.clone()).or_default() += 1;
                    self.metrics.evidence_copies.with_label_values(&["failed"]).inc();
                    self.failed(&chain(&error));
                    if error.is_of_store() {
                        break;
                    }
                }
            }
        }
        all
    }

    fn failed(&mut self, why: &str) {
        if self.said.as_deref() == Some(why) {
            debug!(why, "Evidence is still not copied");
        } else {
            warn!(to = self.place, why, "Evidence is not copied yet; trying again");
            self.said = Some(why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
