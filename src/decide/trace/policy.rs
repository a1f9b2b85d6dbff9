//! The knobs of a header. Their names and kinds are those of the policy's own defaults: a knob that is new there is known
//! here.

use serde_json::{Value, json};

use crate::model::Policy;

use super::{
    Fault,
    node::{At, Node},
};

/// Reads the knobs, one after the other so that an error names its own.
pub(super) fn policy(at: &At<'_>) -> Result<Policy, Fault> {
    let defaults = Policy::default();
    let Value::Object(mut knobs) = json!(defaults) else {
        return Ok(defaults);
    };
    let table = at.table()?;
    table.only(&knobs.keys().cloned().collect::<Vec<_>>())?;
    let mut policy = defaults;
    for (key, at) in table.each() {
        let default = knobs.get(key).cloned().unwrap_or_default();
        if *at.node == Node::Null {
            continue;
        }
        let value = knob(&at, &default)?;
        possible(key, &value, &at)?;
        knobs.insert(key.to_owned(), value);
        policy = serde_json::from_value(Value::Object(knobs.clone())).map_err(|error| at.wrong(expected(&error)))?;
    }
    Ok(policy)
}

/// Refuses what no guard may be configured with: judging it would tell nothing of one.
fn possible(key: &str, value: &Value, at: &At<'_>) -> Result<(), Fault> {
    let none = value.as_u64() == Some(0)
        || value
            .as_str()
            .is_some_and(|text| humantime::parse_duration(text).is_ok_and(|time| time.is_zero()));
    match key {
        "confidence" if !value.as_f64().is_some_and(|share| (0.5..1.0).contains(&share)) => {
            Err(at.wrong("a fraction from 0.5 and under 1"))
        }
        "consecutive" | "min_bad" | "min_requests" | "severe_bad" | "slow_bad" | "flips_per_day" if none => {
            Err(at.wrong("a whole number from 1"))
        }
        "poll" | "stretch" | "slow_window" | "expire" | "blind_after" | "blind_repeat" | "window" | "window_latency" if none => {
            Err(at.wrong("a duration over 0, such as \"30s\""))
        }
        _ => Ok(()),
    }
}

/// A knob is what its default is: a time, a fraction, a count or a word.
fn knob(at: &At<'_>, default: &Value) -> Result<Value, Fault> {
    match default {
        Value::String(text) if humantime::parse_duration(text).is_ok() => human(at),
        Value::Number(number) if number.is_f64() => fraction(at),
        Value::Number(_) | Value::Null => at.count().map(Value::from),
        _ => Ok(at.node.value()),
    }
}

fn fraction(at: &At<'_>) -> Result<Value, Fault> {
    let number = at.number()?;
    if (0.0..=1.0).contains(&number) {
        Ok(Value::from(number))
    } else {
        Err(at
            .wrong("a fraction from 0 to 1")
            .hint((number > 1.0 && number <= 100.0).then(|| format!("{number} % is {}", number / 100.0))))
    }
}

/// A duration as people write it; a number alone has no unit, and `5M` is five months to the parser.
pub(super) fn human(at: &At<'_>) -> Result<Value, Fault> {
    let allowed = "a duration with its unit, such as \"30s\" or \"5m\"";
    let text = match at.node {
        Node::Text(text) => text.trim(),
        Node::Number(number) => return Err(at.wrong(allowed).hint(Some(format!("did you mean \"{number}s\"?")))),
        _ => return Err(at.wrong(allowed)),
    };
    if text.parse::<f64>().is_ok() {
        return Err(at.wrong(allowed).hint(Some(format!("did you mean \"{text}s\"?"))));
    }
    let in_months = |part: &str| {
        part.strip_suffix('M')
            .is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
    };
    if text.split_whitespace().any(in_months) {
        let meant = text.replace('M', "m");
        return Err(at.wrong(allowed).hint(Some(format!("\"M\" means months; minutes are {meant:?}"))));
    }
    match humantime::parse_duration(text) {
        Ok(_) => Ok(Value::from(text)),
        Err(_) => Err(at.wrong(allowed)),
    }
}

/// What serde expected.
pub(super) fn expected(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.rsplit_once("expected ").map_or(said.as_str(), |(_, expected)| expected) {
        "f64" => "a number".to_owned(),
        "u16" | "u32" => "a whole number".to_owned(),
        other => other.to_owned(),
    }
}
