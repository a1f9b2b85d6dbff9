//! The JSON Patches that are sent. Pure.
//!
//! Only `test`, `replace` of one selector key, and one annotation: a merge patch or an apply would be shorter and
//! either not compare, or lose the other selector keys (the selector is an atomic map). Everything else in the object
//! stays byte for byte, because nothing else is sent.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
    jsonptr::{PointerBuf, Token},
};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::model::{
    Ledger, Pause,
    ledger::{DAMAGED_ANNOTATION, LEDGER_ANNOTATION, PAUSE_ANNOTATION},
};

/// Moves the selector key from one value to another and writes the ledger, if the object is still the one that was read. What
/// lay in the ledger's place and is none, `damaged`, is kept beside it.
pub(super) fn flip(
    service: &Service,
    key: &str,
    from: &str,
    to: &str,
    ledger: &Ledger,
    damaged: Option<&str>,
) -> Result<Patch, serde_json::Error> {
    let mut patch = swap(service, key, from, to);
    patch.extend(write(service, ledger, damaged)?);
    Ok(Patch(patch))
}

/// Writes the ledger and nothing else, if the object is still the one that was read.
pub(super) fn ledger(service: &Service, ledger: &Ledger, damaged: Option<&str>) -> Result<Patch, serde_json::Error> {
    let mut patch = vec![unchanged(service)];
    patch.extend(write(service, ledger, damaged)?);
    Ok(Patch(patch))
}

fn write(service: &Service, ledger: &Ledger, damaged: Option<&str>) -> Result<Vec<PatchOperation>, serde_json::Error> {
    let mut patch = annotate(service, LEDGER_ANNOTATION, serde_json::to_string(ledger)?);
    if let Some(text) = damaged {
        patch.extend(annotate(service, DAMAGED_ANNOTATION, text.to_owned()));
    }
    Ok(patch)
}

/// Moves the selector key of the preview Service, and nothing else.
pub(super) fn preview(service: &Service, key: &str, from: &str, to: &str) -> Patch {
    Patch(swap(service, key, from, to))
}

/// Writes or removes the pause; `None`: it is as wanted already.
pub(super) fn pause(service: &Service, pause: Option<&Pause>) -> Result<Option<Patch>, serde_json::Error> {
    let mut patch = vec![unchanged(service)];
    match pause {
        Some(pause) => patch.extend(annotate(service, PAUSE_ANNOTATION, serde_json::to_string(pause)?)),
        None => {
            let annotations = service.metadata.annotations.as_ref();
            if !annotations.is_some_and(|annotations| annotations.contains_key(PAUSE_ANNOTATION)) {
                return Ok(None);
            }
            patch.push(PatchOperation::Remove(RemoveOperation {
                path: path(["metadata", "annotations", PAUSE_ANNOTATION]),
            }));
        }
    }
    Ok(Some(Patch(patch)))
}

fn swap(service: &Service, key: &str, from: &str, to: &str) -> Vec<PatchOperation> {
    let selector = || path(["spec", "selector", key]);
    vec![
        unchanged(service),
        test(selector(), json!(from)),
        PatchOperation::Replace(ReplaceOperation {
            path: selector(),
            value: json!(to),
        }),
    ]
}

fn unchanged(service: &Service) -> PatchOperation {
    test(path(["metadata", "resourceVersion"]), json!(service.metadata.resource_version))
}

fn annotate(service: &Service, key: &str, value: String) -> Vec<PatchOperation> {
    let add = |path, value| PatchOperation::Add(AddOperation { path, value });
    let annotation = add(path(["metadata", "annotations", key]), Value::String(value));
    // JSON Patch does not make parents; where there are annotations, this would empty them.
    if service.metadata.annotations.is_none() {
        vec![add(path(["metadata", "annotations"]), json!({})), annotation]
    } else {
        vec![annotation]
    }
}

fn test(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path, value })
}

/// A pointer whose tokens are escaped: selector keys and annotations carry slashes.
fn path<const N: usize>(tokens: [&str; N]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.map(Token::new))
}
