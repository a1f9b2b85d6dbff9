//! The README is true where a machine can tell: its configuration loads, and what it points to is there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use flipback::config::{self, Sources};
use regex::Regex;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_configuration_in_the_readme_loads() {
    let readme = text("README.md");
    let block = Regex::new(r"(?s)```toml\n(.*?)```").expect("valid");
    let blocks: Vec<_> = block.captures_iter(&readme).collect();
    assert!(!blocks.is_empty(), "the README shows no configuration");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("slack-url"), "https://hooks.slack.invalid/services/x").expect("writes");
    for block in blocks {
        let file = folder.path().join("flipback.toml");
        std::fs::write(&file, &block[1]).expect("writes");
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        let config = config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
        let guard = config.guards.first().expect("a guard");
        let rules: Vec<_> = guard.rules.iter().map(|rule| rule.name.as_str()).collect();
        for named in ["error_rate", "latency_p95", "latency_p99", "endpoints"] {
            assert!(rules.contains(&named), "{named} is promised and not among {rules:?}");
        }
        assert_eq!(config.serve.listen.to_string(), "127.0.0.1:8080");
    }
}

/// README, map, changelog, and every page of `docs/`.
fn documents() -> Vec<String> {
    let pages = std::fs::read_dir(root().join("docs")).expect("docs/ is there").flatten();
    let pages = pages.map(|page| format!("docs/{}", page.file_name().to_string_lossy()));
    let top = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned);
    let mut all: Vec<String> = top.into_iter().chain(pages.filter(|page| page.ends_with(".md"))).collect();
    all.sort();
    assert!(all.len() > 15, "{all:?}");
    all
}

/// A page without what is in its fences, where brackets and backticks are something else.
fn prose(document: &str) -> String {
    let text = text(document);
    let parts = text.split("```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// What a heading is called in a link: in lower case, blanks as hyphens, and nothing but letters, digits and hyphens.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters
        .chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(document: &str) -> BTreeSet<String> {
    let headings = prose(document);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_file_that_is_linked_or_named_exists() {
    let link = Regex::new(r"\]\(([^)#]*)(?:#([^)]*))?\)").expect("valid");
    let named = Regex::new(r"`((?:src|tests|benches|docs|config|deploy|alerts|dashboards)/[A-Za-z0-9_./-]*)").expect("valid");
    for document in documents() {
        let text = prose(&document);
        let folder = Path::new(&document).parent().expect("a file's");
        for found in link.captures_iter(&text).filter(|found| !found[1].starts_with("http")) {
            let path = if found[1].is_empty() {
                PathBuf::from(&document)
            } else {
                folder.join(&found[1])
            };
            assert!(
                root().join(&path).exists(),
                "{document} links {}, which does not exist",
                path.display()
            );
            if let Some(place) = found.get(2) {
                let known = anchors(&path.to_string_lossy());
                let place = place.as_str();
                assert!(
                    known.contains(place),
                    "{document} links #{place} of {}, which has {known:?}",
                    path.display()
                );
            }
        }
        for path in named.captures_iter(&text).map(|found| found[1].to_owned()) {
            assert!(root().join(&path).exists(), "{document} names {path}, which does not exist");
        }
    }
}

#[test]
fn every_room_is_on_the_map() {
    let map = text("ARCHITECTURE.md");
    let lib = text("src/lib.rs");
    let room = Regex::new(r"(?m)^pub mod (\w+);").expect("valid");
    for found in room.captures_iter(&lib) {
        let name = &found[1];
        assert!(
            map.contains(&format!("`{name}/`")) || map.contains(&format!("`{name}.rs`")),
            "{name} is not in ARCHITECTURE.md"
        );
    }
}

/// Whether there is a test whose name begins so, which is neither commented out nor left out.
fn is_a_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_its_head = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").is_some_and(|rest| rest.starts_with(name))
    };
    lines.iter().enumerate().filter(|(_, line)| is_its_head(line)).any(|(n, _)| {
        let above = lines[..n].iter().rev();
        let attributes: Vec<_> = above.take_while(|line| line.starts_with('#') || line.starts_with("//")).collect();
        let is_test = |line: &&&str| line.starts_with("#[test") || line.starts_with("#[tokio::test");
        attributes.iter().any(is_test) && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

#[test]
fn what_is_no_test_is_not_taken_for_one() {
    assert!(is_a_test("#[test]\nfn a_b() {", "a_b"));
    assert!(is_a_test(
        "    #[tokio::test(flavor = \"x\")]\n    // why\n    async fn a_b_c() {",
        "a_b"
    ));
    for none in [
        "fn a_b() {",
        "// #[test]\n// fn a_b() {",
        "#[test]\n#[ignore = \"slow\"]\nfn a_b() {",
        "#[test]\nfn x() {}\nfn a_b() {",
    ] {
        assert!(!is_a_test(none, "a_b"), "{none:?}");
    }
}

/// Every row of the failure table links tests, and they are there.
#[test]
fn every_failure_that_is_told_is_tested() {
    let links = links_of("docs/failures.md", "| fault");
    assert!(links > 30, "only {links} links were found: the table's form has changed");
}

/// Whatever was broken names the test that noticed, where one did.
#[test]
fn every_mutant_names_the_test_that_caught_it() {
    let links = links_of("docs/mutants.md", "| broken");
    assert!(links > 60, "only {links} links were found: the table's form has changed");
}

/// How many tests the rows of a document's tables link; panics for a row without one, and for a test that is not there.
fn links_of(document: &str, head: &str) -> usize {
    let table = text(document);
    let link = Regex::new(r"`((?:tests|src)/[a-z_/0-9]+\.rs)::([a-z_0-9]+)`").expect("valid");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
    let told = rows.iter().filter(|row| !row.starts_with(head) && !row.starts_with("| ---"));
    let mut links = 0;
    for row in told {
        let linked: Vec<_> = link.captures_iter(row).collect();
        assert!(!linked.is_empty(), "no test is linked: {row}");
        for linked in linked {
            let (file, name) = (&linked[1], &linked[2]);
            assert!(is_a_test(&text(file), name), "{file} has no test {name}");
            links += 1;
        }
    }
    links
}

/// Who is woken by an alert finds its section.
#[test]
fn every_alert_has_a_runbook() {
    let (alerts, runbooks) = (text("alerts/flipback.rules.yaml"), text("docs/runbooks.md"));
    let alert = Regex::new(r"- alert: (\w+)").expect("valid");
    let names: Vec<_> = alert.captures_iter(&alerts).map(|found| found[1].to_owned()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(
            runbooks.contains(&format!("\n## {name}\n")),
            "docs/runbooks.md has no section for {name}"
        );
        let leads = format!("/docs/runbooks.md#{}\n", anchor(&name));
        assert!(alerts.contains(&leads), "the alert {name} does not lead to its section");
    }
    let sections = Regex::new(r"(?m)^## (Flipback\w+)$").expect("valid");
    for found in sections.captures_iter(&runbooks) {
        let name = &found[1];
        assert!(
            alerts.contains(&format!("- alert: {name}\n")),
            "docs/runbooks.md tells of {name}, which is no alert"
        );
    }
}
