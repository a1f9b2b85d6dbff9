//! What a configuration is made of on disk, as a hash: the file and the templates that it names.
//!
//! A changed configuration is noticed by comparing contents every few seconds, and not by asking the kernel to tell: an editor's rename,
//! the swapped link of a mounted `ConfigMap` and a file on a network share all end as other contents, while inotify knows nothing of the
//! third and loses sight of the other two. Reading some kilobytes costs microseconds; the kubelet itself takes up to a minute.
//!
//! Secrets are not part of it: they are read when they are needed.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

/// Bytes of one file that count; `load` refuses longer ones.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The hash of a configuration's contents; equal ones mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads the file and what it names. What cannot be read is a state too. Blocks.
    #[must_use]
    pub fn of(file: Option<&Path>) -> Self {
        let mut hash = Sha256::new();
        let mut add = |path: &Path| {
            let content = read(path);
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([u8::from(content.is_some())]);
            let content = content.unwrap_or_default();
            hash.update(content.len().to_le_bytes());
            hash.update(&content);
            content
        };
        if let Some(file) = file {
            let text = String::from_utf8(add(file)).unwrap_or_default();
            let base = file.parent().unwrap_or(Path::new(""));
            for path in templates(&text) {
                add(&base.join(path));
            }
        }
        Self(hash.finalize().into())
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut content = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The files of all `templates`, wherever they stand; none while the text is no TOML.
fn templates(text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(root) = text.parse::<Table>() {
        root.iter().for_each(|(name, value)| walk(name == "templates", value, &mut found));
    }
    found
}

fn walk(within: bool, value: &Value, found: &mut Vec<PathBuf>) {
    if let Value::Table(table) = value {
        for (name, value) in table {
            match value {
                Value::String(file) if within && name == "file" => found.push(PathBuf::from(file)),
                value => walk(within || name == "templates", value, found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_its_templates_count_and_its_secrets_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).expect("writable");
        let file = folder.path().join("flipback.toml");
        let now = || Fingerprint::of(Some(&file));
        let mut seen = vec![now()];
        write("flipback.toml", "poll = [");
        seen.push(now());
        write(
            "flipback.toml",
            "[chats.slack]\nurl_file = \"url\"\n[chats.slack.templates.recovered]\ntitle = { file = \"title\" }\n[defaults.templates]\nnext = { file = \"next\" }",
        );
        seen.push(now());
        for name in ["title", "next"] {
            write(name, "one");
            seen.push(now());
            write(name, "two");
            seen.push(now());
        }
        for (at, print) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(print), "{at}");
        }
        write("url", "https://chat.example/secret");
        assert_eq!(seen.last(), Some(&now()));
        assert_eq!(now().short().len(), 12);
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_link_is_another_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (revision, poll) in [("..1", "5s"), ("..2", "6s")] {
            std::fs::create_dir(at(revision)).expect("makes");
            std::fs::write(at(revision).join("flipback.toml"), format!("poll = \"{poll}\"")).expect("writes");
        }
        std::os::unix::fs::symlink("..1", at("..data")).expect("links");
        std::os::unix::fs::symlink("..data/flipback.toml", at("flipback.toml")).expect("links");
        let before = Fingerprint::of(Some(&at("flipback.toml")));
        std::os::unix::fs::symlink("..2", at("..data_tmp")).expect("links");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swaps");
        assert_ne!(before, Fingerprint::of(Some(&at("flipback.toml"))));
    }
}
