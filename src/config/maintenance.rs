//! Maintenance windows: `[[maintenance]]` for guards by pattern, `[[guards.maintenance]]` for one.
//!
//! Refuses to guess: a weekly window without a time zone, whose hours would be somebody else's, and one that ends when it begins.

use jiff::{
    Timestamp, Zoned,
    civil::{DateTime, Time},
    tz::TimeZone,
};

use crate::model::{Day, GuardId, MaintenanceTime, MaintenanceWindow};

use super::{
    error::Problem,
    raw::{Table, nearest},
};

const ZONES: &str = "a time zone's name in the IANA database, such as \"Europe/Berlin\" or \"UTC\"";
const TIMES: &str = "a time on the clock from \"00:00\" to \"24:00\", such as \"22:30\"";
const INSTANTS: &str = "an instant with its zone or offset, such as \"2026-12-01T22:00[Europe/Berlin]\" or \"2026-12-01T21:00:00Z\"";
const KINDS: &str = "either days, from, to and time_zone (again and again), or starts and ends (once)";

/// A window for all guards that a pattern fits.
pub(super) struct Shared {
    /// Patterns of guards' names; empty: all of them.
    guards: Vec<String>,
    window: MaintenanceWindow,
}

/// Reads `[[maintenance]]`.
pub(super) fn shared(root: &Table<'_>) -> Vec<Shared> {
    let read = |table: Table<'_>| {
        let guards = table.texts("guards").unwrap_or_default();
        let window = window(table)?;
        Some(Shared { guards, window })
    };
    root.tables("maintenance").into_iter().filter_map(read).collect()
}

/// The windows of a guard: its own, and those of all guards that name it.
pub(super) fn windows(guard: &Table<'_>, id: Option<&GuardId>, shared: &[Shared]) -> Vec<MaintenanceWindow> {
    let own = guard.tables("maintenance").into_iter().filter_map(window);
    let fits = |shared: &&Shared| {
        let named = |pattern: &String| id.is_some_and(|id| id.fits(pattern));
        shared.guards.is_empty() || shared.guards.iter().any(named)
    };
    own.chain(shared.iter().filter(fits).map(|shared| shared.window.clone())).collect()
}

/// Patterns that fit no guard: a window that protects nothing, and nobody notices.
pub(super) fn without_a_guard<'g>(shared: &[Shared], guards: impl Iterator<Item = &'g GuardId> + Clone) -> Vec<String> {
    let missed = |shared: &Shared| {
        let none = |pattern: &&String| !guards.clone().any(|id| id.fits(pattern));
        let said = |pattern: &String| format!("maintenance {:?}: no guard is called {pattern:?}", shared.window.name);
        shared.guards.iter().filter(none).map(said).collect::<Vec<_>>()
    };
    shared.iter().flat_map(missed).collect()
}

fn window(table: Table<'_>) -> Option<MaintenanceWindow> {
    let name = table.text("name");
    if table.get("name").is_none() {
        table
            .problems
            .add(table.missing("name", "a name that is shown while it lasts, such as \"weekly patching\""));
    }
    let given = |names: &[&str]| names.iter().any(|name| table.get(name).is_some());
    let when = match (given(&["days", "from", "to"]), given(&["starts", "ends"])) {
        (true, false) => weekly(&table),
        (false, true) => once(&table),
        (true, true) => {
            table.problems.add(table.problem("starts", KINDS));
            None
        }
        (false, false) => {
            table.problems.add(table.missing("from", KINDS));
            None
        }
    };
    // Known in both kinds: `starts` and `ends` may be read by it.
    table.get("time_zone");
    table.close();
    Some(MaintenanceWindow { name: name?, when: when? })
}

fn weekly(table: &Table<'_>) -> Option<MaintenanceTime> {
    let time_zone = time_zone(table);
    for (name, allowed) in [("from", TIMES), ("to", TIMES), ("time_zone", ZONES)] {
        if table.get(name).is_none() {
            table.problems.add(table.missing(name, allowed));
        }
    }
    let days = days(table);
    let (from, to) = (time(table, "from"), time(table, "to"));
    let (from, (to, whole)) = (from?.0, to?);
    if from == to && !whole {
        let hint = "a whole day is from = \"00:00\", to = \"24:00\"";
        table.problems.add(table.problem("to", "another time than from").hint(hint));
        return None;
    }
    Some(MaintenanceTime::Weekly {
        days: days?,
        from,
        to,
        time_zone: time_zone?,
    })
}

fn once(table: &Table<'_>) -> Option<MaintenanceTime> {
    let zone = if table.get("time_zone").is_some() {
        Some(time_zone(table)?)
    } else {
        None
    };
    for name in ["starts", "ends"] {
        if table.get(name).is_none() {
            table.problems.add(table.missing(name, INSTANTS));
        }
    }
    let (starts, ends) = (instant(table, "starts", zone.as_ref()), instant(table, "ends", zone.as_ref()));
    let (starts, ends) = (starts?, ends?);
    if ends <= starts {
        table.problems.add(table.problem("ends", "an instant after starts"));
        return None;
    }
    Some(MaintenanceTime::Once { starts, ends })
}

/// The days; without the key, every day.
fn days(table: &Table<'_>) -> Option<Vec<Day>> {
    let Some(words) = table.get("days").and_then(|_| table.texts("days")) else {
        return table.get("days").is_none().then(|| Day::ALL.to_vec());
    };
    let known = Day::ALL.map(Day::as_str);
    let allowed = known.join(", ");
    if words.is_empty() {
        table.problems.add(table.problem("days", format!("at least one of {allowed}")));
        return None;
    }
    let mut days = Vec::with_capacity(words.len());
    for word in &words {
        match Day::ALL.into_iter().find(|day| day.as_str() == word) {
            Some(day) => days.push(day),
            None => {
                let short: String = word.to_lowercase().chars().take(3).collect();
                let near = nearest(&short, known.into_iter()).map(|near| format!("did you mean {near:?}?"));
                let problem = table.problem("days", allowed.clone());
                table.problems.add(Problem {
                    found: format!("{word:?}"),
                    hint: near,
                    ..problem
                });
            }
        }
    }
    (days.len() == words.len()).then_some(days)
}

/// A time on the clock, and whether it was written as the end of the day.
fn time(table: &Table<'_>, name: &str) -> Option<(Time, bool)> {
    let text = table.text(name)?;
    let read = match text.trim() {
        "24:00" if name == "to" => Some((Time::midnight(), true)),
        text => text.parse().ok().map(|time| (time, false)),
    };
    if read.is_none() {
        table.problems.add(table.problem(name, TIMES));
    }
    read
}

fn time_zone(table: &Table<'_>) -> Option<TimeZone> {
    let text = table.text("time_zone")?;
    let zone = TimeZone::get(text.trim()).ok();
    if zone.is_none() {
        table.problems.add(table.problem("time_zone", ZONES));
    }
    zone
}

fn instant(table: &Table<'_>, name: &str, zone: Option<&TimeZone>) -> Option<Timestamp> {
    let text = table.text(name)?;
    let text = text.trim();
    let local = || {
        let time: DateTime = text.parse().ok()?;
        zone?.to_timestamp(time).ok()
    };
    let read = text
        .parse::<Zoned>()
        .map(|zoned| zoned.timestamp())
        .or_else(|_| text.parse::<Timestamp>())
        .ok()
        .or_else(local);
    if read.is_none() {
        let hint = "without a zone in it, a time_zone says whose clocks are meant";
        table.problems.add(table.problem(name, INSTANTS).hint(hint));
    }
    read
}
