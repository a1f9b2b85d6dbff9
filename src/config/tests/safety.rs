//! What protects traffic from flipback itself: windows, the blast radius, what is done with standby, pods and meddlers.

use std::time::Duration;

use crate::model::{Connections, Reassert, Relief, ScaleUp, maintenance::covering, settings::BlastRadius};

use super::*;

fn at(text: &str) -> jiff::Timestamp {
    text.parse().expect("an instant")
}

#[test]
fn a_guard_says_how_its_standby_pods_and_meddlers_are_met() {
    let bare = loaded(GUARD, &[]);
    assert_eq!(bare.guards[0].scale_up, None);
    assert_eq!(bare.guards[0].connections, Connections::default());
    assert_eq!(bare.guards[0].policy.reassert, Reassert::default());
    assert_eq!(bare.blast_radius, BlastRadius::default());

    let config = loaded(
        &format!(
            "[defaults]\nstandby = \"scale_up\"\n[defaults.scale_up]\nreplicas = 4\n[defaults.connections]\naction = \"evict\"\nat_once = 3\n\
             [defaults.policy.reassert]\ntimes = 2\n[blast_radius]\nflips = 0\nshare = 0\nwindow = \"1h\"\n\
             {GUARD}[guards.scale_up]\ndeadline = \"90s\"\n[guards.connections]\naction = \"isolate\"\n\
             [guards.policy.reassert]\nmanagers = [\"my-*\"]"
        ),
        &[],
    );
    let guard = &config.guards[0];
    let scale_up = ScaleUp {
        replicas: 4,
        deadline: Duration::from_secs(90),
    };
    assert_eq!(guard.scale_up, Some(scale_up));
    assert_eq!((guard.connections.action, guard.connections.at_once), (Relief::Isolate, 3));
    assert_eq!(
        (guard.policy.reassert.times, guard.policy.reassert.managers.as_slice()),
        (2, &["my-*".to_owned()][..])
    );
    assert_eq!(
        (config.blast_radius.flips, config.blast_radius.window),
        (0, Duration::from_secs(3600))
    );
    let back = GUARD.replace("name = \"web\"", "name = \"web\"\nstandby = \"ready\"");
    let back = loaded(&format!("[defaults]\nstandby = \"scale_up\"\n{back}"), &[]);
    assert_eq!(back.guards[0].scale_up, None);
    let by_variable = loaded(
        GUARD,
        &[("FLIPBACK_BLAST_RADIUS__FLIPS", "2"), ("FLIPBACK_DEFAULTS__STANDBY", "scale_up")],
    );
    assert_eq!(by_variable.blast_radius.flips, 2);
    assert_eq!(by_variable.guards[0].scale_up, Some(ScaleUp::default()));
}

#[test]
fn windows_are_a_guards_own_and_those_that_name_it() {
    let config = loaded(
        &format!(
            "[[maintenance]]\nname = \"patching\"\nguards = [\"shop/*\"]\ndays = [\"sat\"]\nfrom = \"22:00\"\nto = \"02:00\"\n\
             time_zone = \"Europe/Berlin\"\n\
             [[maintenance]]\nname = \"elsewhere\"\nguards = [\"other/web\"]\nfrom = \"00:00\"\nto = \"24:00\"\ntime_zone = \"UTC\"\n\
             [[maintenance]]\nname = \"migration\"\nstarts = 2026-12-01T21:00:00Z\nends = \"2026-12-02T02:00[Europe/Berlin]\"\n\
             {GUARD}[[guards.maintenance]]\nname = \"import\"\nfrom = 01:00:00\nto = \"01:30\"\ntime_zone = \"UTC\"\n"
        ),
        &[],
    );
    let windows = &config.guards[0].maintenance;
    let names: Vec<&str> = windows.iter().map(|window| window.name.as_str()).collect();
    assert_eq!(names, ["import", "patching", "migration"]);
    // 2026-11-21 is a Saturday, and Berlin an hour ahead.
    for (now, held) in [
        ("2026-11-21T20:59:00Z", None),
        ("2026-11-21T21:30:00Z", Some(("patching", at("2026-11-22T01:30:00Z")))),
        ("2026-11-22T01:10:00Z", Some(("import", at("2026-11-22T01:30:00Z")))),
        ("2026-12-01T23:00:00Z", Some(("migration", at("2026-12-02T01:30:00Z")))),
    ] {
        assert_eq!(covering(windows, at(now)), held, "{now}");
    }
    assert_eq!(
        config.warnings,
        [
            "guard shop/web: the rule error_rate needs a Prometheus and none is configured, so it stays blind; set prometheus.url, or inherit_rules \
             = false and only rules of kind probe and endpoints",
            "maintenance \"elsewhere\": no guard is called \"other/web\""
        ]
    );
    let changed = loaded(GUARD, &[]);
    assert_ne!(changed.guards[0].config_hash, config.guards[0].config_hash);
}

#[test]
fn a_time_without_a_zone_needs_one_beside_it() {
    let once = |more: &str| {
        format!("{GUARD}[[guards.maintenance]]\nname = \"m\"\nstarts = \"2026-12-01T22:00\"\nends = \"2026-12-01T23:00\"\n{more}")
    };
    let config = loaded(&once("time_zone = \"Europe/Berlin\""), &[]);
    let windows = &config.guards[0].maintenance;
    assert_eq!(
        covering(windows, at("2026-12-01T21:30:00Z")),
        Some(("m", at("2026-12-01T22:00:00Z")))
    );
    insta::assert_snapshot!(refused(&once(""), &[]));
}

#[test]
fn what_is_wrong_with_a_window_is_said_with_its_place() {
    let text = format!(
        "[[maintenance]]\nfrom = \"25:00\"\nto = \"02:00\"\ndays = [\"sat\", \"Sunday\"]\ntime_zone = \"Berlin\"\n\
         [[maintenance]]\nname = \"both\"\nfrom = \"01:00\"\nstarts = \"2026-12-01T21:00:00Z\"\n\
         [[maintenance]]\nname = \"neither\"\nguard = [\"shop/web\"]\n\
         [[maintenance]]\nname = \"no zone\"\nfrom = \"01:00\"\nto = \"01:00\"\n\
         [[maintenance]]\nname = \"backwards\"\nstarts = \"2026-12-02T21:00:00Z\"\nends = \"2026-12-01T21:00:00Z\"\n\
         {GUARD}[guards.maintenance]\nname = \"one bracket\"\n"
    );
    insta::assert_snapshot!(refused(&text, &[]));
}

#[test]
fn what_is_wrong_with_the_rest_is_said_with_its_place() {
    let text = format!(
        "scale_up = 3\n[blast_radius]\nflips = -1\nshare = 10\nwindow = \"10\"\nguards = 3\n[defaults.policy.reassert]\ntimes = 99\n\
         {GUARD}[guards.scale_up]\nreplicas = 0\ndealine = \"1m\"\n[guards.connections]\naction = \"drain\"\n\
         [guards.policy.reassert]\ntimes = 1\nmanagers = []\n"
    )
    .replace("name = \"web\"", "name = \"web\"\nstandby = \"scaleup\"");
    insta::assert_snapshot!(refused(&text, &[]));
}
