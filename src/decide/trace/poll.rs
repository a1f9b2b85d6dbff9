//! A look: what was live, and what each rule measured.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::model::{
    Absence, Color, Counter, FlipRecord, Held, Hold, Ledger, Observation, Pause, Reading, Release, RuleKind, RuleName, RuleSpec, Side,
    Traffic, View,
};

use super::{
    Fault, Header,
    header::named,
    node::{At, Node, Table, meant},
    rules::ruled,
};

const KEYS: [&str; 8] = ["t", "ready", "rules", "colors", "traffic", "hold", "unreadable", "unknown_color"];

const TRAFFIC_KEYS: [&str; 7] = ["active", "standby", "sides", "ledger", "paused", "switched_at", "switched_by"];

/// The words of `unusable`; those from the ninth on tell more than the word of the eight that they stand for.
const WORDS: [&str; 11] = [
    "timeout",
    "error",
    "nan",
    "infinite",
    "negative",
    "empty",
    "stale",
    "partial",
    "impossible",
    "no_bucket",
    "ambiguous",
];

const READING_KEYS: [&str; 11] = [
    "sample_at",
    "targets",
    "value",
    "long",
    "before",
    "requests",
    "asked",
    "failed",
    "ready",
    "unusable",
    "detail",
];

/// Every key of a look, and every word of `unusable`.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = String> {
    let sides = [
        "desired",
        "release",
        "unwatched",
        "unavailable",
        "started",
        "total",
        "bad",
        "found",
        "known",
        "by",
        "why",
    ];
    KEYS.into_iter()
        .chain(TRAFFIC_KEYS)
        .chain(READING_KEYS)
        .chain(sides)
        .chain(WORDS)
        .map(ToOwned::to_owned)
}

/// Reads a look; `traffic` is what is live until a look says otherwise.
pub(super) fn read(node: &Node, header: &Header, traffic: &mut Traffic) -> Result<Observation, Fault> {
    let table = At::line(node).table()?;
    table.only(&KEYS)?;
    let epoch = header.zero();
    let at = table.need("t", "seconds from the switch")?.time(epoch)?;
    if let Some(live) = table.get("traffic") {
        *traffic = self::traffic(&live, epoch)?;
    }
    let hold = hold(&table)?;
    if let Some(view) = frozen(&table)? {
        return Ok(Observation {
            at,
            view,
            readings: BTreeMap::new(),
            hold,
        });
    }
    ready(&table, traffic)?;
    let mut readings = BTreeMap::new();
    let judged = table.need("rules", "what each rule measured, {} for nothing")?;
    let mut of_active = measured(&judged, header.rules(), epoch)?;
    count_endpoints(&mut of_active, header.rules(), &judged, traffic, at)?;
    readings.insert(traffic.active.clone(), of_active);
    if let Some(colors) = table.get("colors") {
        for (name, at) in colors.table()?.each() {
            let color = color(name, &at)?;
            if color == traffic.active {
                return Err(Fault::wrong(
                    &at.place,
                    "the active color",
                    "other colors; the active one's readings are in \"rules\"",
                ));
            }
            readings.insert(color, measured(&at, header.rules(), epoch)?);
        }
    }
    let view = View::Known(Box::new(traffic.clone()));
    Ok(Observation { at, view, readings, hold })
}

/// What held the guard.
fn hold(table: &Table<'_>) -> Result<Option<Held>, Fault> {
    let Some(at) = table.get("hold") else { return Ok(None) };
    let held = at.table()?;
    held.only(&["by", "why"])?;
    let words = || Hold::ALL.map(Hold::as_str);
    let by = held.need("by", &words().join(", "))?;
    let word = by.text()?;
    let known = Hold::ALL.into_iter().find(|hold| hold.as_str() == word);
    let known = known.ok_or_else(|| by.wrong(words().join(", ")).hint(meant(word, words().into_iter())))?;
    let why = held.need("why", "one sentence")?.text()?.to_owned();
    Ok(Some(Held { by: known, why }))
}

/// A color as a key.
fn color(name: &str, at: &At<'_>) -> Result<Color, Fault> {
    let node = Node::Text(name.to_owned());
    named(&At {
        place: at.place.clone(),
        node: &node,
    })
}

/// A look at which nobody knew what is live.
fn frozen(table: &Table<'_>) -> Result<Option<View>, Fault> {
    if let Some(at) = table.get("unreadable") {
        return Ok(Some(View::Unreadable(at.text()?.to_owned())));
    }
    let Some(at) = table.get("unknown_color") else { return Ok(None) };
    let unknown = at.table()?;
    unknown.only(&["found", "known"])?;
    let found = unknown.get("found").map(|at| at.text().map(ToOwned::to_owned)).transpose()?;
    let known = unknown.need("known", "the colors that would be understood")?.list()?;
    let known = known.iter().map(|at| at.text().map(ToOwned::to_owned)).collect::<Result<_, _>>()?;
    Ok(Some(View::UnknownColor { found, known }))
}

/// Ready endpoints of the two positions.
fn ready(table: &Table<'_>, traffic: &mut Traffic) -> Result<(), Fault> {
    let counts = table
        .need("ready", "Ready endpoints, such as {\"active\":3,\"standby\":3}")?
        .table()?;
    counts.only(&["active", "standby"])?;
    for (position, color) in [("active", traffic.active.clone()), ("standby", traffic.standby.clone())] {
        let ready = counts.need(position, "a number of Ready endpoints")?.count()?;
        match traffic.sides.get_mut(&color) {
            Some(side) => side.ready = ready,
            // A color that has no side has none that are Ready.
            None if ready == 0 => {}
            None => {
                let side = Side { ready, ..Side::default() };
                traffic.sides.insert(color, side);
            }
        }
    }
    Ok(())
}

/// A trace tells the Ready endpoints once; a rule that counts them has nothing else to tell. `null` says: not counted.
fn count_endpoints(
    readings: &mut BTreeMap<RuleName, Reading>,
    rules: &[RuleSpec],
    judged: &At<'_>,
    traffic: &Traffic,
    sample_at: Timestamp,
) -> Result<(), Fault> {
    let told = judged.table()?;
    let counting = |rule: &&RuleSpec| matches!(rule.kind, RuleKind::Endpoints(_)) && told.explicit(rule.name.as_str()).is_none();
    for rule in rules.iter().filter(counting) {
        let ready = traffic.active_side().ready;
        readings.insert(rule.name.clone(), Reading::Ready { sample_at, ready });
    }
    Ok(())
}

// === readings ===

fn measured(at: &At<'_>, rules: &[RuleSpec], epoch: Timestamp) -> Result<BTreeMap<RuleName, Reading>, Fault> {
    let mut readings = BTreeMap::new();
    for (name, at) in at.table()?.each() {
        let rule = ruled(name, &at, rules)?;
        if *at.node != Node::Null {
            readings.insert(rule.name.clone(), reading(&at, epoch)?);
        }
    }
    Ok(readings)
}

/// A reading shows by its keys what it is.
fn reading(at: &At<'_>, epoch: Timestamp) -> Result<Reading, Fault> {
    let table = at.table()?;
    if table.get("unusable").is_some() {
        return absence(&table).map(Reading::Absent);
    }
    let sample_at = |table: &Table<'_>| table.need("sample_at", "seconds from the switch").and_then(|at| at.time(epoch));
    if table.get("targets").is_some() {
        table.only(&["sample_at", "targets"])?;
        let mut targets = BTreeMap::new();
        for (name, at) in table.need("targets", "counters by target")?.table()?.each() {
            targets.insert(name.to_owned(), counter(&at, epoch)?);
        }
        let sample_at = sample_at(&table)?;
        return Ok(Reading::Counters { sample_at, targets });
    }
    if let Some(value) = table.get("value") {
        table.only(&["sample_at", "value", "long", "before", "requests"])?;
        let number = |key: &str| table.get(key).map(|at| at.number()).transpose();
        return Ok(Reading::Scalar {
            sample_at: sample_at(&table)?,
            value: value.number()?,
            long: number("long")?,
            before: number("before")?,
            requests: number("requests")?,
        });
    }
    if let Some(asked) = table.get("asked") {
        table.only(&["sample_at", "asked", "failed", "detail"])?;
        return Ok(Reading::Probes {
            sample_at: sample_at(&table)?,
            asked: asked.count()?,
            failed: table.need("failed", "how many of the asked endpoints failed")?.count()?,
            detail: table.get("detail").map(|at| at.text().map(ToOwned::to_owned)).transpose()?,
        });
    }
    if let Some(ready) = table.get("ready") {
        table.only(&["sample_at", "ready"])?;
        return Ok(Reading::Ready {
            sample_at: sample_at(&table)?,
            ready: ready.count()?,
        });
    }
    table.only(&READING_KEYS)?;
    Err(at.wrong("counters ({\"sample_at\":..,\"targets\":{..}}), a number ({\"sample_at\":..,\"value\":..}), probes (\"asked\", \"failed\"), \"ready\", or {\"unusable\":..}"))
}

fn counter(at: &At<'_>, epoch: Timestamp) -> Result<Counter, Fault> {
    let table = at.table()?;
    table.only(&["started", "sample_at", "total", "bad"])?;
    Ok(Counter {
        started: table.get("started").map(|at| at.time(epoch)).transpose()?,
        sample_at: table.get("sample_at").map(|at| at.time(epoch)).transpose()?,
        total: table.need("total", "the counter of all requests")?.number()?,
        bad: table.get("bad").map(|at| at.number()).transpose()?,
    })
}

fn absence(table: &Table<'_>) -> Result<Absence, Fault> {
    table.only(&["unusable", "detail"])?;
    let at = table.need("unusable", &WORDS.join(", "))?;
    let word = at.text()?;
    let detail = table.get("detail").map(|at| at.text().map(ToOwned::to_owned)).transpose()?;
    let detail = |otherwise: &str| detail.clone().unwrap_or_else(|| otherwise.to_owned());
    Ok(match word {
        "timeout" => Absence::Timeout,
        "error" => Absence::Error(detail("the source answered with an error")),
        "nan" => Absence::Nan,
        "infinite" => Absence::Infinite,
        "negative" => Absence::Negative,
        "empty" => Absence::Empty,
        "stale" => Absence::Stale,
        "partial" => Absence::Partial(detail("the source says so")),
        "impossible" => Absence::Impossible,
        "no_bucket" => Absence::NoBucket(detail("its neighbours are not known")),
        "ambiguous" => Absence::Ambiguous(detail("aggregate it to one")),
        _ => return Err(at.wrong(WORDS.join(", ")).hint(meant(word, WORDS.into_iter()))),
    })
}

// === traffic ===

fn traffic(at: &At<'_>, epoch: Timestamp) -> Result<Traffic, Fault> {
    let table = at.table()?;
    table.only(&TRAFFIC_KEYS)?;
    let mut sides = BTreeMap::new();
    if let Some(of) = table.get("sides") {
        for (name, at) in of.table()?.each() {
            sides.insert(color(name, &at)?, side(&at)?);
        }
    }
    Ok(Traffic {
        active: named(&table.need("active", "the color that serves")?)?,
        standby: named(&table.need("standby", "the color that stands by")?)?,
        sides,
        seen: crate::model::Seen::default(),
        ledger: table.get("ledger").map_or_else(|| Ok(Ledger::default()), |at| ledger(&at))?,
        paused: table.get("paused").map(|at| paused(&at)).transpose()?,
        switched_at: table.get("switched_at").map(|at| at.time(epoch)).transpose()?,
        switched_by: table.get("switched_by").map(|at| at.text().map(ToOwned::to_owned)).transpose()?,
        owner: None,
    })
}

fn side(at: &At<'_>) -> Result<Side, Fault> {
    let table = at.table()?;
    table.only(&["ready", "desired", "release", "unwatched", "unavailable"])?;
    Ok(Side {
        ready: table.get("ready").map_or(Ok(0), |at| at.count())?,
        desired: table.get("desired").map(|at| at.count()).transpose()?,
        release: table.get("release").map(|at| release(&at)).transpose()?,
        endpoints: Vec::new(),
        unready: Vec::new(),
        images: Vec::new(),
        unwatched: table.get("unwatched").map_or(Ok(false), |at| at.flag())?,
        unavailable: table.get("unavailable").map(|at| at.text().map(ToOwned::to_owned)).transpose()?,
    })
}

fn release(at: &At<'_>) -> Result<Release, Fault> {
    at.table()?.only(&["id", "images"])?;
    at.read()
}

fn ledger(at: &At<'_>) -> Result<Ledger, Fault> {
    // Any other key is one that a newer version wrote: it is kept there, and says nothing here.
    let table = at.table()?;
    if let Some(flips) = table.get("flips") {
        for at in flips.list()? {
            let _: FlipRecord = at.read()?;
        }
    }
    at.read()
}

fn paused(at: &At<'_>) -> Result<Pause, Fault> {
    at.table()?.only(&["by", "at", "reason", "until"])?;
    at.read()
}
