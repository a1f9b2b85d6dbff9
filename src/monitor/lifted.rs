//! `flipback override`: a person's word that any number of guards may flip for a while.
//!
//! It holds from the moment it is said, and is kept beside that: in the data folder, for the next run of this process, and with the
//! replicas' Lease, for every other one (`cluster/lease/word.rs`). The newest word holds, wherever it was said.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use jiff::Timestamp;

use super::{Monitor, act::Reply};
use crate::{
    model::{Actor, CommandReply, Lifted},
    words::clipped,
};

/// The file in the data folder.
const FILE: &str = "override.json";
/// A start waits so long for it; a word that cannot be read is as good as none.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// An answer waits so long for it.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// A longer file is not ours.
const BYTES_MAX: u64 = 16 * 1024;
/// Characters of a name and of a reason: both travel in an annotation.
const TEXT_CHARS_MAX: usize = 300;

/// What an earlier run was told, if its time is not over.
pub(super) fn read(data_dir: &Path, now: Timestamp) -> Option<Lifted> {
    let path = data_dir.join(FILE);
    let (tell, told) = mpsc::channel();
    // A disk that hangs keeps its thread, and not the start.
    std::thread::spawn(move || {
        // Nobody listens any more where it took too long.
        let _ = tell.send(parsed(&path));
    });
    match told.recv_timeout(READ_WITHIN) {
        Ok(Ok(word)) => word.filter(|word| word.holds(now)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "Whether an earlier run was told that any number of guards may flip is not known");
            None
        }
        Err(_) => {
            tracing::warn!("The disk does not tell whether an earlier run was told that any number of guards may flip");
            None
        }
    }
}

fn parsed(path: &Path) -> io::Result<Option<Lifted>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.len() > BYTES_MAX => return Err(io::Error::other("the file is too long to be one")),
        Ok(_) => {}
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

/// Keeps a word for the next run.
async fn keep(data_dir: PathBuf, word: Lifted) -> Result<(), String> {
    let written = tokio::task::spawn_blocking(move || written(&data_dir, &word));
    match tokio::time::timeout(WRITE_WITHIN, written).await {
        Ok(Ok(written)) => written.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the disk does not answer".to_owned()),
    }
}

/// Beside it first, so that a crash leaves the former word or the new one.
fn written(data_dir: &Path, word: &Lifted) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let file = tempfile::NamedTempFile::new_in(data_dir)?;
    serde_json::to_writer(file.as_file(), word)?;
    file.as_file().sync_all()?;
    file.persist(data_dir.join(FILE)).map_err(|error| error.error)?;
    fs::File::open(data_dir)?.sync_all()
}

impl Monitor {
    /// Lets any number of guards flip for a while, and answers once the next run would know it, too.
    pub(super) fn lift(&mut self, lasts: Duration, by: &str, reason: &str, reply: Reply, now: Timestamp) {
        let lasts = jiff::SignedDuration::try_from(lasts.min(Lifted::MAX)).unwrap_or_default();
        let word = Lifted {
            at: now,
            until: now.checked_add(lasts).unwrap_or(now),
            by: clipped(by, TEXT_CHARS_MAX, |_| None),
            reason: clipped(reason, TEXT_CHARS_MAX, |_| None),
        };
        let what = self.lifted_by(&word, "");
        let elsewhere = match &self.part {
            Some(part) => {
                part.lift(word.clone());
                ", of this replica at once, and of every other within seconds"
            }
            None => "",
        };
        let data_dir = self.in_force.config.data_dir.clone();
        self.errand(async move {
            let kept = keep(data_dir, word).await;
            let lost = kept.err().map(|error| {
                tracing::warn!(error, "The override is known to no later run of this process");
                format!("; it ends with this process, since it cannot be kept: {error}")
            });
            // A caller that went away is no concern of ours.
            let _ = reply.send(Ok(CommandReply::Done {
                what: format!("{what}{elsewhere}{}", lost.unwrap_or_default()),
            }));
        });
    }

    /// Obeys a word from here on, writes it down, and says what it means.
    fn lifted_by(&mut self, word: &Lifted, heard: &str) -> String {
        let Lifted { until, by, reason, .. } = word;
        tracing::warn!(by, reason, %until, heard, "Any number of guards may flip");
        let what = format!("any number of guards may flip until {until}");
        let why = if heard.is_empty() {
            format!("{what}: {reason}")
        } else {
            format!("{what} ({heard}): {reason}")
        };
        let now = self.clock.now();
        self.audit(now, Actor::Person { name: by.clone() }, None, "override", &why, None);
        self.holds.lifted = Some(word.clone());
        what
    }

    /// What was said to an earlier run goes on, and is passed on.
    pub(super) fn still_lifted(&mut self, now: Timestamp) {
        let Some(word) = self.holds.lifted(now).cloned() else { return };
        self.lifted_by(&word, "as an earlier run was told");
        if let Some(part) = &self.part {
            part.lift(word);
        }
    }

    /// Learns what another replica was told.
    pub(super) fn hear_of_lift(&mut self, now: Timestamp) {
        let word = self.part.as_ref().and_then(super::lead::Part::lifted);
        let news = word.filter(|word| word.holds(now) && word.is_newer_than(self.holds.lifted.as_ref()));
        if let Some(word) = news {
            self.lifted_by(&word, "as another replica was told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn word(until: i64) -> Lifted {
        Lifted {
            at: at(0),
            until: at(until),
            by: "ann".into(),
            reason: "the release".into(),
        }
    }

    #[tokio::test]
    async fn a_word_is_known_to_the_next_run_until_its_time_is_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("data");
        assert_eq!(read(&data_dir, at(1)), None, "there is none yet");
        keep(data_dir.clone(), word(600)).await.expect("kept");
        assert_eq!(read(&data_dir, at(599)), Some(word(600)));
        assert_eq!(read(&data_dir, at(600)), None);
        keep(data_dir.clone(), word(900)).await.expect("kept");
        assert_eq!(
            read(&data_dir, at(600)),
            Some(word(900)),
            "the newer word takes the place of the older"
        );
        assert_eq!(fs::read_dir(&data_dir).expect("there").count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_disk_that_refuses_is_said_and_a_file_that_is_none_is_no_word() {
        let folder = tempfile::tempdir().expect("a folder");
        let in_the_way = folder.path().join("data");
        fs::write(&in_the_way, "a file").expect("written");
        assert!(keep(in_the_way.clone(), word(600)).await.is_err());
        assert_eq!(read(&in_the_way, at(1)), None);
        fs::write(folder.path().join(FILE), "{\"at\": 1").expect("written");
        assert_eq!(read(folder.path(), at(1)), None);
        fs::write(folder.path().join(FILE), " ".repeat(20_000)).expect("written");
        assert_eq!(read(folder.path(), at(1)), None);
    }
}
