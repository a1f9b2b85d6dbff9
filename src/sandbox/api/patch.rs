//! The patches flipback sends, with the API server's manners: a failed JSON Patch is 422 without detail, a malformed one
//! 400. Strategic merge and server-side apply are refused, not imitated: flipback must never send them.

use axum::http::HeaderValue;
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use super::failure::Failure;

/// A patch that was understood.
#[derive(Debug)]
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
}

impl Patch {
    /// Reads a body by its content type.
    pub(super) fn parse(content_type: Option<&HeaderValue>, body: &[u8]) -> Result<Self, Failure> {
        let named = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = named.split(';').next().unwrap_or_default().trim();
        let unreadable = |error: serde_json::Error| Failure::bad_request(format!("error decoding patch: {error}"));
        match media {
            "application/json-patch+json" => serde_json::from_slice(body).map(Self::Json).map_err(unreadable),
            "application/merge-patch+json" => serde_json::from_slice(body).map(Self::Merge).map_err(unreadable),
            other => Err(Failure::unsupported_media_type(other)),
        }
    }

    /// Applies itself to an object; all of it or nothing.
    pub(super) fn apply(&self, object: &mut Value) -> Result<(), Failure> {
        match self {
            Self::Json(patch) => {
                let mut patched = object.clone();
                for operation in &patch.0 {
                    step(&mut patched, operation)?;
                }
                *object = patched;
                Ok(())
            }
            Self::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
        }
    }
}

/// One operation, with the two habits in which the API server departs from RFC 6902: `replace` of a missing key adds
/// it, and `test` for null holds where there is nothing.
fn step(object: &mut Value, operation: &PatchOperation) -> Result<(), Failure> {
    let there = object.pointer(operation.path().as_str()).is_some();
    let departed = match operation {
        PatchOperation::Replace(replace) if !there => PatchOperation::Add(AddOperation {
            path: replace.path.clone(),
            value: replace.value.clone(),
        }),
        PatchOperation::Test(test) if !there && test.value.is_null() => return Ok(()),
        other => other.clone(),
    };
    json_patch::patch(object, &[departed]).map_err(|_| Failure::rejected())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply(body: &Value, object: &mut Value) -> Result<(), Failure> {
        let content_type = HeaderValue::from_static("application/json-patch+json");
        Patch::parse(Some(&content_type), body.to_string().as_bytes())?.apply(object)
    }

    #[test]
    fn a_failed_test_leaves_the_object_as_it_was() {
        let before = json!({ "spec": { "selector": { "color": "green" } } });
        let mut object = before.clone();
        let patch = json!([
            { "op": "replace", "path": "/spec/selector/color", "value": "blue" },
            { "op": "test", "path": "/spec/selector/color", "value": "green" },
        ]);
        assert_eq!(apply(&patch, &mut object).expect_err("refused").code, 422);
        assert_eq!(object, before);
    }

    #[test]
    fn a_malformed_patch_is_the_clients_fault() {
        let mut object = json!({});
        assert_eq!(apply(&json!([{ "op": "burn" }]), &mut object).expect_err("refused").code, 400);
    }
}
