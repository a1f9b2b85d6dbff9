//! From an HTTP request to the store and back: who asks, what for, may they, and the answer's form.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::logs::Run,
    Api, AuditEntry, Failure, Key, User, Writer,
    access::Deed,
    kinds::{DEPLOYMENTS, Kind, PODS, Target, at, text},
    patch::Patch,
    select::Filter,
    subresources,
    watch::{self, Start},
};

/// The real server's bound of a request body.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Log bytes per answer, however many were asked for.
const LOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a watch lasts that does not say: the lower end of a real server's 30 to 60 minutes.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Where access reviews are posted.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// The query parameters that mean something here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ask {
    watch: String,
    resource_version: String,
    resource_version_match: String,
    allow_watch_bookmarks: String,
    send_initial_events: String,
    timeout_seconds: Option<u64>,
    field_selector: String,
    label_selector: String,
    dry_run: String,
    field_manager: String,
    container: String,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    previous: String,
    timestamps: String,
}

fn yes(flag: &str) -> bool {
    matches!(flag, "true" | "1" | "True" | "t")
}

/// The whole server.
pub(crate) fn router(api: Api) -> Router {
    Router::new().fallback(answer).with_state(api)
}

async fn answer(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(user) = User::of(&parts.headers) else {
        return Failure::unauthorized().into_response();
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return Failure::too_large(BODY_BYTES_MAX).into_response();
    };
    route(&api, user, &parts, &body).unwrap_or_else(IntoResponse::into_response)
}

fn route(api: &Api, user: User, parts: &Parts, body: &Bytes) -> Result<Response, Failure> {
    let ask = Query::<Ask>::try_from_uri(&parts.uri)
        .map_err(|error| Failure::bad_request(error.body_text()))?
        .0;
    match parts.uri.path() {
        "/healthz" | "/livez" | "/readyz" => return Ok("ok".into_response()),
        "/version" => return Ok(Json(json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0-flipback-sandbox" })).into_response()),
        REVIEWS => return review(api, user, parts, body),
        _ => {}
    }
    let target = Target::parse(parts.uri.path()).ok_or_else(Failure::no_such_path)?;
    let verb = verb(&parts.method, &target, &ask)?;
    let call = Call {
        api,
        user,
        verb,
        target: &target,
        ask: &ask,
        parts,
        body,
    };
    let answer = call.allowed().and_then(|()| call.carry_out());
    call.witness(
        answer
            .as_ref()
            .map_or_else(|failure| failure.code, |response| response.status().as_u16()),
    );
    answer
}

fn verb(method: &Method, target: &Target, ask: &Ask) -> Result<&'static str, Failure> {
    Ok(match (method, &target.name) {
        (&Method::POST, Some(_)) if target.subresource.is_some() => "create",
        (&Method::GET, Some(_)) if !yes(&ask.watch) => "get",
        (&Method::GET, _) if yes(&ask.watch) => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, None) => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        _ => return Err(Failure::method_not_allowed()),
    })
}

/// One request to one object or collection.
struct Call<'a> {
    api: &'a Api,
    user: User,
    verb: &'static str,
    target: &'a Target,
    ask: &'a Ask,
    parts: &'a Parts,
    body: &'a Bytes,
}

impl Call<'_> {
    fn kind(&self) -> &'static Kind {
        self.target.kind
    }

    fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    fn key(&self) -> Key {
        Key {
            kind: self.kind(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
        }
    }

    fn allowed(&self) -> Result<(), Failure> {
        let plural = self.kind().plural;
        let resource = self
            .target
            .subresource
            .as_ref()
            .map_or_else(|| plural.to_owned(), |sub| format!("{plural}/{sub}"));
        let deed = Deed {
            verb: self.verb,
            group: self.kind().group,
            resource: &resource,
            namespace: self.namespace(),
            name: self.name(),
        };
        if self.api.shared.rules.allow(self.user, &deed) {
            Ok(())
        } else {
            Err(Failure::forbidden(&resource, self.name(), self.user.name(), self.verb))
        }
    }

    fn carry_out(&self) -> Result<Response, Failure> {
        if let Some(sub) = &self.target.subresource {
            return match (self.verb, self.kind(), sub.as_str()) {
                ("get", kind, "log") if kind == &PODS => self.log(),
                ("get", kind, "scale") if kind == &DEPLOYMENTS => self.scale(),
                ("update", kind, "scale") if kind == &DEPLOYMENTS => self.rescale(),
                ("create", kind, "eviction") if kind == &PODS => {
                    subresources::evict(self.api, &self.key(), &self.decoded()?, &self.writer()?)
                }
                _ => Err(Failure::no_such_path()),
            };
        }
        match self.verb {
            "get" => self.api.read(|store| store.get(&self.key())).map(shown),
            "list" => self.list(),
            "watch" => self.watch(),
            "create" => {
                let object = self.decoded()?;
                let by = self.writer()?;
                let made = self.api.write(|store| store.create(self.kind(), self.namespace(), object, &by))?;
                Ok((StatusCode::CREATED, shown(made)).into_response())
            }
            "update" => {
                let object = self.decoded()?;
                self.edit(|present| {
                    *present = object;
                    Ok(())
                })
            }
            "patch" => {
                let patch = Patch::parse(self.parts.headers.get(header::CONTENT_TYPE), self.body)?;
                self.edit(|present| patch.apply(present))
            }
            _ => {
                let dry_run = self.writer()?.dry_run;
                self.api.write(|store| store.delete(&self.key(), dry_run)).map(shown)
            }
        }
    }

    fn edit(&self, edit: impl FnOnce(&mut Value) -> Result<(), Failure>) -> Result<Response, Failure> {
        let by = self.writer()?;
        self.api.write(|store| store.edit(&self.key(), &by, edit)).map(shown)
    }

    fn scale(&self) -> Result<Response, Failure> {
        let deployment = self.api.read(|store| store.get(&self.key()))?;
        Ok(Json(subresources::scale(&deployment)).into_response())
    }

    fn rescale(&self) -> Result<Response, Failure> {
        let (wanted, by) = (self.decoded()?, self.writer()?);
        let scale = self.api.write(|store| subresources::rescale(store, &self.key(), &by, &wanted))?;
        Ok(Json(scale).into_response())
    }

    fn decoded(&self) -> Result<Value, Failure> {
        serde_json::from_slice::<Value>(self.body)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Failure::bad_request("the object provided is unrecognized (must be of type JSON object)"))
    }

    /// The field manager is the one given, else the client's name, as on a real server.
    fn manager(&self) -> String {
        let agent = self.parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        match self.ask.field_manager.as_str() {
            "" => agent.and_then(|agent| agent.split('/').next()).unwrap_or("unknown").to_owned(),
            given => given.to_owned(),
        }
    }

    fn writer(&self) -> Result<Writer, Failure> {
        let dry_run = match self.ask.dry_run.as_str() {
            "" => false,
            "All" => true,
            other => {
                return Err(Failure::invalid(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        };
        Ok(Writer {
            manager: self.manager(),
            now: self.api.now(),
            dry_run,
        })
    }

    fn filter(&self) -> Result<Filter, Failure> {
        let namespace = self.target.namespace.as_deref();
        Filter::parse(namespace, &self.ask.field_selector, &self.ask.label_selector)
    }

    fn list(&self) -> Result<Response, Failure> {
        let asked = version(&self.ask.resource_version)?;
        if self.ask.resource_version_match == "Exact" {
            let oldest = self.api.read(super::Store::expired);
            if asked.is_some_and(|asked| asked < oldest) {
                return Err(Failure::expired(asked.unwrap_or_default(), oldest));
            }
        }
        let (objects, version) = self.api.snapshot(self.kind(), &self.filter()?);
        let items: Vec<Value> = objects.iter().map(|object| bare(object)).collect();
        Ok(Json(json!({
            "kind": format!("{}List", self.kind().kind),
            "apiVersion": self.kind().api_version(),
            "metadata": { "resourceVersion": version.to_string() },
            "items": items,
        }))
        .into_response())
    }

    fn watch(&self) -> Result<Response, Failure> {
        let streaming = yes(&self.ask.send_initial_events);
        if streaming && self.ask.resource_version_match != "NotOlderThan" {
            return Err(Failure::invalid(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let start = match version(&self.ask.resource_version)? {
            _ if streaming => Start::Streaming,
            None | Some(0) => Start::Now,
            Some(version) => Start::After(version),
        };
        let request = watch::Request {
            kind: self.kind(),
            filter: self.filter()?,
            start,
            bookmarks: yes(&self.ask.allow_watch_bookmarks),
            timeout: self
                .ask
                .timeout_seconds
                .map_or(WATCH_TIMEOUT, Duration::from_secs)
                .min(WATCH_TIMEOUT),
        };
        Ok(watch::respond(self.api, request))
    }

    fn log(&self) -> Result<Response, Failure> {
        let pod = self.api.read(|store| store.get(&self.key()))?;
        let containers = at(&pod, &["spec", "containers"]).as_array().cloned().unwrap_or_default();
        let known = containers.iter().any(|container| text(container, &["name"]) == self.ask.container);
        if !self.ask.container.is_empty() && !known {
            return Err(Failure::bad_request(format!(
                "container {} is not valid for pod {}",
                self.ask.container,
                self.name()
            )));
        }
        let run = if yes(&self.ask.previous) { Run::Previous } else { Run::Current };
        let tail = self.ask.tail_lines.unwrap_or(usize::MAX);
        let lines = self.api.shared.logs.read(self.name(), run, tail).ok_or_else(|| {
            let container = containers.first().map(|container| text(container, &["name"])).unwrap_or_default();
            Failure::bad_request(format!(
                "previous terminated container {container:?} in pod {:?} not found",
                self.name()
            ))
        })?;
        let mut said = String::new();
        for (at, line) in lines {
            if yes(&self.ask.timestamps) {
                said.push_str(&format!("{at} "));
            }
            said.push_str(&line);
            said.push('\n');
        }
        let limit = self.ask.limit_bytes.unwrap_or(LOG_BYTES_MAX).min(LOG_BYTES_MAX);
        let mut bytes = said.into_bytes();
        bytes.truncate(limit);
        Ok(([(header::CONTENT_TYPE, "text/plain")], bytes).into_response())
    }

    fn witness(&self, code: u16) {
        if matches!(self.verb, "get" | "list" | "watch") {
            return;
        }
        self.api.witness(AuditEntry {
            at: self.api.now(),
            user: self.user.name().to_owned(),
            manager: self.manager(),
            verb: self.verb.to_owned(),
            resource: self.kind().plural.to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            dry_run: self.ask.dry_run == "All",
            code,
            body: serde_json::from_slice(self.body).unwrap_or(Value::Null),
        });
    }
}

fn review(api: &Api, user: User, parts: &Parts, body: &Bytes) -> Result<Response, Failure> {
    if parts.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let mut review: Value = serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let allowed = api.shared.rules.review(user, at(&review, &["spec", "resourceAttributes"]));
    review["status"] = json!({ "allowed": allowed });
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

fn shown(object: Arc<Value>) -> Response {
    Json(&*object).into_response()
}

/// Items of a list carry no kind of their own, as on a real server.
fn bare(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(map) = item.as_object_mut() {
        map.shift_remove("kind");
        map.shift_remove("apiVersion");
    }
    item
}

fn version(text: &str) -> Result<Option<u64>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| Failure::bad_request(format!("Invalid value: {text:?}: resourceVersion must be a number")))
}
