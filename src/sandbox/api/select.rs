//! `labelSelector` and `fieldSelector`.

use serde_json::Value;

use super::{
    failure::Failure,
    kinds::{at, text},
};

/// What a list or a watch is narrowed to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filter {
    namespace: Option<String>,
    fields: Vec<Test>,
    labels: Vec<Test>,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Is(String, String),
    IsNot(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Has(String),
    HasNot(String),
}

impl Filter {
    /// Reads both selectors.
    pub(super) fn parse(namespace: Option<&str>, fields: &str, labels: &str) -> Result<Self, Failure> {
        let labels = requirements(labels).iter().map(|text| label_test(text)).collect::<Result<_, _>>()?;
        let fields = requirements(fields)
            .iter()
            .map(|text| field_test(text).ok_or_else(|| Failure::bad_request(format!("unable to parse field selector {text:?}"))))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            fields,
            labels,
        })
    }

    /// Whether an object passes.
    pub(super) fn admits(&self, object: &Value) -> bool {
        let here = self
            .namespace
            .as_deref()
            .is_none_or(|ns| ns == text(object, &["metadata", "namespace"]));
        here && self.fields.iter().all(|test| {
            test.holds(|path| {
                let keys: Vec<&str> = path.split('.').collect();
                at(object, &keys).as_str()
            })
        }) && self
            .labels
            .iter()
            .all(|test| test.holds(|key| at(object, &["metadata", "labels", key]).as_str()))
    }
}

impl Test {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Is(key, wanted) => value(key).unwrap_or_default() == wanted,
            Self::IsNot(key, unwanted) => value(key).unwrap_or_default() != unwanted,
            Self::In(key, wanted) => value(key).is_some_and(|found| wanted.iter().any(|one| one == found)),
            Self::NotIn(key, unwanted) => value(key).is_none_or(|found| unwanted.iter().all(|one| one != found)),
            Self::Has(key) => value(key).is_some(),
            Self::HasNot(key) => value(key).is_none(),
        }
    }
}

/// Splits at the commas outside parentheses.
fn requirements(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
        .iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn equality(text: &str) -> Option<Test> {
    let own = |part: &str| part.trim().to_owned();
    if let Some((key, value)) = text.split_once("!=") {
        return Some(Test::IsNot(own(key), own(value)));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some(Test::Is(own(key), own(value)))
}

/// A field test; only paths that every kind or the pods bear.
fn field_test(text: &str) -> Option<Test> {
    let test = equality(text)?;
    let (Test::Is(key, _) | Test::IsNot(key, _)) = &test else {
        return None;
    };
    let known = [
        "metadata.name",
        "metadata.namespace",
        "status.phase",
        "spec.nodeName",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.kind",
        "involvedObject.namespace",
    ];
    known.contains(&key.as_str()).then_some(test)
}

fn label_test(text: &str) -> Result<Test, Failure> {
    let set = |part: &str| -> Vec<String> {
        let inner = part.trim().trim_start_matches('(').trim_end_matches(')');
        inner.split(',').map(|one| one.trim().to_owned()).collect()
    };
    let own = |part: &str| part.trim().to_owned();
    if let Some((key, values)) = text.split_once(" notin ") {
        return Ok(Test::NotIn(own(key), set(values)));
    }
    if let Some((key, values)) = text.split_once(" in ") {
        return Ok(Test::In(own(key), set(values)));
    }
    if let Some(test) = equality(text) {
        return Ok(test);
    }
    let (bare, absent) = text.strip_prefix('!').map_or((text, false), |rest| (rest, true));
    if bare.is_empty() || bare.contains(|c: char| c.is_whitespace() || "()!=".contains(c)) {
        return Err(Failure::bad_request(format!("unable to parse requirement: {text:?}")));
    }
    Ok(if absent { Test::HasNot(own(bare)) } else { Test::Has(own(bare)) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_admit_what_they_name() {
        let pod = json!({ "metadata": { "name": "a", "namespace": "shop", "labels": { "app": "web", "color": "blue" } } });
        let admits = |fields: &str, labels: &str| Filter::parse(Some("shop"), fields, labels).expect("parses").admits(&pod);
        assert!(admits("metadata.name=a", "app=web,color in (blue, green),!gone"));
        assert!(admits("metadata.name!=b", "app==web,color!=green,color notin (red),app"));
        for (fields, labels) in [
            ("metadata.name=b", ""),
            ("", "color=green"),
            ("", "color in (red)"),
            ("", "!app"),
            ("", "gone"),
        ] {
            assert!(!admits(fields, labels), "{fields} {labels}");
        }
        assert!(!Filter::parse(Some("other"), "", "").expect("parses").admits(&pod));
    }

    #[test]
    fn an_unknown_selector_is_refused() {
        assert_eq!(Filter::parse(None, "spec.color=red", "").expect_err("refused").code, 400);
        assert_eq!(Filter::parse(None, "", "a b").expect_err("refused").code, 400);
    }
}
