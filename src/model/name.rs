//! Names: guards, colors, rules. Checked once, when configuration is read; cheap to clone afterwards.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A guard's name, `<namespace>/<name>` or, with several clusters, `<cluster>/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuardId(Arc<str>);

/// A named side of a guard: `blue`, `green`, `canary`. Active and standby are positions, never colors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Color(Arc<str>);

/// A rule's name, unique within its guard: `error_rate`, `latency_p95`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleName(Arc<str>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no valid name: 1 to 63 lower-case letters, digits, '-', '_' or '.', starting and ending with a letter or digit")]
pub struct NameError {
    /// What was given.
    pub found: String,
}

/// Longest path segment that [`file_segment`] gives: file systems allow 255 bytes, suffixes need some.
const SEGMENT_BYTES_MAX: usize = 230;

/// Turns a text from outside, such as a pod's name, into one path segment that cannot leave its folder nor hide in it.
/// A valid name comes out as it went in; whatever had to be changed carries a short hash, so that two texts stay two files.
#[must_use]
pub fn file_segment(text: &str) -> String {
    let plain: String = text
        .chars()
        .take(SEGMENT_BYTES_MAX)
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '_'
            }
        })
        .collect();
    if plain == text && !plain.is_empty() && !plain.starts_with('.') {
        return plain;
    }
    let digest = Sha256::digest(text.as_bytes());
    let hash = digest.iter().take(4).fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"));
    format!("{}-{hash}", plain.trim_start_matches('.'))
}

/// Accepts a DNS label, with `_` and `.` besides; what Kubernetes, Prometheus labels and file names all bear.
fn checked(name: &str) -> Result<Arc<str>, NameError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let sound = name.len() <= 63 && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last());
    if sound {
        Ok(Arc::from(name))
    } else {
        Err(NameError { found: name.to_owned() })
    }
}

impl GuardId {
    /// Joins the parts; an empty `cluster` is left out.
    ///
    /// # Errors
    /// [`NameError`] names the part that is no valid name.
    pub fn new(cluster: &str, namespace: &str, name: &str) -> Result<Self, NameError> {
        let mut parts = Vec::with_capacity(3);
        if !cluster.is_empty() {
            parts.push(checked(cluster)?);
        }
        parts.push(checked(namespace)?);
        parts.push(checked(name)?);
        Ok(Self(parts.join("/").into()))
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether it begins with the name of a cluster, as it does where flipback guards several.
    #[must_use]
    pub fn names_cluster(&self) -> bool {
        self.0.matches('/').count() == 2
    }

    /// What tells it from guards of other flipbacks: its name, behind that of its cluster where it has one.
    #[must_use]
    pub fn within(&self, cluster: &str) -> String {
        if cluster.is_empty() || self.names_cluster() {
            self.0.to_string()
        } else {
            format!("{cluster}/{}", self.0)
        }
    }

    /// The name with `/` as `.`: for folders and file names.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.0.replace('/', ".")
    }
}

impl Color {
    /// Checks and wraps a color's name.
    ///
    /// # Errors
    /// [`NameError`] when it is no valid name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        checked(name).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RuleName {
    /// Checks and wraps a rule's name.
    ///
    /// # Errors
    /// [`NameError`] when it is no valid name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        checked(name).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl GuardId {
    /// Whether a pattern describes this name: `*` stands for anything but `/`.
    #[must_use]
    pub fn fits(&self, pattern: &str) -> bool {
        fits(pattern, self.as_str())
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('/').collect();
    let names: Vec<&str> = name.split('/').collect();
    parts.len() == names.len() && parts.into_iter().zip(names).all(|(part, name)| part_fits(part, name))
}

fn part_fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = name.split_once(piece) else { return false };
        name = after;
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_cluster_is_left_out_of_a_guards_name() {
        assert_eq!(GuardId::new("", "shop", "web").expect("valid").as_str(), "shop/web");
        assert_eq!(GuardId::new("eu", "shop", "web").expect("valid").as_str(), "eu/shop/web");
        assert_eq!(GuardId::new("eu", "shop", "web").expect("valid").file_name(), "eu.shop.web");
    }

    #[test]
    fn a_guard_of_an_only_cluster_is_told_from_those_of_other_flipbacks_by_its_name() {
        let (short, long) = (
            GuardId::new("", "shop", "web").expect("valid"),
            GuardId::new("eu", "shop", "web").expect("valid"),
        );
        assert!(long.names_cluster() && !short.names_cluster());
        assert_eq!(
            [short.within("eu"), long.within("eu"), short.within("")],
            ["eu/shop/web", "eu/shop/web", "shop/web"]
        );
    }

    #[test]
    fn a_name_that_would_leave_its_folder_is_refused() {
        for bad in ["", "..", "a/b", "-a", "a-", "A", "a b", &"a".repeat(64)] {
            assert!(Color::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_segment_never_leaves_its_folder_nor_hides_in_it() {
        assert_eq!(file_segment("web-7d9f-x2"), "web-7d9f-x2");
        for bad in [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "/etc/passwd",
            ".hidden",
            "a/b",
            "a\0b",
            "ü",
            &"x".repeat(5000),
        ] {
            let segment = file_segment(bad);
            assert!(
                segment.len() <= SEGMENT_BYTES_MAX + 9 && !segment.is_empty(),
                "{bad:?} -> {segment:?}"
            );
            assert!(
                !segment.starts_with('.') && !segment.contains(['/', '\0']),
                "{bad:?} -> {segment:?}"
            );
        }
        assert_ne!(file_segment("a/b"), file_segment("a?b"), "two texts stay two files");
    }

    #[test]
    fn a_star_stands_for_anything_but_a_slash() {
        for (pattern, guard, expected) in [
            ("shop/web", "shop/web", true),
            ("shop/*", "shop/web", true),
            ("*/web", "shop/web", true),
            ("*/*", "shop/web", true),
            ("s**p/w*b", "shop/web", true),
            ("shop/*-*", "shop/web-eu-1", true),
            ("shop/w*w*b", "shop/web", false),
            ("shop/*", "shop2/web", false),
            ("shop/*", "eu/shop/web", false),
            ("*", "shop/web", false),
            ("shop/web*", "shop/we", false),
            ("", "web", false),
        ] {
            assert_eq!(fits(pattern, guard), expected, "{pattern} {guard}");
        }
    }

    proptest::proptest! {
        #[test]
        fn patterns_mean_what_the_regular_expression_means(pattern in "[ab/*]{0,8}", name in "[ab/]{0,10}") {
            let regex = format!("^{}$", regex::escape(&pattern).replace("\\*", "[^/]*"));
            proptest::prop_assert_eq!(fits(&pattern, &name), regex::Regex::new(&regex).expect("valid").is_match(&name));
        }
    }
}
