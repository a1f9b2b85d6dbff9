//! Export and verify, each against the other and against `tar`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use super::*;
use crate::evidence::{
    made::{Shelf, append},
    stock,
    verify::{self, Verified},
};

fn problems(verified: &Verified) -> Vec<String> {
    verified.problems.iter().map(ToString::to_string).collect()
}

fn tar(arguments: &[&str], archive: &Path) -> String {
    let done = Command::new("tar")
        .args(arguments)
        .arg(archive)
        .env("TZ", "UTC")
        .output()
        .expect("tar runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

#[test]
fn an_archive_is_what_tar_reads_and_always_the_same() {
    let shelf = Shelf::new();
    let folder = shelf.bundle("web", 0, 200_000);
    // A path longer than the old header has room for.
    let (long, deep) = ("p".repeat(200), folder.join("logs/green"));
    fs::create_dir(deep.join(&long)).expect("ours");
    fs::write(deep.join(&long).join("app.log"), "x").expect("ours");
    stock::pin(&folder).expect("pins");
    let found = shelf.found(&folder);
    let (first, second) = (shelf.beside("a.tar.zst"), shelf.beside("b.tar.zst"));
    let exported = to_file(&found, &first, Replace::No).expect("exports");
    // Another time, another mode: the same bytes.
    fs::set_permissions(folder.join("incident.json"), Permissions::from_mode(0o640)).expect("ours");
    to_file(&found, &second, Replace::No).expect("exports");
    assert_eq!(fs::read(&first).expect("reads"), fs::read(&second).expect("reads"));
    assert_eq!(
        exported.unsound,
        [format!("logs/green/{long}/app.log")],
        "what nobody listed is named"
    );
    assert!(exported.packed < exported.bytes / 10 && exported.packed == fs::metadata(&first).expect("there").len());
    assert_eq!(fs::metadata(&first).expect("there").permissions().mode() & 0o777, 0o600);
    let listing = tar(&["--zstd", "--numeric-owner", "-tvf"], &first).replace(&long, "LONG");
    insta::assert_snapshot!(
        listing
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let unpacked = shelf.beside("unpacked");
    fs::create_dir(&unpacked).expect("ours");
    tar(&["--zstd", "-C", &unpacked.display().to_string(), "-xf"], &first);
    let there = unpacked.join(folder.file_name().expect("a name"));
    assert_eq!(
        problems(&verify::folder(&there).expect("opens")),
        [format!("not listed: logs/green/{long}/app.log")]
    );
}

#[test]
fn an_existing_file_is_not_replaced_unless_told() {
    let shelf = Shelf::new();
    let found = shelf.found(&shelf.bundle("web", 0, 10));
    let path = shelf.beside("a.tar.zst");
    fs::write(&path, "mine").expect("ours");
    let error = to_file(&found, &path, Replace::No).expect_err("refuses").to_string();
    assert!(error.contains("a.tar.zst"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("reads"), "mine");
    to_file(&found, &path, Replace::Yes).expect("exports");
    assert!(verify::archive(&path).expect("opens").is_whole());
}

#[test]
fn an_archive_that_cannot_be_finished_is_not_there() {
    let shelf = Shelf::new();
    let folder = shelf.bundle("web", 0, 10);
    let found = shelf.found(&folder);
    fs::remove_dir_all(folder).expect("ours");
    let path = shelf.beside("a.tar.zst");
    to_file(&found, &path, Replace::No).expect_err("there is nothing");
    let left: Vec<_> = fs::read_dir(shelf.beside(""))
        .expect("lists")
        .map(|entry| entry.expect("ours").file_name())
        .collect();
    assert_eq!(left, ["incidents"]);
}

#[test]
fn a_whole_bundle_is_whole_in_both_forms() {
    let shelf = Shelf::new();
    let folder = shelf.bundle("web", 0, 200_000);
    stock::pin(&folder).expect("pins");
    let verified = verify::folder(&folder).expect("opens");
    assert_eq!((problems(&verified), verified.sound), (Vec::new(), 5));
    let path = shelf.beside("a.tar.zst");
    assert_eq!(
        to_file(&shelf.found(&folder), &path, Replace::No).expect("exports").unsound,
        Vec::<String>::new()
    );
    let packed = verify::archive(&path).expect("opens");
    assert_eq!((problems(&packed), packed.sound, packed.bytes), (Vec::new(), 5, verified.bytes));
}

#[test]
fn everything_that_is_wrong_with_a_folder_is_named() {
    let shelf = Shelf::new();
    let folder = shelf.bundle("web", 0, 10);
    append(&folder.join("incident.json"), " ");
    fs::remove_file(folder.join("decision.jsonl")).expect("ours");
    fs::write(folder.join("manifests/note\u{1b}[31m.txt"), "").expect("ours");
    symlink("/etc/passwd", folder.join("passwd")).expect("ours");
    symlink("/etc", folder.join("etc")).expect("ours");
    fs::set_permissions(folder.join("report.html"), Permissions::from_mode(0o644)).expect("ours");
    fs::set_permissions(folder.join("manifests/service.web.json"), Permissions::from_mode(0o4600)).expect("ours");
    fs::set_permissions(folder.join("logs"), Permissions::from_mode(0o701)).expect("ours");
    append(&folder.join(MANIFEST), "rubbish\n");
    let hash = "0".repeat(64);
    append(
        &folder.join(MANIFEST),
        &format!("{hash}  ../../etc/shadow\n{hash}  /etc/shadow\n{hash}  incident.json\n"),
    );
    let verified = verify::folder(&folder).expect("opens");
    insta::assert_snapshot!(problems(&verified).join("\n"));
    // A volume with `fsGroup` has its group's bits set.
    let sound = shelf.bundle("web", 1, 10);
    fs::set_permissions(&sound, Permissions::from_mode(0o2770)).expect("ours");
    fs::set_permissions(sound.join("incident.json"), Permissions::from_mode(0o660)).expect("ours");
    assert!(verify::folder(&sound).expect("opens").is_whole());
}

#[test]
fn a_bundle_without_its_list_is_not_whole() {
    let shelf = Shelf::new();
    let folder = shelf.bundle("web", 0, 10);
    fs::remove_file(folder.join(MANIFEST)).expect("ours");
    assert_eq!(problems(&verify::folder(&folder).expect("opens")), ["missing: MANIFEST.sha256"]);
    verify::folder(&shelf.beside("nowhere")).expect_err("there is none");
}

/// An archive made by hand.
fn archive(path: &Path, fill: impl FnOnce(&mut tar::Builder<zstd::Encoder<'static, File>>)) {
    let packer = zstd::Encoder::new(File::create(path).expect("ours"), 1).expect("packs");
    let mut builder = tar::Builder::new(packer);
    fill(&mut builder);
    builder.into_inner().expect("ends").finish().expect("ends");
}

fn entry(name: &str, kind: tar::EntryType, mode: u32, content: &[u8]) -> (tar::Header, Vec<u8>) {
    let mut header = header(Timestamp::UNIX_EPOCH, mode, content.len() as u64);
    header.set_entry_type(kind);
    // As the crate refuses to write such names, the field is set by hand.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    (header, content.to_vec())
}

#[test]
fn everything_that_is_wrong_with_an_archive_is_named() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let shelf = Shelf::new();
    let path = shelf.beside("bad.tar.zst");
    let hash = manifest::hexadecimal(Sha256::new_with_prefix(b"x"));
    let list = format!("{hash}  good\n{hash}  gone\n{hash}  bad\n");
    archive(&path, |builder| {
        for (header, content) in [
            entry("id/good", Regular, 0o600, b"x"),
            entry("id/bad", Regular, 0o600, b"y"),
            entry("id/open", Regular, 0o606, b"x"),
            entry("id/good", Regular, 0o600, b"y"),
            entry("../../etc/cron.d/x", Regular, 0o600, b"x"),
            entry("/etc/passwd", Regular, 0o600, b"x"),
            entry("other/x", Regular, 0o600, b"x"),
            entry("id/link", Symlink, 0o600, b""),
            entry("id/hard", Link, 0o600, b""),
            entry("id/tty", Char, 0o600, b""),
            entry("id/MANIFEST.sha256", Regular, 0o600, list.as_bytes()),
        ] {
            builder.append(&header, content.as_slice()).expect("writes");
        }
    });
    let verified = verify::archive(&path).expect("opens");
    insta::assert_snapshot!(problems(&verified).join("\n"));
}

#[test]
fn a_cut_or_flipped_archive_is_no_archive() {
    let shelf = Shelf::new();
    let found = shelf.found(&shelf.bundle("web", 0, 200_000));
    let path = shelf.beside("a.tar.zst");
    to_file(&found, &path, Replace::No).expect("exports");
    let sound = fs::read(&path).expect("reads");
    for length in [0, 3, sound.len() / 2, sound.len() - 1] {
        fs::write(&path, &sound[..length]).expect("ours");
        assert!(!verify::archive(&path).expect("opens").is_whole(), "cut to {length}");
    }
    for place in [sound.len() / 3, sound.len() - 2] {
        let mut flipped = sound.clone();
        flipped[place] ^= 1;
        fs::write(&path, flipped).expect("ours");
        assert!(!verify::archive(&path).expect("opens").is_whole(), "flipped at {place}");
    }
    fs::write(&path, "no archive at all").expect("ours");
    assert!(!verify::archive(&path).expect("opens").is_whole());
}

#[test]
fn a_file_that_shrinks_while_it_is_read_breaks_no_archive_silently() {
    let shelf = Shelf::new();
    let path = shelf.beside("short");
    fs::write(&path, "abc").expect("ours");
    let mut exact = Exact {
        file: File::open(&path).expect("opens").take(10),
        digest: Sha256::new(),
    };
    let mut all = Vec::new();
    assert_eq!(
        exact.read_to_end(&mut all).expect_err("is short").kind(),
        io::ErrorKind::UnexpectedEof
    );
}
