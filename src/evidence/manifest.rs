//! `MANIFEST.sha256`, as `sha256sum --check` reads it: read with suspicion, since an archive may come from anywhere.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use sha2::{Digest, Sha256};

/// More bytes than the list of any bundle has.
pub(super) const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Hexadecimal digits of a hash.
const HASH_LENGTH: usize = 64;

/// A file of ours that is no part of a bundle: it begins with a dot and lies at the top (`.pinned`, `.copied`).
pub(super) fn is_mark(name: &str) -> bool {
    name.starts_with('.') && !name.contains('/')
}

/// Whether a path stays where it is put: relative, plain parts only.
pub(super) fn is_tame(name: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.is_empty() && !name.contains(['\0', '\n', '\\']) && Path::new(name).components().all(plain)
}

/// Reads the list: hashes by file, and lines that make no sense, with their number.
pub(super) fn read(text: &str) -> (BTreeMap<String, String>, Vec<(usize, String)>) {
    let (mut files, mut wrong) = (BTreeMap::new(), Vec::new());
    for (n, line) in text.lines().enumerate() {
        let mut complain = |what: &str| wrong.push((n + 1, what.to_owned()));
        let Some((hash, name)) = line.split_once("  ") else {
            complain("no hash and file");
            continue;
        };
        if hash.len() != HASH_LENGTH || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            complain("no SHA-256 in hexadecimal");
        } else if !is_tame(name) {
            complain("the file lies outside the bundle");
        } else if files.insert(name.to_owned(), hash.to_ascii_lowercase()).is_some() {
            complain("the file is listed twice");
        }
    }
    (files, wrong)
}

/// A hash as the list spells it.
pub(super) fn hexadecimal(digest: Sha256) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    digest.finalize().iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_within_the_bundle_are_tame() {
        assert!(is_tame("logs/green/web-1/app.log") && is_tame("incident.json"));
        for wild in ["", "/etc/passwd", "../x", "a/../../b", "./a", "a\\b", "a\nb"] {
            assert!(!is_tame(wild), "{wild:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        let hash = hexadecimal(Sha256::new());
        assert_eq!(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let text = format!("{hash}  a\nrubbish\n{hash}  ../b\nabc  c\n{hash}  a\n");
        let (files, wrong) = read(&text);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(wrong.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }
}
