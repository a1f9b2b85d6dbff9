//! The evidence, for a browser: `/incidents/<incident>/report.html` and what it links to, where the operator said so.
//!
//! It reads files and nothing else, by a library made for it. Off unless told otherwise, since a bundle holds logs, and whoever
//! reaches this address can read it. Hidden files and folders in the making do not exist here; scripts do not run; a log is
//! shown as text, whatever it pretends to be.

use std::path::Path;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
};
use tower_http::services::ServeDir;

use super::routes::Problem;

/// Where bundles are found.
pub(super) const PATH: &str = "/incidents";
/// A report brings its own style and pictures, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; sandbox allow-same-origin allow-popups allow-top-navigation-by-user-activation";
const TEXT: &str = "text/plain; charset=utf-8";

/// The files below the folder of incidents.
pub(super) fn router<S: Clone + Send + Sync + 'static>(incidents: &Path) -> Router<S> {
    let files = ServeDir::new(incidents).append_index_html_on_directories(false);
    Router::new().nest_service(PATH, files).layer(middleware::from_fn(guarded))
}

async fn guarded(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let below = path.strip_prefix(PATH).unwrap_or_default();
    // The library refuses what leads outside; this refuses what is inside and nobody's business. `%2e` is a dot too.
    let hidden = |segment: &str| segment.starts_with('.') || segment.to_ascii_lowercase().starts_with("%2e");
    if below.split('/').any(hidden) {
        return missing();
    }
    // The folder itself is its report.
    let mut segments = below.split('/').filter(|segment| !segment.is_empty());
    if let (Some(incident), None) = (segments.next(), segments.next()) {
        return Redirect::temporary(&format!("{PATH}/{incident}/report.html")).into_response();
    }
    let mut response = next.run(request).await;
    if !matches!(
        response.status(),
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RANGE_NOT_SATISFIABLE
    ) {
        return missing();
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    let extension = Path::new(below).extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("html" | "png")) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    }
    response
}

fn missing() -> Response {
    Problem {
        status: StatusCode::NOT_FOUND,
        error: "not_found",
        message: "there is no such piece of evidence; it may still be captured, or have been pruned".into(),
    }
    .into_response()
}
