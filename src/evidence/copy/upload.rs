//! One bundle on its way to a store: file by file, the list last, each noted once the store has it.

use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    super::{
        disk::{self, MANIFEST, failed},
        manifest,
        stock::Found,
    },
    Copied, CopyError,
    journal::{self, Journal},
    place,
    store::{Options, Store},
};
use crate::model::settings::CopySettings;

/// Bytes of one request: the least that S3 takes as a part, and what is held in memory of one file.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Files on their way at a time.
const FILES_AT_ONCE: usize = 3;
/// How long one request may take, its retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one read from the disk may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The store, as long as its credentials are what they were.
#[derive(Default)]
pub(super) struct Round {
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

    pub(super) async fn copy(&mut self, found: &Found, settings: &CopySettings, again: bool) -> Result<Copied, CopyError> {
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
pub(super) struct Upload<'a> {
    pub(super) found: &'a Found,
    pub(super) store: &'a Store,
    pub(super) place: &'a str,
    pub(super) disk: &'a Arc<Semaphore>,
    pub(super) journal: Mutex<Journal>,
}

impl Upload<'_> {
    /// Sends files, then the list, and notes that all is there.
    pub(super) async fn everything(&self, wanted: Vec<(String, String)>, list_hash: &str) -> Result<Copied, CopyError> {
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
