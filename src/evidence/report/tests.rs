use std::{fs, path::Path};

use serde_json::Value;

use super::*;

#[path = "../../../tests/report/bundle.rs"]
mod bundle;

use bundle::{HOSTILE, KINDS, Kind};

fn made(kind: Kind) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    bundle::write(folder.path(), kind);
    write(folder.path()).expect("a report");
    folder
}

fn text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_ticket_and_the_timeline_of_every_kind_of_incident_read_well() {
    for kind in KINDS {
        let folder = made(kind);
        let name = format!("{kind:?}").to_lowercase();
        insta::assert_snapshot!(format!("{name}_ticket"), text(folder.path(), MARKDOWN));
        let timeline: Value = serde_json::from_str(&text(folder.path(), TIMELINE)).expect("JSON");
        insta::assert_json_snapshot!(format!("{name}_timeline"), timeline);
    }
}

#[test]
fn every_kind_of_page_is_one_harmless_file_that_names_what_matters() {
    let loads =
        regex::Regex::new(r#"<[^>]*\b(src|srcset|data|xlink:href)=|url\(|@import|http-equiv="refresh|<(link|iframe|object|embed|base)"#)
            .expect("a pattern");
    for kind in KINDS {
        let folder = made(kind);
        let page = text(folder.path(), HTML);
        for hostile in ["<script", "<img", "onerror=\"", "</style><", "{{ page", "\u{1b}", "\u{202e}"] {
            assert!(!page.contains(hostile), "{kind:?}: {hostile} in the page");
        }
        assert_eq!(page.matches("</style>").count(), 1, "{kind:?}");
        let found = loads.find(&page).map(|found| found.as_str().to_owned());
        assert_eq!(found, None, "{kind:?}: something is loaded");
        assert!(page.contains("default-src &#x27;none&#x27;") || page.contains("default-src 'none'"));
        for word in [
            "total_cents",
            "only green",
            "OOMKilled",
            "web-config-v2",
            "NEW_CHECKOUT",
            "CrashLoopBackOff",
            "c0ffee12",
        ] {
            assert!(page.contains(word), "{kind:?}: {word} is missing");
        }
        assert!(page.contains("&lt;script&gt;"), "{kind:?}: what was hostile is shown");
        assert!(page.len() < 400_000, "{kind:?}: {} bytes", page.len());
    }
}

#[test]
fn a_line_that_matters_leads_to_the_log_that_it_stands_in() {
    let folder = made(Kind::RolledBack);
    let page = text(folder.path(), HTML);
    let after = page.split("id=\"logs\"").nth(1).expect("a part about logs");
    // Templates escape the slash too.
    let groups = after.split("All logs").next().unwrap_or_default().replace("&#x2f;", "/");
    let links: Vec<&str> = groups.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() >= groups.matches("<article").count() && !links.is_empty(), "{groups}");
    for link in links {
        assert!(link.starts_with("./logs/") && folder.path().join(link).is_file(), "{link}");
    }
}

#[test]
fn the_picture_is_a_png_of_the_rule_that_decided() {
    let folder = made(Kind::RolledBack);
    let picture = fs::read(folder.path().join(PICTURE)).expect("a picture");
    assert_eq!(picture.get(..8), Some(b"\x89PNG\r\n\x1a\n".as_slice()));
    assert!(picture.len() < 300_000, "{} bytes", picture.len());
}

#[test]
fn a_report_is_only_for_its_owner_and_leaves_nothing_half_behind() {
    let folder = made(Kind::RolledBack);
    for name in [HTML, MARKDOWN, PICTURE, TIMELINE] {
        let mode = fs::metadata(folder.path().join(name)).expect("written").permissions().mode() & 0o777;
        assert_eq!(mode, disk::FILE_MODE, "{name}");
    }
    let names = fs::read_dir(folder.path())
        .expect("reads")
        .map(|entry| entry.expect("reads").file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".part-")));
}

#[test]
fn a_report_made_again_is_the_same_to_the_byte() {
    let folder = made(Kind::FollowedUp);
    let before = [HTML, MARKDOWN, TIMELINE].map(|name| text(folder.path(), name));
    write(folder.path()).expect("a report");
    assert_eq!(before, [HTML, MARKDOWN, TIMELINE].map(|name| text(folder.path(), name)));
}

#[test]
fn the_case_alone_makes_a_report_that_says_what_it_lacks() {
    let full = tempfile::tempdir().expect("temporary folder");
    bundle::write(full.path(), Kind::RolledBack);
    let bare = tempfile::tempdir().expect("temporary folder");
    fs::copy(full.path().join("incident.json"), bare.path().join("incident.json")).expect("copies");
    write(bare.path()).expect("a report");
    let page = text(bare.path(), HTML);
    for word in [
        "Nothing was measured",
        "Not captured",
        "No log was captured",
        "what green runs is not in this bundle",
        "cannot be replayed",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert!(!bare.path().join(PICTURE).exists());
}

#[test]
fn broken_files_are_named_and_the_rest_is_told() {
    let folder = tempfile::tempdir().expect("temporary folder");
    bundle::write(folder.path(), Kind::RolledBack);
    let broken = [
        "decision.jsonl",
        "events.json",
        "metrics/error_rate.green.json",
        "manifests/pods.green.json",
        "manifests/deployment.web-green.json",
        "manifests/replicasets.blue.json",
    ];
    for name in broken {
        fs::write(folder.path().join(name), b"\xff{\"items\": [\0").expect("writes");
    }
    fs::remove_dir_all(folder.path().join("logs/blue")).expect("removes");
    fs::write(folder.path().join("logs/blue"), "a file where a folder was").expect("writes");
    write(folder.path()).expect("a report");
    let page = text(folder.path(), HTML).replace("&#x2f;", "/");
    for name in broken {
        assert!(page.contains(&format!("{name}: ")), "{name} is not named");
    }
    assert!(page.contains("logs/blue: "), "a folder that is none");
    assert!(page.contains("total_cents"), "the rest is told");
}

#[test]
fn without_a_case_there_is_no_report() {
    let folder = tempfile::tempdir().expect("temporary folder");
    assert!(matches!(write(folder.path()), Err(EvidenceError::Disk { .. })));
    fs::write(folder.path().join("incident.json"), "{}").expect("writes");
    assert!(write(folder.path()).is_err());
}

#[test]
fn a_ticket_fits_a_comment_whatever_is_in_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    bundle::write(folder.path(), Kind::RolledBack);
    let mut incident: Value = serde_json::from_str(&text(folder.path(), "incident.json")).expect("JSON");
    let long = HOSTILE.repeat(20);
    incident["capture_errors"] = (0..500).map(|n| format!("{n} {long}")).collect();
    incident["timeline"] = (0..400)
        .map(|_| serde_json::json!({"at": "2026-11-21T04:12:34Z", "what": long}))
        .collect();
    incident["case"]["why"] = long.into();
    fs::write(folder.path().join("incident.json"), incident.to_string()).expect("writes");
    write(folder.path()).expect("a report");
    let ticket = text(folder.path(), MARKDOWN);
    assert!(ticket.len() < 60_000, "{} bytes", ticket.len());
    assert!(text(folder.path(), HTML).len() < 4_000_000);
}

#[test]
fn colors_are_named_by_what_became_of_them() {
    let roles = |kind: Kind, change: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().expect("temporary folder");
        bundle::write(folder.path(), kind);
        let mut incident: Value = serde_json::from_str(&text(folder.path(), "incident.json")).expect("JSON");
        change(&mut incident);
        fs::write(folder.path().join("incident.json"), incident.to_string()).expect("writes");
        write(folder.path()).expect("a report");
        let ticket = text(folder.path(), MARKDOWN);
        let heads = ticket.lines().filter_map(|line| line.strip_prefix("### Pods of "));
        heads.map(str::to_owned).collect::<Vec<_>>().join(" | ")
    };
    let moment = |moment: &'static str| {
        move |incident: &mut Value| {
            let line = serde_json::json!({"at": "2026-11-21T04:20:00Z", "moment": moment, "what": "so"});
            incident["timeline"].as_array_mut().expect("a list").push(line);
        }
    };
    let told = [
        ("rolled back", roles(Kind::RolledBack, &|_| {})),
        ("moved back", roles(Kind::RolledBack, &moment("flipped_back"))),
        ("did not help", roles(Kind::DidNotHelp, &|_| {})),
        ("not arrived", roles(Kind::NotArrived, &|_| {})),
        ("by hand", roles(Kind::Manual, &|_| {})),
        ("blocked", roles(Kind::Blocked, &|_| {})),
    ];
    insta::assert_snapshot!(told.map(|(name, told)| format!("{name}: {told}")).join("\n"));
}

/// One number, defined once: what the flip itself measured, which messages tell as well.
#[test]
fn the_patch_took_what_messages_say_it_took() {
    let folder = tempfile::tempdir().expect("temporary folder");
    bundle::write(folder.path(), Kind::RolledBack);
    let mut incident: Value = serde_json::from_str(&text(folder.path(), "incident.json")).expect("JSON");
    incident["outcome"]["took_ms"] = serde_json::json!(5.5);
    incident["outcome"]["at"] = serde_json::json!("2026-11-21T04:12:34.582Z");
    fs::write(folder.path().join("incident.json"), incident.to_string()).expect("writes");
    write(folder.path()).expect("a report");
    let page = text(folder.path(), HTML);
    assert!(page.contains("<dd>5.5 ms</dd><dt>from the decision to the accepted patch</dt>"));
    let timeline: Value = serde_json::from_str(&text(folder.path(), TIMELINE)).expect("JSON");
    assert_eq!(timeline["durations"]["patch_seconds"], serde_json::json!(0.0055));
}
