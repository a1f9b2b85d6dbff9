//! The HTTP API of Prometheus, as far as flipback asks: queries by GET and form POST, readiness, build information.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::clock,
    evaluate::{self, Sample, evaluate},
    samples::{Labels, Samples},
    syntax, token,
};

/// Prometheus' own bound of points per series.
const POINTS_MAX: i64 = 11_000;

type Shared = Arc<Mutex<Samples>>;

/// The whole server.
pub(super) fn router(samples: Shared) -> Router {
    Router::new()
        .route("/-/ready", get(|| async { "Prometheus Server is Ready.\n" }))
        .route("/-/healthy", get(|| async { "Prometheus Server is Healthy.\n" }))
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/status/buildinfo", get(build))
        .with_state(samples)
}

/// A refusal in Prometheus' envelope.
struct Refusal {
    code: StatusCode,
    kind: &'static str,
    error: String,
}

fn bad_data(error: impl Into<String>) -> Refusal {
    Refusal {
        code: StatusCode::BAD_REQUEST,
        kind: "bad_data",
        error: error.into(),
    }
}

fn execution(error: String) -> Refusal {
    Refusal {
        code: StatusCode::UNPROCESSABLE_ENTITY,
        kind: "execution",
        error,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.error });
        (self.code, Json(body)).into_response()
    }
}

/// Parameters of the URL and the form, the form first, as Go's `FormValue` has it.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: Option<String>, form: &Bytes) -> Self {
        let pairs = |bytes: &[u8]| url::form_urlencoded::parse(bytes).into_owned().collect::<Vec<_>>();
        let mut all = pairs(form);
        all.extend(pairs(query.unwrap_or_default().as_bytes()));
        Self(all)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn time(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || bad_data(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"));
        if let Ok(seconds) = text.parse::<f64>() {
            return millis(seconds).map(Some).ok_or_else(wrong);
        }
        text.parse::<Timestamp>().map(|at| Some(at.as_millisecond())).map_err(|_| wrong())
    }

    fn expression(&self) -> Result<syntax::Expr, Refusal> {
        syntax::parse(self.get("query").unwrap_or_default()).map_err(|error| bad_data(error.to_string()))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "bounded to the range of a timestamp before the cast")]
fn millis(seconds: f64) -> Option<i64> {
    (seconds.is_finite() && seconds.abs() < 1e12).then(|| (seconds * 1000.0).round() as i64)
}

async fn build() -> Response {
    success(&json!({
        "version": "2.42.0",
        "revision": "flipback-sandbox",
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

async fn query(State(samples): State<Shared>, RawQuery(query): RawQuery, form: Bytes) -> Result<Response, Refusal> {
    let asked = Parameters::read(query, &form);
    let at = asked.time("time")?.unwrap_or_else(|| clock::now().as_millisecond());
    let expression = asked.expression()?;
    let found = {
        let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        evaluate(&expression, &samples, at).map_err(execution)?
    };
    Ok(success(&match found {
        evaluate::Value::Scalar(value) => json!({ "resultType": "scalar", "result": point(at, value) }),
        evaluate::Value::Vector(vector) => {
            let result: Vec<Value> = vector
                .iter()
                .map(|sample| json!({ "metric": sample.labels, "value": point(at, sample.value) }))
                .collect();
            json!({ "resultType": "vector", "result": result })
        }
        evaluate::Value::Matrix(series) => matrix(series),
    }))
}

async fn query_range(State(samples): State<Shared>, RawQuery(query): RawQuery, form: Bytes) -> Result<Response, Refusal> {
    let asked = Parameters::read(query, &form);
    let needed = |name: &str| {
        asked
            .time(name)?
            .ok_or_else(|| bad_data(format!("invalid parameter {name:?}: cannot parse \"\" to a valid timestamp")))
    };
    let (start, end) = (needed("start")?, needed("end")?);
    let step = asked.get("step").unwrap_or_default();
    let step = step.parse::<f64>().ok().and_then(millis).or_else(|| token::duration(step));
    let step = step
        .filter(|step| *step > 0)
        .ok_or_else(|| bad_data("zero or negative query resolution step widths are not accepted. Try a positive integer"))?;
    if end < start {
        return Err(bad_data("invalid parameter \"end\": end timestamp must not be before start time"));
    }
    if (end - start) / step > POINTS_MAX {
        return Err(bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let expression = asked.expression()?;
    let mut series: std::collections::BTreeMap<Labels, Vec<(i64, f64)>> = std::collections::BTreeMap::new();
    let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
    let mut at = start;
    while at <= end {
        let vector = match evaluate(&expression, &samples, at).map_err(execution)? {
            evaluate::Value::Vector(vector) => vector,
            evaluate::Value::Scalar(value) => vec![Sample {
                labels: Labels::new(),
                at,
                value,
            }],
            evaluate::Value::Matrix(_) => {
                return Err(bad_data(
                    "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
                ));
            }
        };
        for sample in vector {
            series.entry(sample.labels).or_default().push((at, sample.value));
        }
        at += step;
    }
    Ok(success(&matrix(series.into_iter().collect())))
}

fn matrix(series: Vec<(Labels, Vec<(i64, f64)>)>) -> Value {
    let result: Vec<Value> = series
        .into_iter()
        .map(|(labels, points)| {
            let values: Vec<Value> = points.into_iter().map(|(at, value)| point(at, value)).collect();
            json!({ "metric": labels, "values": values })
        })
        .collect();
    json!({ "resultType": "matrix", "result": result })
}

fn success(data: &Value) -> Response {
    Json(json!({ "status": "success", "data": data })).into_response()
}

fn point(at: i64, value: f64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let seconds = at as f64 / 1000.0;
    json!([seconds, number(value)])
}

/// A number as Prometheus writes it: plain between 1e-6 and 1e21, else with a two-digit exponent.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size > 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (114.0, "114"),
            (5e-7, "5e-07"),
            (1e21, "1e+21"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
