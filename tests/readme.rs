//! The README is true where a machine can tell: its configuration loads, and what it points to is there.

use std::path::{Path, PathBuf};

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

#[test]
fn every_file_that_is_linked_or_named_exists() {
    let link = Regex::new(r"\]\(([^)#]+)\)").expect("valid");
    let named = Regex::new(r"`((?:src|tests|config|deploy|alerts|dashboards)/[A-Za-z0-9_./-]*)`").expect("valid");
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = text(document);
        let links = link.captures_iter(&text).map(|found| found[1].to_owned());
        let names = named.captures_iter(&text).map(|found| found[1].to_owned());
        for path in links.chain(names).filter(|path| !path.starts_with("http")) {
            assert!(
                Path::new(&root()).join(&path).exists(),
                "{document} names {path}, which does not exist"
            );
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

/// Every row of the failure table links tests, and they are there.
#[test]
fn every_failure_that_is_told_is_tested() {
    let table = text("docs/failures.md");
    let link = Regex::new(r"`((?:tests|src)/[a-z_/0-9]+\.rs)::([a-z_0-9]+)`").expect("valid");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
    let told = rows.iter().filter(|row| !row.starts_with("| fault") && !row.starts_with("| ---"));
    let mut links = 0;
    for row in told {
        let linked: Vec<_> = link.captures_iter(row).collect();
        assert!(!linked.is_empty(), "no test is linked: {row}");
        for linked in linked {
            let (file, name) = (&linked[1], &linked[2]);
            assert!(text(file).contains(&format!("fn {name}")), "{file} has no test {name}");
            links += 1;
        }
    }
    assert!(links > 30, "only {links} links were found: the table's form has changed");
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
    }
}
