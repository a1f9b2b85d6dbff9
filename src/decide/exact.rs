//! Numbers and absences as JSON that read back as they were: what JSON has no word for is written as one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A number, or the name of one that JSON cannot write.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Name(String),
}

pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.is_finite() {
        serializer.serialize_f64(*number)
    } else {
        serializer.serialize_str(&number.to_string())
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Written::deserialize(deserializer)? {
        Written::Number(number) => Ok(number),
        Written::Name(name) => name.parse().map_err(D::Error::custom),
    }
}

/// The same for a number that may be missing.
pub(super) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Exact(#[serde(with = "super")] f64);

    pub(in super::super) fn serialize<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(Exact).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Exact>::deserialize(deserializer)?.map(|Exact(number)| number))
    }
}

/// An absence within what may be absent: `null` is the inner one, a missing key the outer.
pub(super) mod twice {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<T: Serialize, S: Serializer>(value: &Option<Option<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        #[serde(with = "super")]
        number: f64,
        #[serde(with = "option")]
        maybe: Option<f64>,
        #[serde(with = "twice", default, skip_serializing_if = "Option::is_none")]
        told: Option<Option<String>>,
    }

    #[test]
    fn every_number_and_every_absence_reads_back() {
        for number in [0.1 + 0.2, 1e308 * 10.0, f64::NEG_INFINITY, 5e-324, 9_007_199_254_740_993.0] {
            for told in [None, Some(None), Some(Some("ada".to_owned()))] {
                for maybe in [None, Some(number)] {
                    let told = told.clone();
                    let sample = Sample { number, maybe, told };
                    let text = serde_json::to_string(&sample).expect("serializes");
                    assert_eq!(serde_json::from_str::<Sample>(&text).expect("reads back"), sample, "{text}");
                }
            }
        }
    }
}
