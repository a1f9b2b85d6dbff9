//! The API server's refusals, as `Status` objects.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// A refusal: its HTTP code, the machine's word and the person's sentence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// HTTP code.
    pub code: u16,
    /// `NotFound`, `Conflict`, `Invalid`.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
    /// Object the refusal is about.
    pub details: Value,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: json!({}),
        }
    }

    fn about(mut self, plural: &str, name: &str) -> Self {
        self.details = json!({ "name": name, "kind": plural });
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(plural: &str, name: &str, user: &str, verb: &str) -> Self {
        let message = format!("{plural} {name:?} is forbidden: User {user:?} cannot {verb} resource {plural:?}");
        Self::new(403, "Forbidden", message).about(plural, name)
    }

    pub(crate) fn not_found(plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{plural} {name:?} not found")).about(plural, name)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn already_exists(plural: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{plural} {name:?} already exists")).about(plural, name)
    }

    pub(crate) fn conflict(plural: &str, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {plural} {name:?}: the object has been modified; please apply your changes to the latest version and try again"
        );
        Self::new(409, "Conflict", message).about(plural, name)
    }

    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub(crate) fn too_large(bytes_max: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {bytes_max}"),
        )
    }

    pub(crate) fn unsupported_media_type(found: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json (the sandbox does not know {found:?})"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// What a failed JSON Patch gets: no word about which operation.
    pub(crate) fn rejected() -> Self {
        Self::invalid("the server rejected our request due to an error in our request")
    }

    /// What an eviction gets that a disruption budget forbids.
    pub(crate) fn protected(budget: &str) -> Self {
        let mut failure = Self::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        let message = format!("The disruption budget {budget} needs all of its healthy pods at the moment");
        failure.details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": message }] });
        failure
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(self.status())).into_response()
    }
}
