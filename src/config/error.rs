//! What is wrong with a configuration: every problem with its origin, its key, what was found and what is allowed.
//!
//! Refuses to show a secret: whoever reports a problem of a secret's key says what kind of thing was found, never the thing.

use std::{cell::RefCell, fmt, path::PathBuf};

use serde::Serialize;

/// Where a value, or its lack, comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "from", content = "name")]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
    /// Nowhere: neither file nor variable nor flag gave it.
    Nowhere,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it was found.
    pub origin: Origin,
    /// The key's path: `guards[web].policy.consecutive`; empty for the file as a whole.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
    /// What to do, where more can be said than `allowed` says.
    pub hint: Option<String>,
}

/// Everything that is wrong, in the order of the configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigErrors {
    /// The problems.
    pub problems: Vec<Problem>,
}

/// Collects problems while reading goes on: a reader that stops at the first one makes its user run it ten times.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    /// Adds a problem, once: defaults are read for every guard and would be reported by each.
    pub(super) fn add(&self, problem: Problem) {
        let mut found = self.found.borrow_mut();
        if !found.contains(&problem) {
            found.push(problem);
        }
    }

    /// Hands those that `wanted` accepts to another collector.
    pub(super) fn forward(self, to: &Self, wanted: impl Fn(&Problem) -> bool) {
        self.found
            .into_inner()
            .into_iter()
            .filter(wanted)
            .for_each(|problem| to.add(problem));
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// Everything collected, or nothing.
    pub(super) fn finish(self) -> Result<(), ConfigErrors> {
        let problems = self.found.into_inner();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors { problems })
        }
    }
}

/// What is said to be found where nothing is.
const NOTHING: &str = "nothing";

impl Problem {
    /// A key that is not there.
    pub(super) fn lack(origin: Origin, key: String, allowed: impl Into<String>) -> Self {
        Self {
            origin,
            key,
            found: NOTHING.to_owned(),
            allowed: allowed.into(),
            hint: None,
        }
    }

    /// Whether it is a key that is not there.
    pub(super) fn is_lack(&self) -> bool {
        self.found == NOTHING
    }

    /// The same problem with a hint.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Nowhere => f.write_str("the configuration"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, "\n    found:   {}\n    allowed: {}", self.found, self.allowed)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint:    {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has 1 problem")?,
            many => write!(f, "the configuration has {many} problems")?,
        }
        for problem in &self.problems {
            write!(f, "\n\n  {problem}")?;
        }
        Ok(())
    }
}
