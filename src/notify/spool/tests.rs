use std::{os::unix::fs::PermissionsExt, sync::Arc};

use super::*;
use crate::model::{Announcement, Topic};

fn numbered(n: u64) -> Letter {
    Letter {
        seq: n,
        sealed: false,
        replaces: Vec::new(),
        announcement: Arc::new(Announcement {
            id: format!("id-{n:04}"),
            ..Announcement::example(Topic::Blind)
        }),
    }
}

fn ids(left: &Left) -> Vec<&str> {
    left.letters.iter().map(Letter::id).collect()
}

#[test]
fn the_dead_are_kept_within_bounds_and_say_why() {
    let root = tempfile::tempdir().expect("temporary folder");
    for n in 0..DEAD_MAX as u64 + 5 {
        bury(root.path(), "slack", &[numbered(n)], "404").expect("buries");
    }
    let dead = names(&root.path().join("dead/slack")).expect("lists");
    assert_eq!(dead.len(), DEAD_MAX);
    let newest = root.path().join(format!("dead/slack/id-{:04}.json", DEAD_MAX + 4));
    assert!(fs::read_to_string(newest).expect("reads").contains("\"dropped\":\"404\""));
}

#[test]
fn half_written_and_foreign_files_stop_nothing_and_a_newer_flipback_reads_its_own_again() {
    let root = tempfile::tempdir().expect("temporary folder");
    write(root.path(), "slack", &[numbered(2)]).expect("writes");
    write(root.path(), "slack", &[numbered(1)]).expect("writes");
    let folder = root.path().join("pending/slack");
    fs::write(folder.join(".tmpAbC"), "{\"sch").expect("writes");
    fs::write(folder.join("broken.json"), "{\"sch").expect("writes");
    let newer = |schema| {
        serde_json::to_vec(&Stored {
            schema,
            dropped: None,
            content: numbered(3),
        })
        .expect("serializes")
    };
    fs::write(folder.join("newer.json"), newer(SCHEMA + 1)).expect("writes");
    // A format that has nothing in common with ours but its number.
    fs::write(folder.join("strange.json"), format!("{{\"schema\":{}}}", SCHEMA + 7)).expect("writes");
    assert_eq!(ids(&load(root.path(), "slack").expect("loads")), ["id-0001", "id-0002"]);
    let aside = root.path().join("aside/slack");
    assert!(!folder.join(".tmpAbC").exists() && names(&folder).expect("lists").len() == 2);
    assert_eq!(names(&aside).expect("lists").len(), 3);
    assert_eq!(strangers(root.path(), &["teams".into()]).expect("lists"), ["slack"]);

    // As if this flipback were the newer one.
    fs::write(aside.join("newer.json"), newer(SCHEMA)).expect("writes");
    assert_eq!(ids(&load(root.path(), "slack").expect("loads")), ["id-0001", "id-0002", "id-0003"]);
    assert_eq!(names(&aside).expect("lists").len(), 2);
}

#[test]
fn what_lies_there_of_a_chat_that_is_long_gone_goes_and_nothing_else_does() {
    let root = tempfile::tempdir().expect("temporary folder");
    for chat in ["gone", "lately", "kept"] {
        write(root.path(), chat, &[numbered(1)]).expect("writes");
        bury(root.path(), chat, &[numbered(2)], "404").expect("buries");
    }
    let aged = |folder: &str| {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let folder = fs::File::open(root.path().join(folder)).expect("opens");
        folder.set_modified(old).expect("aged");
    };
    for folder in ["pending/gone", "dead/gone", "dead/lately", "pending/kept", "dead/kept"] {
        aged(folder);
    }
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(2);
    let forget = || forget_strangers(root.path(), &["kept".to_owned()], before).expect("looks");
    assert_eq!(forget(), ["gone"]);
    for folder in ["pending/lately", "dead/lately", "pending/kept", "dead/kept"] {
        assert!(root.path().join(folder).exists(), "{folder}");
    }
    assert!(!root.path().join("pending/gone").exists() && !root.path().join("dead/gone").exists());
    assert!(forget().is_empty());
}

#[test]
fn what_is_set_aside_is_bounded() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = root.path().join("pending/slack");
    fs::create_dir_all(&folder).expect("creates");
    for n in 0..ASIDE_MAX + 5 {
        fs::write(folder.join(format!("{n:04}.json")), "no JSON").expect("writes");
    }
    load(root.path(), "slack").expect("loads");
    assert_eq!(names(&root.path().join("aside/slack")).expect("lists").len(), ASIDE_MAX);
    assert_eq!(names(&folder).expect("lists").len(), 0);
}

#[test]
fn a_hostile_chat_id_or_thread_stays_in_the_folder() {
    let root = tempfile::tempdir().expect("temporary folder");
    let mut hostile = numbered(1);
    hostile.announcement = Arc::new(Announcement {
        id: "../../../evil".into(),
        ..(*hostile.announcement).clone()
    });
    write(root.path(), "../up", &[hostile]).expect("writes");
    assert_eq!(fs::read_dir(root.path()).expect("lists").count(), 1);
    assert_eq!(load(root.path(), "../up").expect("loads").letters.len(), 1);
}

#[test]
fn nobody_else_may_read_what_is_written() {
    let root = tempfile::tempdir().expect("temporary folder");
    write(root.path(), "slack", &[numbered(1)]).expect("writes");
    bury(root.path(), "slack", &[numbered(2)], "404").expect("buries");
    let mode = |path: &str| fs::metadata(root.path().join(path)).expect("exists").permissions().mode() & 0o777;
    for folder in ["pending", "pending/slack", "dead", "dead/slack"] {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
    assert_eq!(mode("pending/slack/id-0001.json"), 0o600);
    assert_eq!(mode("dead/slack/id-0002.json"), 0o600);
}

#[test]
fn a_message_that_stands_for_others_takes_their_files_along() {
    let root = tempfile::tempdir().expect("temporary folder");
    write(root.path(), "slack", &[numbered(1)]).expect("writes");
    let later = Letter {
        replaces: vec!["id-0001".into(), "id-never-written".into()],
        ..numbered(2)
    };
    write(root.path(), "slack", std::slice::from_ref(&later)).expect("writes");
    let left = load(root.path(), "slack").expect("loads");
    assert_eq!(left.letters, [later]);
}

#[test]
fn a_file_of_before_threads_and_order_is_read() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = root.path().join("pending/slack");
    fs::create_dir_all(&folder).expect("creates");
    // As it was written before there were threads.
    let old = r#"{"schema":1,"announcement":{"id":"shop.web_1.rollback_failed.17","guard":"shop/web","at":"2026-11-21T04:12:34.567Z","topic":"rollback_failed","why":"because","namespace":"shop","object":"Service/web","from":"green","to":"blue","from_release":null,"to_release":null,"trigger":"error_rate","incident":"shop.web_1","evidence":null,"took_ms":null,"chats":[]}}"#;
    fs::write(folder.join("old.json"), old).expect("writes");
    let left = load(root.path(), "slack").expect("loads");
    assert_eq!(ids(&left), ["shop.web_1.rollback_failed.17"]);
    assert_eq!((left.letters[0].seq, left.letters[0].sealed), (0, false));
}

#[test]
fn what_was_laid_is_read_and_what_was_not_is_written_by_keeping_it() {
    let root = tempfile::tempdir().expect("temporary folder");
    lay(root.path(), &[("slack".to_owned(), numbered(1)), ("teams".to_owned(), numbered(1))]).expect("lays");
    assert_eq!(ids(&load(root.path(), "teams").expect("loads")), ["id-0001"]);
    let replacing = Letter {
        replaces: vec![numbered(1).id().to_owned()],
        ..numbered(2)
    };
    keep(root.path(), "slack", &[replacing]).expect("keeps");
    assert_eq!(ids(&load(root.path(), "slack").expect("loads")), ["id-0002"]);
    let mode = |path: &str| fs::metadata(root.path().join(path)).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode("pending/teams"), mode("pending/teams/id-0001.json")), (0o700, 0o600));
}
