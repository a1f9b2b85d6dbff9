//! The header: what is judged, by which rules, from where on.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    decide::{Baseline, Engine, nobody},
    model::{
        Color, ColorSpec, GuardId, GuardSpec, Ledger, Policy, RouteSpec, RuleName, RuleSpec, ScaleUp, Seen, ServiceRoute, Side, Traffic,
    },
};

use super::{
    Fault, TRACE_VERSION,
    node::{At, Node, Table},
    policy, rules,
};

const KEYS: [&str; 14] = [
    "flipback_trace",
    "rules",
    "policy",
    "scale_up",
    "baseline",
    "guard",
    "active",
    "standby",
    "colors",
    "selector_key",
    "config_hash",
    "epoch",
    "flipback",
    "state",
];

/// Every key of a header, those of rules by kind included.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = String> {
    let scaling = ["replicas", "deadline"].map(ToOwned::to_owned);
    KEYS.into_iter().map(ToOwned::to_owned).chain(scaling).chain(rules::keys())
}

/// What the first line of a trace says.
#[derive(Clone, Debug)]
pub struct Header {
    /// The guard; one that is nobody's where the trace names none.
    pub guard: Option<GuardId>,
    /// What `t = 0` is, where the trace tells.
    pub epoch: Option<Timestamp>,
    /// flipback's version that wrote it.
    pub flipback: Option<String>,
    /// The color that serves at first.
    pub active: Color,
    /// The color that stands by at first.
    pub standby: Color,
    /// What is judged and how.
    spec: Arc<GuardSpec>,
    /// What the previous color showed in the minutes before the switch.
    baseline: BTreeMap<RuleName, Baseline>,
    /// The engine as it stood before the first look.
    state: Option<Engine>,
}

impl Header {
    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[RuleSpec] {
        &self.spec.rules
    }

    /// The knobs.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.spec.policy
    }

    /// Whether the trace begins in the middle of a judgement, as the record of a decision does.
    #[must_use]
    pub fn is_record(&self) -> bool {
        self.state.is_some()
    }

    /// The instant that is `t = 0`.
    #[must_use]
    pub fn zero(&self) -> Timestamp {
        self.epoch.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The engine that judges the trace from its first look on.
    #[must_use]
    pub fn engine(&self) -> Engine {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let mut engine = Engine::switched(Arc::clone(&self.spec), self.active.clone(), self.zero());
        for (rule, baseline) in &self.baseline {
            engine.assume(rule.clone(), *baseline);
        }
        engine
    }

    /// What is live until a look says otherwise.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            active: self.active.clone(),
            standby: self.standby.clone(),
            sides: self.spec.colors.keys().map(|color| (color.clone(), Side::default())).collect(),
            seen: Seen::default(),
            ledger: Ledger::default(),
            paused: None,
            switched_at: None,
            switched_by: None,
            owner: None,
        }
    }
}

/// Reads the header.
pub(super) fn read(node: &Node) -> Result<Header, Fault> {
    let line = At::line(node);
    let table = line.table()?;
    version(&table)?;
    table.only(&KEYS)?;
    let epoch = table.get("epoch").map(|at| date(&at)).transpose()?;
    let flipback = table.get("flipback").map(|at| at.text().map(ToOwned::to_owned)).transpose()?;
    let rules = rules::rules(&table.need("rules", "a list of rules, each with \"name\", \"kind\" and \"threshold\"")?)?;
    let (colors, active, standby) = colors(&table)?;
    let guard = table.get("guard").map(|at| guard(&at)).transpose()?;
    let spec = GuardSpec {
        route: RouteSpec::Service(ServiceRoute {
            active: guard.as_ref().map_or("", GuardId::name).to_owned(),
            preview: None,
            selector_key: table.get("selector_key").map_or(Ok("color"), |at| at.text())?.to_owned(),
        }),
        colors,
        policy: table
            .get("policy")
            .map_or_else(|| Ok(Policy::default()), |at| policy::policy(&at))?,
        scale_up: table.get("scale_up").map(|at| scale_up(&at)).transpose()?,
        config_hash: table.get("config_hash").map_or(Ok(""), |at| at.text())?.to_owned(),
        rules,
        ..GuardSpec::clone(&nobody::spec())
    };
    let id = guard.clone().unwrap_or_else(|| spec.id.clone());
    let spec = Arc::new(GuardSpec { id, ..spec });
    let baseline = table
        .get("baseline")
        .map_or_else(|| Ok(BTreeMap::new()), |at| baseline(&at, &spec))?;
    let state = table.get("state").map(|at| state(&at, &spec, flipback.as_deref())).transpose()?;
    if let (Some(_), Some(at)) = (&state, table.get("baseline")) {
        return Err(at.wrong("no baseline beside a state, which holds its own"));
    }
    Ok(Header {
        guard,
        epoch,
        flipback,
        active,
        standby,
        spec,
        baseline,
        state,
    })
}

/// Looked at first: what else a newer trace holds would only give a confusing error.
fn version(table: &Table<'_>) -> Result<(), Fault> {
    let at = table.need("flipback_trace", "the header begins with \"flipback_trace\":1")?;
    if at.count().is_ok_and(|version| version == TRACE_VERSION) {
        return Ok(());
    }
    Err(Fault::Version { found: at.node.shown() })
}

fn date(at: &At<'_>) -> Result<Timestamp, Fault> {
    let date = at.text().ok().and_then(|text| text.parse().ok());
    date.ok_or_else(|| at.wrong("a date as in RFC 3339, such as \"2026-11-21T05:00:00Z\""))
}

fn guard(at: &At<'_>) -> Result<GuardId, Fault> {
    let allowed = "\"<namespace>/<name>\" or \"<cluster>/<namespace>/<name>\"";
    let parts: Vec<&str> = at.text()?.split('/').collect();
    let made = match parts[..] {
        [namespace, name] => GuardId::new("", namespace, name),
        [cluster, namespace, name] if !cluster.is_empty() => GuardId::new(cluster, namespace, name),
        _ => return Err(at.wrong(allowed)),
    };
    made.map_err(|_| at.wrong(allowed))
}

/// A color.
pub(super) fn named(at: &At<'_>) -> Result<Color, Fault> {
    Color::new(at.text()?).map_err(|_| at.wrong(rules::NAME))
}

/// The colors, and which of them serves and stands by at first. In a trace that names none, positions are colors.
fn colors(table: &Table<'_>) -> Result<(BTreeMap<Color, ColorSpec>, Color, Color), Fault> {
    let mut colors = match table.get("colors") {
        Some(at) => at.list()?.iter().map(named).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let listed = colors.clone();
    if let (Some(at), None, None) = (table.get("colors"), table.get("active"), table.get("state")) {
        return Err(Fault::Missing {
            place: table.place("active"),
            allowed: format!("which of the {} serves from the switch on", at.place),
        });
    }
    let mut at_first = |index: usize, position: &str| {
        let color = match (table.get(position), listed.get(index)) {
            (Some(at), _) => named(&at)?,
            (None, Some(listed)) => listed.clone(),
            (None, None) => Color::new(position).expect("a position is a valid name"),
        };
        colors.push(color.clone());
        Ok::<_, Fault>(color)
    };
    let (active, standby) = (at_first(0, "active")?, at_first(1, "standby")?);
    if active == standby {
        let place = table.place("standby");
        return Err(Fault::wrong(
            &place,
            format!("{:?}", standby.as_str()),
            "another color than the active one",
        ));
    }
    let spec = |color: Color| {
        let value = color.as_str().to_owned();
        let spec = ColorSpec {
            value,
            deployment: None,
            service: None,
        };
        (color, spec)
    };
    Ok((colors.into_iter().map(spec).collect(), active, standby))
}

fn state(at: &At<'_>, spec: &Arc<GuardSpec>, by: Option<&str>) -> Result<Engine, Fault> {
    let fault = |why: String| Fault::State {
        by: by.map(ToOwned::to_owned),
        why,
    };
    let engine: Engine = serde_json::from_value(at.node.value()).map_err(|error| fault(error.to_string()))?;
    Engine::resume(Arc::clone(spec), engine).ok_or_else(|| fault("it is of other rules than the header's".to_owned()))
}

fn baseline(at: &At<'_>, spec: &GuardSpec) -> Result<BTreeMap<RuleName, Baseline>, Fault> {
    let mut found = BTreeMap::new();
    for (name, at) in at.table()?.each() {
        let rule = rules::ruled(name, &at, &spec.rules)?;
        let table = at.table()?;
        if rule.kind.scalar().is_some() {
            table.only(&["value"])?;
            let value = table
                .need("value", "the number of the color before, just before the switch")?
                .number()?;
            found.insert(rule.name.clone(), Baseline::Number(value));
            continue;
        }
        table.only(&["total", "bad"])?;
        let total = table.need("total", "all requests of the minutes before the switch")?;
        let bad = table.get("bad").map_or(Ok(0.0), |at| amount(&at))?;
        let total = amount(&total)?;
        if bad > total {
            let place = table.place("bad");
            return Err(Fault::wrong(
                &place,
                bad.to_string(),
                format!("at most the total, which is {total}"),
            ));
        }
        found.insert(rule.name.clone(), Baseline::Counted { bad, total });
    }
    Ok(found)
}

/// How a standby that is scaled down is brought up, where the guard does that.
fn scale_up(at: &At<'_>) -> Result<ScaleUp, Fault> {
    let table = at.table()?;
    table.only(&["replicas", "deadline"])?;
    let default = ScaleUp::default();
    let deadline = table.get("deadline").map(|at| policy::human(&at)).transpose()?;
    let deadline = deadline
        .as_ref()
        .and_then(Value::as_str)
        .and_then(|text| humantime::parse_duration(text).ok());
    Ok(ScaleUp {
        replicas: table.get("replicas").map_or(Ok(default.replicas), |at| at.count())?,
        deadline: deadline.unwrap_or(default.deadline),
    })
}

fn amount(at: &At<'_>) -> Result<f64, Fault> {
    let number = at.number()?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(at.wrong("a number of requests"))
    }
}

/// The header of a guard's record, its state left to be added.
pub(super) fn written(spec: &GuardSpec, active: Option<(&Color, &Color)>, epoch: Timestamp) -> Map<String, Value> {
    let RouteSpec::Service(route) = &spec.route;
    let mut header = Map::new();
    let mut put = |key: &str, value: Value| {
        header.insert(key.to_owned(), value);
    };
    put("flipback_trace", json!(TRACE_VERSION));
    put("flipback", json!(env!("CARGO_PKG_VERSION")));
    put("guard", json!(spec.id));
    put("config_hash", json!(spec.config_hash));
    put("epoch", json!(epoch));
    if let Some((active, standby)) = active {
        put("active", json!(active));
        put("standby", json!(standby));
    }
    put("colors", json!(spec.colors.keys().collect::<Vec<_>>()));
    put("selector_key", json!(route.selector_key));
    put("rules", json!(spec.rules));
    put("policy", json!(spec.policy));
    if let Some(scale_up) = &spec.scale_up {
        put("scale_up", json!(scale_up));
    }
    header
}
