//! The envelope of the API's answers. Pure.
//!
//! The client crate drops `warnings`, which say that an answer is incomplete, so it is decoded here. A series without a number (a native
//! histogram) is kept as one without a value.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// The body of every answer of the API.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    /// `success` or `error`.
    pub status: String,
    #[serde(default)]
    data: Option<Data>,
    /// A word on the kind of error.
    #[serde(default, rename = "errorType")]
    pub error_type: Option<String>,
    /// A sentence on the error.
    #[serde(default)]
    pub error: Option<String>,
    /// Set when the answer is incomplete, or the expression doubtful.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(default, rename = "resultType")]
    kind: String,
    #[serde(default)]
    result: Vec<Element>,
}

/// One element of a result: a series, or half of a scalar's pair of time and value.
#[derive(Debug)]
enum Element {
    Series(Box<Sample>),
    Number(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Element {
    // By hand: `untagged` would copy every sample of a large answer first.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyElement;

        #[expect(clippy::cast_precision_loss, reason = "times in whole seconds are far below 2^53")]
        impl<'de> Visitor<'de> for AnyElement {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a series, a time or a value")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
                Sample::deserialize(MapAccessDeserializer::new(map)).map(|sample| Element::Series(Box::new(sample)))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Element, E> {
                Ok(Element::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Element, E> {
                Ok(Element::Number(number as f64))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Element, E> {
                Ok(Element::Number(number as f64))
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(AnyElement)
    }
}

impl Data {
    /// The series; of a scalar the one without labels that it amounts to.
    fn into_samples(self) -> Vec<Sample> {
        if let (true, [Element::Number(at), Element::Text(value)]) = (self.kind == "scalar", self.result.as_slice()) {
            return vec![Sample {
                metric: HashMap::new(),
                value: Some((*at, value.clone())),
                values: Vec::new(),
            }];
        }
        let series = |element| match element {
            Element::Series(sample) => Some(*sample),
            Element::Number(_) | Element::Text(_) => None,
        };
        self.result.into_iter().filter_map(series).collect()
    }
}

/// One series of an answer.
#[derive(Debug, Deserialize)]
pub(super) struct Sample {
    /// Its labels.
    pub metric: HashMap<String, String>,
    /// Of an instant vector: evaluation time and value.
    #[serde(default)]
    pub value: Option<(f64, String)>,
    /// Of a matrix: times and values.
    #[serde(default)]
    pub values: Vec<(f64, String)>,
}

impl Envelope {
    /// The same with all that the server says in its own words passed through `clean`.
    pub(super) fn cleaned(self, clean: impl Fn(String) -> String) -> Self {
        Self {
            error: self.error.map(&clean),
            warnings: self.warnings.into_iter().map(clean).collect(),
            ..self
        }
    }

    /// The series and what casts doubt on all of them; notes on style ("PromQL info") do not.
    pub(super) fn into_answer(self) -> Answer {
        Answer {
            samples: self.data.unwrap_or_default().into_samples(),
            doubt: self.warnings.into_iter().find(|warning| !warning.starts_with("PromQL info")),
        }
    }
}

/// The series of one answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The series.
    pub samples: Vec<Sample>,
    /// A warning that says the answer is incomplete.
    pub doubt: Option<String>,
}

impl Answer {
    /// When the server evaluated, by its own clock, in seconds; `None` without an instant vector's sample.
    pub(super) fn evaluated(&self) -> Option<f64> {
        self.samples.iter().find_map(|sample| sample.value.as_ref().map(|(at, _)| *at))
    }
}
