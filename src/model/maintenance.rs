//! Maintenance windows: when people work on things, and nothing is flipped by itself.
//!
//! Pure: a window says whether it covers an instant and until when, and reads no clock. Weekly ones are wall clocks' times in a time
//! zone, so they move with daylight saving: in the night in which clocks are set back a window ends at the later of two equal times, in
//! the one in which they are set forward a time that does not exist is the moment of the change.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time},
    tz::{AmbiguousOffset, TimeZone},
};
use serde::{Serialize, Serializer};

use super::{Held, Hold, MaintenanceStatus};

/// Windows that follow each other without a gap count as one; beyond so many links the end is told as it is then.
const LINKS_MAX: usize = 16;

/// One window of a guard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaintenanceWindow {
    /// Its name, for people.
    pub name: String,
    /// When it is.
    pub when: MaintenanceTime,
}

/// When a window is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MaintenanceTime {
    /// Again and again, by the clocks on the wall.
    Weekly {
        /// The days on which it begins.
        days: Vec<Day>,
        /// When it begins.
        from: Time,
        /// When it ends, on the next day where this is not later than `from`.
        to: Time,
        /// Whose clocks.
        #[serde(serialize_with = "zone")]
        time_zone: TimeZone,
    },
    /// Once.
    Once {
        /// Its first instant.
        starts: Timestamp,
        /// The first instant after it.
        ends: Timestamp,
    },
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// The week.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    fn of(date: Date) -> Self {
        let offset = usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or_default();
        Self::ALL[offset.min(6)]
    }
}

fn zone<S: Serializer>(zone: &TimeZone, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(zone.iana_name().unwrap_or("UTC"))
}

impl MaintenanceWindow {
    /// The end of the window that covers this instant.
    #[must_use]
    pub fn covering(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.when {
            MaintenanceTime::Once { starts, ends } => (*starts <= now && now < *ends).then_some(*ends),
            MaintenanceTime::Weekly { days, from, to, time_zone } => {
                let today = time_zone.to_datetime(now).date();
                // One that began yesterday may last until today; two days back, where a zone skipped one.
                let begins = (0..=2).filter_map(|back| today.checked_sub(back.days()).ok());
                begins
                    .filter(|date| days.contains(&Day::of(*date)))
                    .filter_map(|date| span(date, *from, *to, time_zone))
                    .filter(|(begin, end)| *begin <= now && now < *end)
                    .map(|(_, end)| end)
                    .max()
            }
        }
    }
}

/// The window that covers this instant, and the end of it and of those that follow without a gap.
#[must_use]
pub fn covering(windows: &[MaintenanceWindow], now: Timestamp) -> Option<(&str, Timestamp)> {
    let latest = |at: Timestamp| {
        let covering = windows
            .iter()
            .filter_map(|window| Some((window.name.as_str(), window.covering(at)?)));
        covering.max_by_key(|(_, until)| *until)
    };
    let (name, mut until) = latest(now)?;
    for _ in 0..LINKS_MAX {
        match latest(until) {
            Some((_, later)) => until = later,
            None => break,
        }
    }
    Some((name, until))
}

/// What holds a guard while a window lasts.
#[must_use]
pub fn held(windows: &[MaintenanceWindow], now: Timestamp) -> Option<Held> {
    covering(windows, now).map(|(name, until)| Held {
        by: Hold::Maintenance,
        why: format!("the guard is held by maintenance {name:?} until {until}"),
    })
}

/// The window that lasts, as it is shown.
#[must_use]
pub fn status(windows: &[MaintenanceWindow], now: Timestamp) -> Option<MaintenanceStatus> {
    covering(windows, now).map(|(name, until)| MaintenanceStatus {
        name: name.to_owned(),
        until,
    })
}

/// The instants between which a window lasts that begins on `date`; `None` where clocks show no time of it.
fn span(date: Date, from: Time, to: Time, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
    let last = if to <= from { date.tomorrow().ok()? } else { date };
    let begin = instant(date, from, zone, Twice::First)?;
    let end = instant(last, to, zone, Twice::Second)?;
    (begin < end).then_some((begin, end))
}

/// Which of two equal times on the wall is meant.
#[derive(Clone, Copy)]
enum Twice {
    First,
    Second,
}

fn instant(date: Date, time: Time, zone: &TimeZone, which: Twice) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    match (ambiguous.offset(), which) {
        (AmbiguousOffset::Unambiguous { .. }, _) => ambiguous.unambiguous().ok(),
        (AmbiguousOffset::Fold { .. }, Twice::First) => ambiguous.earlier().ok(),
        (AmbiguousOffset::Fold { .. }, Twice::Second) => ambiguous.later().ok(),
        // Read by the offset after the change, the time lies before it: what follows next is the change itself.
        (AmbiguousOffset::Gap { .. }, _) => {
            let before = ambiguous.earlier().ok()?;
            let change = zone.following(before).next()?.timestamp();
            Some(change)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn weekly(days: &[Day], from: &str, to: &str, zone: &str) -> MaintenanceWindow {
        MaintenanceWindow {
            name: "patching".into(),
            when: MaintenanceTime::Weekly {
                days: days.to_vec(),
                from: from.parse().expect("a time"),
                to: to.parse().expect("a time"),
                time_zone: TimeZone::get(zone).expect("a zone of the bundled database"),
            },
        }
    }

    /// The instants, looked for minute by minute, at which a window begins and ends within a span.
    fn seen(window: &MaintenanceWindow, from: &str, to: &str) -> Vec<(Timestamp, Timestamp)> {
        let mut spans: Vec<(Timestamp, Timestamp)> = Vec::new();
        let mut now = at(from);
        let mut inside = false;
        while now < at(to) {
            let covered = window.covering(now);
            match (inside, covered) {
                (false, Some(_)) => spans.push((now, now)),
                (true, None) => {
                    if let Some(last) = spans.last_mut() {
                        last.1 = now;
                    }
                }
                _ => {}
            }
            inside = covered.is_some();
            now += 1.minute();
        }
        spans
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let window = weekly(&[Day::Sat], "22:00", "02:00", "UTC");
        // 2026-11-21 is a Saturday.
        assert_eq!(window.covering(at("2026-11-21T21:59:59Z")), None);
        assert_eq!(window.covering(at("2026-11-21T22:00:00Z")), Some(at("2026-11-22T02:00:00Z")));
        assert_eq!(window.covering(at("2026-11-22T01:59:59Z")), Some(at("2026-11-22T02:00:00Z")));
        assert_eq!(window.covering(at("2026-11-22T02:00:00Z")), None);
        assert_eq!(window.covering(at("2026-11-22T22:30:00Z")), None, "Sunday's night is another");
        assert_eq!(window.covering(at("2026-11-21T01:00:00Z")), None, "and so is Friday's");
    }

    #[test]
    fn midnight_to_midnight_is_the_whole_day() {
        let window = weekly(&[Day::Sun], "00:00", "00:00", "Europe/Berlin");
        let spans = seen(&window, "2026-11-21T00:00:00Z", "2026-11-24T00:00:00Z");
        assert_eq!(spans, [(at("2026-11-21T23:00:00Z"), at("2026-11-22T23:00:00Z"))]);
    }

    #[test]
    fn a_window_moves_with_daylight_saving() {
        let window = weekly(&Day::ALL, "20:00", "21:00", "America/New_York");
        // Clocks are set back on 2026-11-01.
        let spans = seen(&window, "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z");
        assert_eq!(
            spans,
            [
                (at("2026-11-01T00:00:00Z"), at("2026-11-01T01:00:00Z")),
                (at("2026-11-02T01:00:00Z"), at("2026-11-02T02:00:00Z")),
            ]
        );
    }

    #[test]
    fn where_a_time_comes_twice_the_window_lasts_from_the_first_to_the_second() {
        // In Berlin, 2026-10-25 has 02:00 to 03:00 twice: 00:00 to 01:00 and 01:00 to 02:00 UTC.
        let window = weekly(&Day::ALL, "02:15", "02:45", "Europe/Berlin");
        let spans = seen(&window, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        assert_eq!(spans, [(at("2026-10-25T00:15:00Z"), at("2026-10-25T01:45:00Z"))]);
    }

    #[test]
    fn a_time_that_does_not_exist_is_the_moment_of_the_change() {
        // In Berlin, 2026-03-29 has no 02:00 to 03:00: clocks jump at 01:00 UTC.
        let spans = |from, to| {
            let window = weekly(&Day::ALL, from, to, "Europe/Berlin");
            seen(&window, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z")
        };
        let jump = at("2026-03-29T01:00:00Z");
        assert_eq!(spans("02:30", "03:30"), [(jump, at("2026-03-29T01:30:00Z"))]);
        assert_eq!(spans("01:30", "02:30"), [(at("2026-03-29T00:30:00Z"), jump)]);
        assert_eq!(spans("02:10", "02:50"), [], "no clock shows any of it");
    }

    #[test]
    fn a_zone_that_skips_a_day_skips_its_windows_and_no_others() {
        // Samoa had no 2011-12-30, a Friday.
        let window = weekly(&[Day::Thu, Day::Fri, Day::Sat], "10:00", "11:00", "Pacific/Apia");
        let spans = seen(&window, "2011-12-29T00:00:00Z", "2012-01-01T12:00:00Z");
        let days: Vec<Day> = spans
            .iter()
            .map(|(begin, _)| Day::of(TimeZone::get("Pacific/Apia").expect("known").to_datetime(*begin).date()))
            .collect();
        assert_eq!(days, [Day::Thu, Day::Sat]);
    }

    #[test]
    fn a_single_window_is_over_when_it_is_over() {
        let window = MaintenanceWindow {
            name: "migration".into(),
            when: MaintenanceTime::Once {
                starts: at("2026-12-01T21:00:00Z"),
                ends: at("2026-12-01T23:00:00Z"),
            },
        };
        assert_eq!(
            seen(&window, "2026-12-01T20:00:00Z", "2026-12-09T00:00:00Z"),
            [(at("2026-12-01T21:00:00Z"), at("2026-12-01T23:00:00Z"))]
        );
    }

    #[test]
    fn windows_without_a_gap_between_them_end_together() {
        let windows = [
            weekly(&[Day::Sat], "22:00", "00:00", "UTC"),
            weekly(&[Day::Sun], "00:00", "06:00", "UTC"),
        ];
        assert_eq!(
            covering(&windows, at("2026-11-21T23:00:00Z")),
            Some(("patching", at("2026-11-22T06:00:00Z")))
        );
        assert_eq!(covering(&windows, at("2026-11-21T21:00:00Z")), None);
        assert_eq!(covering(&[], at("2026-11-21T21:00:00Z")), None);
        // Without any end the end told is a bounded look ahead, and moves on.
        let always = [weekly(&Day::ALL, "00:00", "00:00", "UTC")];
        let (_, until) = covering(&always, at("2026-11-21T21:00:00Z")).expect("covered");
        assert!(until > at("2026-12-01T00:00:00Z") && until < at("2026-12-31T00:00:00Z"), "{until}");
    }

    #[test]
    fn the_ends_of_time_are_no_panic() {
        let window = weekly(&Day::ALL, "22:00", "02:00", "Pacific/Auckland");
        for now in [Timestamp::MIN, Timestamp::MAX] {
            let _ = window.covering(now);
        }
    }
}
