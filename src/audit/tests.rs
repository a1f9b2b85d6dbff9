use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use jiff::Timestamp;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{
    line::{GENESIS, encode},
    read::files,
    writer::{Item, Writer},
    *,
};
use crate::{
    metrics::Metrics,
    model::{Actor, AuditEntry, GuardId, settings::AuditSettings},
};

fn entry(n: u64) -> AuditEntry {
    let seconds = 1_790_000_000 + i64::try_from(n).expect("few");
    AuditEntry {
        at: Timestamp::from_second(seconds).expect("in range"),
        actor: match n % 3 {
            0 => Actor::Flipback,
            1 => Actor::Person {
                name: "ann \"the\" op\n".into(),
            },
            _ => Actor::FieldManager { name: "argocd".into() },
        },
        guard: n.is_multiple_of(4).then(|| GuardId::new("", "shop", "web").expect("a name")),
        action: "flipped".into(),
        why: format!("error-rate was {n} % of 1204 requests, 5 % allowed"),
        incident: n.is_multiple_of(5).then(|| format!("shop.web_{n}")),
    }
}

fn items(numbers: impl IntoIterator<Item = u64>) -> VecDeque<Item> {
    numbers.into_iter().map(|n| Item::Entry(entry(n))).collect()
}

/// Small files, so that there are several.
const SMALL: AuditSettings = AuditSettings {
    file_bytes: 1500,
    files: 100,
};

/// A journal of so many entries, in several files.
fn journal(count: u64, settings: AuditSettings) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), settings, 1..=count);
    folder
}

fn write(folder: &Path, settings: AuditSettings, numbers: impl IntoIterator<Item = u64>) {
    let mut writer = Writer::new(folder.to_owned(), settings);
    let mut items = items(numbers);
    writer.append(&mut items).expect("writes");
    assert!(items.is_empty());
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    files(folder).expect("lists").into_iter().map(|file| file.path).collect()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).expect("reads").lines().map(str::to_owned).collect()
}

fn put(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("writes");
}

fn fault(folder: &Path) -> Broken {
    match verify(folder) {
        Err(AuditError::Broken(broken)) => *broken,
        other => panic!("not noticed: {other:?}"),
    }
}

fn told(folder: &Path) -> Vec<Line> {
    let mut all = Vec::new();
    entries(folder, |told| {
        match told {
            Told::Line(line, _) => all.push(*line),
            Told::Unreadable(file, line) => panic!("{file}:{line}"),
        }
        std::ops::ControlFlow::Continue(())
    })
    .expect("reads");
    all
}

#[test]
fn a_line_is_what_people_and_programs_read() {
    let (first, hash) = encode(1, &entry(1), None, GENESIS).expect("encodes");
    let (second, _) = encode(2, &entry(20), None, &hash).expect("encodes");
    let note = Note::Pruned {
        file: "audit-00000000000000000001.jsonl".into(),
        through: 2,
        hash: hash.clone(),
    };
    let (third, _) = encode(3, &entry(3), Some(&note), &hash).expect("encodes");
    insta::assert_snapshot!([first, second, third].map(|line| String::from_utf8(line).expect("UTF-8")).concat());
}

#[test]
fn a_journal_of_several_files_is_whole_and_says_what_it_holds() {
    let folder = journal(40, SMALL);
    let count = paths(folder.path()).len() as u64;
    assert!(count > 3, "{count} files");
    let verified = verify(folder.path()).expect("whole");
    assert_eq!((verified.files, verified.entries, verified.first), (count, 40, 1));
    assert_eq!(verified.anchor.seq, 40);
    assert_eq!(verified.torn, None);
    let read = told(folder.path());
    assert_eq!(
        read.iter().map(|line| line.entry.clone()).collect::<Vec<_>>(),
        (1..=40).map(entry).collect::<Vec<_>>()
    );
}

#[test]
fn nobody_else_may_look() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("data/audit");
    write(&inner, SMALL, 1..=3);
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&paths(&inner)[0]), 0o600);
    // A folder that was made by somebody else, too wide, is closed.
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).expect("opens it");
    write(&inner, SMALL, 4..=5);
    assert_eq!(mode(&inner), 0o700);
}

#[test]
fn a_restart_goes_on_where_it_ended() {
    let folder = journal(3, AuditSettings::default());
    write(folder.path(), AuditSettings::default(), 4..=6);
    assert_eq!(verify(folder.path()).expect("whole").entries, 6);
    assert_eq!(paths(folder.path()).len(), 1);
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Writer::new(folder.path().to_owned(), SMALL);
    first.open().expect("opens");
    let mut second = Writer::new(folder.path().to_owned(), SMALL);
    assert!(matches!(second.open(), Err(AuditError::Held { .. })));
    drop(first);
    second.open().expect("opens once the first is gone");
}

#[test]
fn a_lock_that_outlives_its_writer_by_a_moment_is_waited_for() {
    let folder = journal(1, SMALL);
    // As a program holds it that a dead writer was just starting.
    let inherited = fs::File::open(folder.path().join(".lock")).expect("a writer was here");
    inherited.lock().expect("nobody writes");
    let lets_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        drop(inherited);
    });
    let mut next = Writer::new(folder.path().to_owned(), SMALL);
    next.open().expect("opens once that has let go");
    lets_go.join().expect("ends");
}

#[test]
fn old_files_go_and_the_journal_says_which_and_stays_whole() {
    let settings = AuditSettings { files: 3, ..SMALL };
    let folder = tempfile::tempdir().expect("a folder");
    let mut before = None;
    for n in 0..20 {
        write(folder.path(), settings, n * 7 + 1..=n * 7 + 7);
        let verified = verify(folder.path()).expect("whole");
        assert!(verified.files <= 3, "{} files", verified.files);
        assert_eq!(verified.pruned_through, verified.first - 1);
        if let Some(before) = before.replace(verified.anchor) {
            verify_against(folder.path(), Some(&before)).expect("the anchor of the last time is in it or too old");
        }
    }
    let verified = verify(folder.path()).expect("whole");
    assert!(verified.pruned_through > 50, "{verified:?}");
    let old = Anchor {
        seq: 5,
        hash: "ab".repeat(32),
    };
    let old = verify_against(folder.path(), Some(&old)).expect("whole");
    assert_eq!(old.anchored, Some(Anchored::TooOld));
    let notes = told(folder.path()).into_iter().filter_map(|line| line.journal);
    assert!(notes.into_iter().any(|note| matches!(note, Note::Pruned { .. })));
}

#[test]
fn one_file_is_enough_and_may_hold_less_than_a_line() {
    let settings = AuditSettings { file_bytes: 1, files: 1 };
    let folder = journal(9, settings);
    let verified = verify(folder.path()).expect("whole");
    assert_eq!(verified.files, 1);
    assert_eq!(told(folder.path()).iter().filter(|line| line.journal.is_none()).count(), 1);
}

#[test]
fn a_file_removed_by_somebody_else_is_noticed() {
    let folder = journal(40, SMALL);
    let all = paths(folder.path());
    fs::remove_file(&all[0]).expect("removes");
    let broken = fault(folder.path());
    assert_eq!((broken.fault, broken.line), (Fault::Removed, 1));
    let folder = journal(40, SMALL);
    let all = paths(folder.path());
    fs::remove_file(&all[1]).expect("removes");
    let broken = fault(folder.path());
    assert_eq!(broken.fault, Fault::Removed);
    assert!(all[2].ends_with(&broken.file), "{broken}");
}

#[test]
fn a_changed_removed_inserted_or_replaced_line_is_named() {
    let folder = journal(40, SMALL);
    let path = paths(folder.path())[1].clone();
    let sound = lines(&path);
    let mut changed = sound.clone();
    changed[1] = changed[1].replace("1204", "9204");
    put(&path, &changed);
    insta::assert_snapshot!("changed", fault(folder.path()).to_string());
    let mut removed = sound.clone();
    removed.remove(1);
    put(&path, &removed);
    insta::assert_snapshot!("removed", fault(folder.path()).to_string());
    let mut twice = sound.clone();
    twice.insert(1, sound[0].clone());
    put(&path, &twice);
    assert_eq!((fault(folder.path()).fault, fault(folder.path()).line), (Fault::Inserted, 2));
    let mut moved = sound.clone();
    moved.swap(1, 2);
    put(&path, &moved);
    assert_eq!((fault(folder.path()).fault, fault(folder.path()).line), (Fault::Removed, 2));
    // With a hash of its own, by somebody who knows how it is made.
    let first = told(folder.path())[0].clone();
    let known: serde_json::Value = serde_json::from_str(&sound[1]).expect("JSON");
    let prev = known["prev"].as_str().expect("a hash");
    let (forged, _) = encode(known["seq"].as_u64().expect("a number"), &first.entry, None, prev).expect("encodes");
    let mut replaced = sound.clone();
    replaced[1] = String::from_utf8(forged).expect("UTF-8").trim_end().to_owned();
    put(&path, &replaced);
    assert_eq!((fault(folder.path()).fault, fault(folder.path()).line), (Fault::Replaced, 3));
}

#[test]
fn swapped_files_are_named() {
    let folder = journal(40, SMALL);
    let all = paths(folder.path());
    let (one, two) = (fs::read(&all[1]).expect("reads"), fs::read(&all[2]).expect("reads"));
    fs::write(&all[1], two).expect("writes");
    fs::write(&all[2], one).expect("writes");
    let broken = fault(folder.path());
    assert_eq!(broken.fault, Fault::Swapped);
    assert!(all[1].ends_with(&broken.file), "{broken}");
}

/// The chain alone cannot see this: hence the anchor.
#[test]
fn a_cut_tail_is_noticed_by_its_anchor_only() {
    let folder = journal(40, SMALL);
    let anchor = verify(folder.path()).expect("whole").anchor;
    let all = paths(folder.path());
    let last = all.last().expect("files");
    let mut left = lines(last);
    left.pop();
    put(last, &left);
    verify(folder.path()).expect("what is left is a whole journal");
    let noticed = |anchor: &Anchor| match verify_against(folder.path(), Some(anchor)) {
        Err(AuditError::Broken(broken)) => broken.fault,
        other => panic!("not noticed: {other:?}"),
    };
    assert_eq!(noticed(&anchor), Fault::Cut);
    // Filled up again with something else.
    write(folder.path(), SMALL, [99, 100]);
    verify(folder.path()).expect("a whole journal");
    assert_eq!(noticed(&anchor), Fault::Rewritten);
    // All of it gone.
    for path in paths(folder.path()) {
        fs::remove_file(path).expect("removes");
    }
    assert_eq!(noticed(&anchor), Fault::Cut);
    assert!(matches!(verify(folder.path()), Err(AuditError::Absent { .. })));
}

#[test]
fn an_anchor_is_read_as_it_is_printed() {
    let anchor = verify(journal(3, SMALL).path()).expect("whole").anchor;
    assert_eq!(anchor.to_string().parse(), Ok(anchor));
    for wrong in ["", "3", "3:abc", "x:0", &format!("0:{GENESIS}"), &format!("3:{}g", "a".repeat(63))] {
        assert!(wrong.parse::<Anchor>().is_err(), "{wrong}");
    }
}

#[test]
fn an_unfinished_line_is_cut_at_the_next_start_and_told() {
    let folder = journal(5, AuditSettings::default());
    let path = paths(folder.path())[0].clone();
    let whole = fs::read(&path).expect("reads");
    let cut = |bytes: usize| whole[..whole.len() - bytes].to_vec();
    // The last one is what a power cut may leave: more than is then written in its place.
    for left in [cut(1), cut(70), cut(300), [cut(1), vec![0; 200_000]].concat()] {
        fs::write(&path, left).expect("writes");
        let torn = verify(folder.path()).expect("whole but for the end");
        assert!(torn.torn.is_some_and(|torn| torn.bytes > 0) && torn.entries == 4);
        write(folder.path(), AuditSettings::default(), [7]);
        let verified = verify(folder.path()).expect("whole");
        assert_eq!((verified.cuts, verified.entries, &verified.torn), (1, 6, &None));
        let note = told(folder.path())[4].clone();
        assert!(note.entry.why.contains("cut off"), "{note:?}");
    }
}

#[test]
fn what_was_done_to_a_journal_stays_to_be_seen_after_a_restart() {
    let folder = journal(5, AuditSettings::default());
    let path = paths(folder.path())[0].clone();
    let mut changed = lines(&path);
    changed[4] = changed[4].replace("1204", "9204");
    put(&path, &changed);
    write(folder.path(), AuditSettings::default(), [7]);
    assert_eq!(lines(&path), changed, "left alone");
    assert_eq!(fault(folder.path()).line, 5);
    // Nothing in it is a line: there is still a place to go on.
    put(&path, &["nonsense".to_owned()]);
    for path in paths(folder.path()).into_iter().skip(1) {
        fs::remove_file(path).expect("removes");
    }
    write(folder.path(), AuditSettings::default(), [8]);
    assert_eq!(fault(folder.path()).fault, Fault::Changed);
}

#[test]
fn a_folder_removed_under_a_writer_is_written_again_and_the_loss_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("audit");
    let mut writer = Writer::new(inner.clone(), AuditSettings::default());
    writer.append(&mut items(1..=3)).expect("writes");
    fs::remove_dir_all(&inner).expect("removes");
    writer.append(&mut items(4..=5)).expect("writes");
    assert_eq!(told(&inner).len(), 2);
    assert_eq!(fault(&inner).fault, Fault::Removed);
}

#[test]
fn what_fails_is_written_once_when_it_works_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("audit");
    // A file where the folder shall be: nothing can be written, whoever runs this.
    fs::write(&inner, "in the way").expect("writes");
    let mut writer = Writer::new(inner.clone(), SMALL);
    let mut left = items(1..=3);
    writer.append(&mut left).expect_err("nowhere to write");
    assert_eq!(left.len(), 3, "nothing is taken that is not durable");
    fs::remove_file(&inner).expect("removes");
    writer.append(&mut left).expect("writes");
    assert_eq!(verify(&inner).expect("whole").entries, 3);
}

fn counted(metrics: &Metrics) -> (u64, u64) {
    let of = |result: &str| metrics.audit_entries.with_label_values(&[result]).get();
    (of("written"), of("lost"))
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_the_journal_says_so_where_it_would_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = Metrics::new().expect("metrics");
    let (journal, task) = Journal::open(folder.path().join(FOLDER), AuditSettings::default(), metrics.clone());
    // Nobody writes yet, as with a disk that hangs.
    for n in 0..4096 + 7 {
        journal.write(entry(n));
    }
    assert_eq!(counted(&metrics), (0, 7));
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    while counted(&metrics).0 < 4096 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    journal.write(entry(9000));
    stop.cancel();
    running.await.expect("ends");
    assert_eq!(counted(&metrics), (4097, 7));
    let all = told(&folder.path().join(FOLDER));
    assert_eq!(all.len(), 4098);
    assert_eq!(all[4096].journal, Some(Note::Lost { entries: 7 }));
    assert_eq!(all[4096].entry.why, "7 entries were lost here: the disk did not keep up");
    assert_eq!(all[4097].entry, entry(9000));
    assert_eq!(verify(&folder.path().join(FOLDER)).expect("whole").lost, 7);
}

#[tokio::test]
async fn a_stop_writes_what_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = Metrics::new().expect("metrics");
    let (journal, task) = Journal::open(folder.path().to_owned(), AuditSettings::default(), metrics.clone());
    for n in 0..300 {
        journal.write(entry(n));
    }
    let stop = CancellationToken::new();
    stop.cancel();
    task.run(stop).await;
    assert_eq!(verify(folder.path()).expect("whole").entries, 300);
    assert_eq!(counted(&metrics), (300, 0));
}

#[tokio::test]
async fn a_disk_that_refuses_holds_up_no_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("audit");
    fs::write(&inner, "in the way").expect("writes");
    let metrics = Metrics::new().expect("metrics");
    let (journal, task) = Journal::open(inner, AuditSettings::default(), metrics.clone());
    journal.write(entry(1));
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running)
        .await
        .expect("ends")
        .expect("without a panic");
    assert_eq!(counted(&metrics), (0, 1));
}

#[test]
fn an_entry_of_any_size_makes_a_line_that_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = Metrics::new().expect("metrics");
    let (journal, task) = Journal::open(folder.path().to_owned(), AuditSettings::default(), metrics);
    let huge = "\u{1f4a5}\u{1}".repeat(200_000);
    journal.write(AuditEntry {
        actor: Actor::Person { name: huge.clone() },
        action: huge.clone(),
        why: huge.clone(),
        incident: Some(huge),
        ..entry(4)
    });
    let stop = CancellationToken::new();
    stop.cancel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(task.run(stop));
    assert_eq!(verify(folder.path()).expect("whole").entries, 1);
}

/// A copy of a journal of 25 entries in several files, made without waiting for the disk.
fn copied() -> tempfile::TempDir {
    static MADE: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = journal(25, SMALL);
        let read = |path: PathBuf| (super::read::name_of(&path), fs::read(&path).expect("reads"));
        paths(folder.path()).into_iter().map(read).collect()
    });
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in made {
        fs::write(folder.path().join(name), bytes).expect("writes");
    }
    folder
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any byte but those of an unfinished end: a line whose own end is taken away is one.
    #[test]
    fn any_edit_of_any_byte_is_found(place in any::<prop::sample::Index>(), edit in 0..3_u8, byte in any::<u8>()) {
        let folder = copied();
        let whole = verify(folder.path()).expect("whole");
        let all = paths(folder.path());
        let bytes: Vec<Vec<u8>> = all.iter().map(|path| fs::read(path).expect("reads")).collect();
        let mut at = place.index(bytes.iter().map(Vec::len).sum());
        let mut file = 0;
        while at >= bytes[file].len() {
            at -= bytes[file].len();
            file += 1;
        }
        let mut edited = bytes[file].clone();
        match edit {
            0 => edited[at] = byte,
            1 => edited.insert(at, byte),
            _ => drop(edited.remove(at)),
        }
        prop_assume!(edited != bytes[file]);
        fs::write(&all[file], edited).expect("writes");
        match verify(folder.path()) {
            Err(AuditError::Broken(broken)) => prop_assert!(all[file].ends_with(&broken.file) || file + 1 < all.len(), "{broken}"),
            Ok(verified) => prop_assert!(verified.torn.is_some() && verified.entries < whole.entries, "{verified:?}"),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A crash may leave any part of the last write; whatever it is, the next start makes a whole journal of it.
    #[test]
    fn a_journal_cut_anywhere_in_its_newest_file_goes_on_whole(place in any::<prop::sample::Index>()) {
        let folder = copied();
        let last = paths(folder.path()).pop().expect("files");
        let bytes = fs::read(&last).expect("reads");
        let keep = place.index(bytes.len() + 1);
        fs::write(&last, &bytes[..keep]).expect("writes");
        let torn = keep > 0 && bytes[keep - 1] != b'\n';
        let before = verify(folder.path()).expect("whole but for the end");
        prop_assert_eq!(before.torn.is_some(), torn);
        write(folder.path(), SMALL, [77]);
        let after = verify(folder.path()).expect("whole");
        prop_assert_eq!(after.cuts, u64::from(torn));
        prop_assert_eq!(after.entries, before.entries + 1 + u64::from(torn));
        prop_assert_eq!(told(folder.path()).pop().map(|line| line.entry), Some(entry(77)));
    }
}
