//! Copies to a folder: the road without a network. `tests/copy.rs` has the same with a real S3 server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use secrecy::SecretString;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{journal::Journal, upload::Upload, *};
use crate::{
    evidence::{
        Keeper, disk, fixture,
        made::{Shelf, append, later},
        manifest,
        stock::{self, stock},
        verify,
    },
    metrics::Metrics,
    model::{
        chain,
        settings::{EvidenceSettings, Retention, Secret},
    },
};

fn to(url: &str) -> CopySettings {
    CopySettings {
        url: url.parse().expect("a URL"),
        options: BTreeMap::new(),
    }
}

fn with(url: &str, options: &[(&str, &str)]) -> CopySettings {
    let secret = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::Value(SecretString::from(*value)));
    CopySettings {
        options: options.iter().map(secret).collect(),
        ..to(url)
    }
}

fn beside(shelf: &Shelf) -> (PathBuf, CopySettings) {
    let folder = shelf.beside("copies");
    let settings = to(&format!("file://{}", folder.display()));
    (folder, settings)
}

#[tokio::test]
async fn a_copy_is_the_bundle_and_made_once() {
    let shelf = Shelf::new();
    let (copies, settings) = beside(&shelf);
    let folder = shelf.bundle("web", 0, 11 << 20);
    stock::pin(&folder).expect("pins");
    let found = shelf.found(&folder);
    assert!(!is_copied(&folder, &place(&settings)));
    let copied = copy(&found, &settings, false).await.expect("copies");
    assert_eq!((copied.files, copied.had), (6, 0));
    let there = copies.join(&found.kept.id);
    assert_eq!(std::fs::metadata(&there).expect("there").permissions().mode() & 0o777, 0o700);
    let verified = verify::folder(&there).expect("opens");
    let modes = |problem: &&verify::Problem| !matches!(problem.fault, verify::Fault::Mode(_));
    assert_eq!(verified.problems.iter().find(modes), None);
    assert!(!there.join(".pinned").exists() && !there.join(".copied").exists());
    assert!(is_copied(&folder, &place(&settings)) && !is_copied(&folder, "s3://elsewhere"));
    let nothing = copy(&found, &settings, false).await.expect("copies");
    assert_eq!((nothing.files, nothing.had), (1, 5), "only the list");
    let all = copy(&found, &settings, true).await.expect("copies");
    assert_eq!((all.files, all.had), (6, 0), "again means again");
}

#[tokio::test]
async fn only_what_changed_is_copied_again() {
    let shelf = Shelf::new();
    let (copies, settings) = beside(&shelf);
    let folder = shelf.bundle("web", 0, 10);
    let found = shelf.found(&folder);
    copy(&found, &settings, false).await.expect("copies");
    let entry = crate::model::TimelineEntry::remark(found.kept.at, "recovered");
    disk::amend(&shelf.incidents, &found.kept.id, entry).expect("amends");
    assert!(!is_copied(&folder, &place(&settings)));
    let copied = copy(&found, &settings, false).await.expect("copies");
    assert_eq!((copied.files, copied.had), (2, 4), "incident.json and the list");
    let text = fs::read_to_string(copies.join(&found.kept.id).join("incident.json")).expect("reads");
    assert!(text.contains("recovered"));
}

#[tokio::test]
async fn a_damaged_file_keeps_the_copy_incomplete() {
    let shelf = Shelf::new();
    let (copies, settings) = beside(&shelf);
    let folder = shelf.bundle("web", 0, 10);
    append(&folder.join("decision.jsonl"), "x");
    let found = shelf.found(&folder);
    let error = copy(&found, &settings, false).await.expect_err("is damaged").to_string();
    assert!(error.contains("decision.jsonl") && error.contains("verify"), "{error}");
    let there = copies.join(&found.kept.id);
    assert!(there.join("report.html").exists(), "the rest is copied");
    assert!(!there.join(MANIFEST).exists(), "and known to be incomplete");
    assert!(!is_copied(&folder, &place(&settings)));
}

#[tokio::test]
async fn everything_whole_is_copied_newest_first_and_what_follows_when_told() {
    let shelf = Shelf::new();
    let (copies, settings) = beside(&shelf);
    for hour in 0..3 {
        shelf.bundle("web", hour, 10);
    }
    let _unfinished = shelf.begin("web", 5);
    let metrics = Metrics::new().expect("registers");
    let copier = Copier::start(shelf.incidents.clone(), settings.clone(), metrics.clone());
    let copied = |n: usize| {
        let (shelf, place) = (&shelf, place(&settings));
        async move {
            let whole = || {
                stock(&shelf.incidents, Some(&place))
                    .expect("lists")
                    .iter()
                    .filter(|one| !one.kept.awaits_copy && !one.kept.partial)
                    .count()
            };
            while whole() < n {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(Duration::from_secs(60), copied(3)).await.expect("in time");
    shelf.bundle("web", 3, 10);
    copier.nudge();
    timeout(Duration::from_secs(60), copied(4)).await.expect("in time");
    let names: BTreeSet<_> = std::fs::read_dir(&copies)
        .expect("lists")
        .map(|entry| entry.expect("ours").file_name())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    timeout(Duration::from_secs(60), async {
        while metrics.evidence_copies_pending.get() != 0 || metrics.evidence_copies.with_label_values(&["copied"]).get() != 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn a_bundle_that_changes_while_it_is_copied_is_not_called_damaged() {
    let shelf = Shelf::new();
    let (_, settings) = beside(&shelf);
    let folder = shelf.bundle("web", 0, 10);
    let found = shelf.found(&folder);
    let store = Store::open(&settings, &Options::default()).expect("opens");
    store.prepare(&found.kept.id).expect("ours");
    let listed = manifest::read(&fs::read_to_string(folder.join(MANIFEST)).expect("reads")).0;
    let entry = crate::model::TimelineEntry::remark(found.kept.at, "recovered");
    disk::amend(&shelf.incidents, &found.kept.id, entry).expect("amends");
    let upload = Upload {
        found: &found,
        store: &store,
        place: "x",
        disk: &Arc::new(Semaphore::new(1)),
        journal: Mutex::new(Journal::open(&folder, "x", false).expect("opens").expect("is free")),
    };
    let stale = upload.everything(listed.into_iter().collect(), "an older list").await;
    assert!(matches!(stale, Err(CopyError::Unsound { .. })), "what does not match is not sent");
    drop(upload);
    copy(&found, &settings, false).await.expect("what is there now is sound");
}

#[tokio::test]
async fn the_keeper_copies_what_it_keeps_and_lets_the_oldest_go() {
    let data = tempfile::tempdir().expect("a folder");
    let copies = data.path().join("copies");
    let evidence = EvidenceSettings {
        retention: Retention {
            count: 1,
            ..Retention::default()
        },
        copy: Some(to(&format!("file://{}", copies.display()))),
        ..EvidenceSettings::default()
    };
    let keeper = Keeper::open(data.path().to_owned(), evidence, Metrics::new().expect("registers"));
    let limit = Instant::now() + Duration::from_secs(60);
    let patience = || async {
        assert!(Instant::now() < limit, "not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let api = fixture::ApiDouble::new(fixture::Quirks::default());
    let mut kept = Vec::new();
    for hour in 0..3 {
        let mut incident = fixture::incident();
        incident.case.at = later(hour);
        incident.id = crate::evidence::incident_id(&incident.case.guard, incident.case.at);
        let at = incident.case.at;
        let folder = keeper.keep(incident, &fixture::spec(), api.sources()).await.expect("keeps");
        // As the conductor does after each bundle.
        keeper.tidy(at).await;
        let copied = copies.join(folder.file_name().expect("a name")).join(MANIFEST);
        while !copied.exists() || copied_to(&folder).is_none() {
            patience().await;
        }
        kept.push(folder);
    }
    assert!(
        !kept[0].exists() && !kept[1].exists() && kept[2].exists(),
        "copied ones go, the newest stays"
    );
    // What is said later is copied, too.
    let entry = crate::model::TimelineEntry::remark(later(3), "the release was fixed");
    keeper.amend(&keeper_id(&kept[2]), entry).await.expect("amends");
    keeper.rendered().await;
    let there = copies.join(kept[2].file_name().expect("a name")).join("incident.json");
    while !fs::read_to_string(&there).expect("reads").contains("the release was fixed") {
        patience().await;
    }
}

fn keeper_id(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn a_place_names_no_secret() {
    assert_eq!(place(&to("s3://bucket/prefix/")), "s3://bucket/prefix");
    assert_eq!(
        place(&to("https://me:hunter2@acc.blob.core.windows.net/box/x?sig=hunter2#y")),
        "https://me@acc.blob.core.windows.net/box/x"
    );
}

#[test]
fn what_is_wrong_with_settings_is_said_before_any_request() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let said = |settings: &CopySettings| check(settings).expect_err("is wrong").to_string();
    insta::assert_snapshot!(
        [
            said(&to("ftp://host/x")),
            said(&to("memory:///x")),
            said(&with("s3://bucket/x", &[("aws_regoin", "eu-central-1")])),
            said(&with("gs://bucket/x", &[("google_service_account_key", "hunter2hunter2")])),
            said(&with(
                "az://box/x",
                &[
                    ("azure_storage_account_name", "a"),
                    ("azure_storage_account_key", "hunter2!hunter2")
                ]
            )),
            said(&with("file:///tmp", &[("timeout", "1s")])),
        ]
        .join("\n")
    );
    let s3 = [
        ("aws_access_key_id", "a"),
        ("aws_secret_access_key", "b"),
        ("region", "eu-central-1"),
        ("timeout", "9s"),
    ];
    check(&with("s3://bucket/x", &s3)).expect("is right");
    let mut missing = to("s3://bucket/x");
    missing
        .options
        .insert("aws_access_key_id".into(), Secret::File("/nowhere/key".into()));
    insta::assert_snapshot!("secret", chain(&check(&missing).expect_err("is wrong")));
}
