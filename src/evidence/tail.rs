//! The newest bytes of a log, cleaned and kept in a file while they arrive: memory holds a few lines, however long the
//! log is and however much of it is wanted. Synchronous.

use std::{
    fs::{File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use tempfile::NamedTempFile;

use super::{
    disk,
    scrub::{Lines, Scrub},
};

/// A line longer than this is cut: no line that a person reads is.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How much of a cut line is left out besides, back to a blank: a secret's first half looks like none.
const CUT_BYTES: usize = 8 * 1024;
/// What ends a cut line.
const CUT: &str = " [the rest of this line is left out]";
/// Bytes copied at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// One log on its way to the disk. The file is a ring: what comes in after it is full takes the place of the oldest.
pub(super) struct Tail {
    ring: NamedTempFile,
    ring_bytes: u64,
    /// Bytes written so far, those included that were overwritten.
    written: u64,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// The line under way was cut: what comes up to its end is left out.
    cut: bool,
    lines: Lines,
    scrub: Arc<Scrub>,
}

impl Tail {
    /// Begins one that keeps `ring_bytes`, beside the place that it will have.
    pub(super) fn new(path: &Path, ring_bytes: u64, scrub: Arc<Scrub>) -> io::Result<Self> {
        Ok(Self {
            ring: disk::part_beside(path)?,
            ring_bytes: ring_bytes.max(1),
            written: 0,
            begun: Vec::new(),
            cut: false,
            lines: Lines::default(),
            scrub,
        })
    }

    /// Cleans what has arrived, up to the line that has not ended; to be written in this order.
    pub(super) fn clean(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(chunk.len() + LINE_BYTES_MAX / 8);
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.line(line, &mut clean);
            clean.push(b'\n');
            self.cut = false;
            rest = after.get(1..).unwrap_or_default();
        }
        if !self.cut {
            self.begun.extend_from_slice(rest);
            if self.begun.len() > LINE_BYTES_MAX {
                self.cut_line(&mut clean);
            }
        }
        clean
    }

    /// Cleans what is left when the log has ended.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let mut clean = Vec::new();
        if !self.begun.is_empty() {
            self.line(&[], &mut clean);
        }
        clean
    }

    /// Cleans the line that ends here, or the rest of one that has begun.
    fn line(&mut self, end: &[u8], clean: &mut Vec<u8>) {
        if self.cut {
            return;
        }
        self.begun.extend_from_slice(end);
        if self.begun.len() > LINE_BYTES_MAX {
            self.cut_line(clean);
            return;
        }
        let line = String::from_utf8_lossy(&self.begun);
        clean.extend_from_slice(self.lines.clean(&self.scrub, &line).as_bytes());
        self.begun.clear();
    }

    fn cut_line(&mut self, clean: &mut Vec<u8>) {
        self.cut = true;
        self.begun.truncate(LINE_BYTES_MAX);
        let sure = LINE_BYTES_MAX - CUT_BYTES;
        let blank = self.begun.iter().rposition(|byte| byte.is_ascii_whitespace());
        self.begun.truncate(blank.filter(|at| *at > sure).unwrap_or(sure));
        let line = String::from_utf8_lossy(&self.begun);
        clean.extend_from_slice(self.lines.clean(&self.scrub, &line).as_bytes());
        clean.extend_from_slice(CUT.as_bytes());
        self.begun.clear();
    }

    /// Writes what is clean. What failed may be written again.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        // Of more than the whole ring, only the end will stay.
        let ring = usize::try_from(self.ring_bytes).unwrap_or(usize::MAX);
        let surplus = bytes.len().saturating_sub(ring);
        // Skipped, not written: the ring goes on as if it had been, and counts only what was written for good.
        let mut at = self.written + surplus as u64;
        bytes = bytes.get(surplus..).unwrap_or_default();
        while !bytes.is_empty() {
            let place = at % self.ring_bytes;
            let room = usize::try_from(self.ring_bytes - place).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.ring.as_file().write_all_at(now, place)?;
            at += now.len() as u64;
            bytes = later;
        }
        self.written = at;
        Ok(())
    }

    /// Gives the log its name and returns its size; `None`, and no file, when nothing had come. From a log of which the
    /// beginning is lost, the first line is too. What failed may be tried again.
    pub(super) fn finish(&mut self, path: &Path) -> io::Result<Option<u64>> {
        if self.written == 0 {
            return Ok(None);
        }
        if self.written <= self.ring_bytes {
            self.ring.as_file().set_permissions(Permissions::from_mode(disk::FILE_MODE))?;
            return self.name(path).map(Some);
        }
        let mut straight = disk::part_beside(path)?;
        let seam = self.written % self.ring_bytes;
        let mut whole = false;
        for (from, to) in [(seam, self.ring_bytes), (0, seam)] {
            self.copy(from, to, &mut whole, straight.as_file_mut())?;
        }
        self.ring = straight;
        self.name(path).map(Some)
    }

    /// Copies a part of the ring, from the first whole line on.
    fn copy(&mut self, from: u64, to: u64, whole: &mut bool, into: &mut File) -> io::Result<()> {
        let ring = self.ring.as_file_mut();
        ring.seek(SeekFrom::Start(from))?;
        let mut part = ring.take(to - from);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = part.read(&mut piece)?;
            let mut read = piece.get(..length).unwrap_or_default();
            if length == 0 {
                return Ok(());
            }
            if !*whole {
                let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
                    continue;
                };
                *whole = true;
                read = read.get(end + 1..).unwrap_or_default();
            }
            into.write_all(read)?;
        }
    }

    fn name(&mut self, path: &Path) -> io::Result<u64> {
        std::fs::rename(self.ring.path(), path)?;
        Ok(std::fs::metadata(path)?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ring_bytes: u64, chunks: &[&[u8]]) -> String {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("app.log");
        let mut tail = Tail::new(&path, ring_bytes, Arc::new(Scrub::new(&[]))).expect("begins");
        for chunk in chunks {
            let clean = tail.clean(chunk);
            tail.write(&clean).expect("writes");
        }
        let rest = tail.rest();
        tail.write(&rest).expect("writes");
        tail.finish(&path).expect("finishes");
        drop(tail);
        let names: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").collect();
        assert!(names.len() <= 1, "no parts are left: {names:?}");
        std::fs::read_to_string(&path).unwrap_or_default()
    }

    #[test]
    fn the_newest_whole_lines_of_a_log_are_kept() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}\n")).collect();
        let one_by_one: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        assert_eq!(kept(20, &one_by_one), "line 98\nline 99\n");
        assert_eq!(kept(20, &[lines.concat().as_bytes()]), "line 98\nline 99\n");
        assert_eq!(kept(20, &[b"no newline"]), "no newline");
        assert_eq!(kept(20, &[]), "");
    }

    #[test]
    fn a_ring_of_any_size_gives_the_end_of_the_log() {
        let log: String = (0..3000).map(|n| format!("{n} {}\n", "x".repeat(n % 37))).collect();
        for ring in [1, 7, 63, 64, 1000, 4096, 30_000, 100_000] {
            for size in [1, 5, 64, 977, 65_536] {
                let chunks: Vec<&[u8]> = log.as_bytes().chunks(size).collect();
                let found = kept(ring, &chunks);
                assert!(log.ends_with(&found), "ring {ring}, chunks of {size}");
                let missed = (ring as usize).min(log.len()) - found.len();
                assert!(missed <= 43, "ring {ring}, chunks of {size}: {missed} bytes too few");
            }
        }
    }

    /// The corpus, cut into chunks at every place: a token that arrives in halves is hidden like any other.
    #[test]
    fn a_secret_that_arrives_in_pieces_is_hidden() {
        let corpus = include_str!("../../tests/redaction/hidden.txt");
        for line in corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (text, secret) = line.split_once('\t').expect("text, tab, secret");
            let log = format!("before\n{text}\nafter\n");
            for size in [1, 3, 16, log.len() / 2, log.len() - 1] {
                let chunks: Vec<&[u8]> = log.as_bytes().chunks(size.max(1)).collect();
                let found = kept(10_000, &chunks);
                assert!(!found.contains(secret), "{found}");
                assert!(found.starts_with("before\n") && found.ends_with("\nafter\n"), "{found}");
            }
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_no_half_of_a_secret_stays() {
        let token = "ghp_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE00";
        for before in LINE_BYTES_MAX - 60..LINE_BYTES_MAX + 5 {
            let line = format!("{} {token} {}\nnext\n", "x".repeat(before), "y".repeat(LINE_BYTES_MAX));
            let found = kept(10_000_000, &line.as_bytes().chunks(16 * 1024).collect::<Vec<_>>());
            assert!(!found.contains("ghp_"), "at {before}");
            assert!(found.ends_with("[the rest of this line is left out]\nnext\n"), "at {before}");
            assert!(found.len() > LINE_BYTES_MAX - CUT_BYTES);
        }
    }
}
