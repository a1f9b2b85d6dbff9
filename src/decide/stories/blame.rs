//! Whose fault it is.

use super::{story, world::World};

#[test]
fn what_was_bad_before_the_switch_is_not_the_releases_fault() {
    story(
        "t=0
         t=5..10  500/40        -> breach
         t=15..50 500/40 pause  -> blocked 
         t=55     500/40 switch resume -> note switched
         t=60..65 500/60        -> breach
         t=70     500/60        -> suppressed, phase suppressed, why: already over the threshold before the switch",
    );
}

#[test]
fn what_was_bad_before_the_switch_is_no_excuse_once_the_watch_has_ended() {
    story(
        "t=0
         t=5..10  500/40        -> breach
         t=15..50 500/40 pause  -> blocked
         t=55     500/40 switch resume -> note switched
         t=60..1860 500/0       -> pass
         t=1865..2110 500/60
         t=2115   500/60        -> rollback",
    );
}

#[test]
fn what_was_good_before_the_switch_is() {
    story(
        "t=0
         t=5..50  500/10        -> pass
         t=55     500/10 switch -> note switched
         t=60..65 500/60        -> breach
         t=70     500/60        -> rollback",
    );
}

#[test]
fn what_was_bad_long_before_the_switch_does_not_excuse() {
    story(
        "t=0
         t=5       500/250        -> breach
         t=10..340 500/0          -> pass
         t=345     500/0 switch   -> note switched
         t=350..355 500/60        -> breach
         t=360     500/60         -> rollback",
    );
}

#[test]
fn what_a_color_showed_before_it_served_does_not_excuse_a_release_that_is_seen_after_the_switch() {
    story(
        "t=0
         t=5..30  500/0 standby:200/90  -> pass
         t=35     500/0 switch          -> note switched
         t=40     500/0 release=v9      -> note switched
         t=45     500/0
         t=50..55 500/60                -> breach
         t=60     500/60                -> rollback",
    );
}

#[test]
fn what_was_bad_before_the_switch_excuses_a_release_that_is_seen_after_it() {
    story(
        "t=0
         t=5..10  500/40        -> breach
         t=15..50 500/40 pause  -> blocked
         t=55     500/40 switch resume -> note switched
         t=60     500/0  release=v9    -> note switched
         t=65..70 500/60
         t=75     500/60        -> suppressed, why: already over the threshold before the switch",
    );
}

#[test]
fn a_blip_that_is_all_that_was_measured_before_the_switch_does_not_excuse() {
    story(
        "t=0
         t=5..10   500/0
         t=15..20  500/150
         t=25      500/0  switch -> note switched
         t=30..35  500/60 -> breach
         t=40      500/60 -> rollback",
    );
}

#[test]
fn a_blip_is_no_excuse_where_nothing_else_was_measured() {
    story(
        "t=0
         t=5       500/150
         t=10      500/0  switch -> note switched
         t=15..20  500/60 -> breach
         t=25      500/60 -> rollback",
    );
}

#[test]
fn what_was_bad_before_a_release_in_place_is_not_that_releases_fault() {
    story(
        "t=0
         t=5..300   500/0        -> pass
         t=305..310 500/40       -> breach
         t=315..600 500/40 pause -> blocked
         t=605      500/40 release=v9 resume -> note switched
         t=610..615 500/60
         t=620      500/60       -> suppressed, why: already over the threshold before the switch",
    );
}

#[test]
fn a_standby_that_is_just_as_bad_now_means_the_fleet_is_ill() {
    story(
        "t=0
         t=5..10  500/60 standby:200/30 -> breach
         t=15     500/60 standby:200/30 -> suppressed, why: the standby color is just as bad now",
    );
}

#[test]
fn a_standby_that_was_bad_and_is_not_does_not_hold_traffic() {
    story(
        "t=0
         t=5..30  500/0  standby:200/90 -> pass
         t=35..40 500/60 standby:200/0  -> breach
         t=45     500/60 standby:200/0  -> rollback",
    );
}

#[test]
fn an_outage_of_both_that_is_over_on_the_standby_excuses_for_half_a_minute_more() {
    story(
        "t=0
         t=5       500/400 standby:200/160 -> breach
         t=10..70  500/400 standby:200/160 -> suppressed, why: the standby color is just as bad now
         t=75..95  500/150 standby:200/0   -> suppressed
         t=100     500/150 standby:200/0   -> rollback",
    );
}

#[test]
fn an_outage_that_is_over_on_the_standby_first_and_then_on_the_active_color_moves_nothing() {
    story(
        "t=0
         t=5        500/400 standby:200/160 -> breach
         t=10..180  500/400 standby:200/160 -> suppressed, why: the standby color is just as bad now
         t=185..205 500/400 standby:200/0   -> suppressed
         t=210..315 500/0   standby:200/0   -> suppressed
         t=320..600 500/0   standby:200/0",
    );
}

#[test]
fn a_standby_that_shows_nothing_is_not_better_for_it() {
    story(
        "t=0
         t=5       500/400 standby:200/160 -> breach
         t=10..70  500/400 standby:200/160 -> suppressed, why: the standby color is just as bad now
         t=75..150 500/400                 -> suppressed",
    );
}

#[test]
fn a_few_good_requests_do_not_show_that_the_standby_is_well() {
    story(
        "t=0
         t=5       500/400 standby:200/160 -> breach
         t=10..70  500/400 standby:200/160 -> suppressed, why: the standby color is just as bad now
         t=75..130 500/60                  -> suppressed
         t=135     500/60 standby:8/0      -> suppressed
         t=140     500/60 standby:200/0    -> rollback",
    );
}

#[test]
fn a_fault_of_both_that_comes_and_goes_stays_one_of_both() {
    let bursts = |from: u32, to: u32, says: &str| (from..to).map(|n| burst(30 * n, says)).collect::<String>();
    let (first, next) = (bursts(1, 5, ""), bursts(5, 24, "suppressed"));
    story(&format!("t=0\n{first}{next}t=720 500/200 standby:200/160 -> suppressed"));
    // Until the next burst of which it has no part.
    story(&format!(
        "t=0
         {first}t=150 500/200 standby:200/160 -> suppressed
         t=155..175 500/0   standby:200/0 -> suppressed
         t=180      500/200 standby:200/0 -> rollback"
    ));
}

/// Half a minute of which five seconds are bad, on both.
fn burst(t: u32, says: &str) -> String {
    let (next, last) = (t + 5, t + 25);
    format!("t={t} 500/200 standby:200/160 -> {says}\nt={next}..{last} 500/0 standby:200/0 -> {says}\n")
}

#[test]
fn a_total_outage_is_left_for_a_color_that_is_a_little_over_its_threshold() {
    story(
        "t=0
         t=5   500/500 standby:500/60 -> breach
         t=10  500/500 standby:500/60 -> rollback, path severe",
    );
}

#[test]
fn where_nothing_is_known_of_the_standby_the_rest_of_the_fleet_tells() {
    // Blue stands by without traffic; red serves another share of the users, behind the same database.
    World::default().and_red().play(
        "t=0
         t=5..10  500/60 red:200/30 -> breach
         t=15     500/60 red:200/30 -> suppressed, why: every other color is just as bad now",
    );
    World::default().and_red().play(
        "t=0
         t=5..10  500/60 red:200/2 -> breach
         t=15     500/60 red:200/2 -> rollback",
    );
    // What is known of the standby itself goes before what is known of others.
    World::default().and_red().play(
        "t=0
         t=5..10  500/60 red:200/30 standby:200/2 -> breach
         t=15     500/60 red:200/30 standby:200/2 -> rollback",
    );
}
