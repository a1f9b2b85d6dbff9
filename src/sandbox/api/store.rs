//! The objects, their history and the rules of writing them. No IO and no clock: `now` comes with the writer.
//!
//! Every write raises one counter, the resourceVersion. The history is bounded; what fell out of it is *expired*, which
//! is how a watcher learns that it must list again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    super::clock,
    failure::Failure,
    fields,
    kinds::{DEPLOYMENTS, EVENTS, Kind, LEASES, NAMESPACES, SERVICES, at, text},
};

/// Changes a watcher may be behind: minutes of everything the sandbox does.
const HISTORY_MAX: usize = 4096;
/// Objects in all: the sandbox has dozens; a client that creates without end is refused.
const OBJECTS_MAX: usize = 5000;
/// The first resourceVersion. Not 1, so that "too old" exists from the start, as on a server that has been compacted.
const FIRST_VERSION: u64 = 1000;

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
}

/// Who writes, when, and whether it is meant.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub manager: String,
    pub now: Timestamp,
    pub dry_run: bool,
}

/// One write.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub version: u64,
    pub kind: &'static Kind,
    pub before: Option<Arc<Value>>,
    /// `None`: deleted.
    pub after: Option<Arc<Value>>,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    history: VecDeque<Change>,
    /// Changes up to and including this one are forgotten.
    expired: u64,
    /// The newest change of what the controllers work on.
    controlled: u64,
    names: u64,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: FIRST_VERSION,
            history: VecDeque::new(),
            expired: FIRST_VERSION,
            controlled: FIRST_VERSION,
            names: 0,
        }
    }

    /// The newest resourceVersion.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The newest change of anything that a controller looks at.
    pub(crate) fn controlled(&self) -> u64 {
        self.controlled
    }

    /// The newest forgotten resourceVersion.
    pub(super) fn expired(&self) -> u64 {
        self.expired
    }

    /// Forgets the history, as etcd's compaction does.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.expired = self.version;
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Result<Arc<Value>, Failure> {
        self.objects
            .get(key)
            .cloned()
            .ok_or_else(|| Failure::not_found(key.kind.plural, &key.name))
    }

    /// Every object of a kind, in the order of namespace and name.
    pub(crate) fn all(&self, kind: &'static Kind) -> impl Iterator<Item = &Arc<Value>> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// Changes of a kind after a version.
    pub(super) fn since(&self, kind: &'static Kind, version: u64) -> Result<Vec<Change>, Failure> {
        if version < self.expired {
            return Err(Failure::expired(version, self.expired));
        }
        let known = self.history.partition_point(|change| change.version <= version);
        Ok(self.history.range(known..).filter(|change| change.kind == kind).cloned().collect())
    }

    /// Stores a new object.
    pub(crate) fn create(&mut self, kind: &'static Kind, namespace: &str, mut body: Value, by: &Writer) -> Result<Arc<Value>, Failure> {
        let name = self.named(kind, &mut body)?;
        let key = Key {
            kind,
            namespace: namespace.to_owned(),
            name,
        };
        self.may_create(&key, &body)?;
        let metadata = metadata_of(&mut body)?;
        for given_by_the_server in ["resourceVersion", "managedFields", "selfLink"] {
            metadata.remove(given_by_the_server);
        }
        metadata.insert("uid".to_owned(), json!(self.uid(&key)));
        metadata.insert("creationTimestamp".to_owned(), json!(clock::stamp(by.now)));
        if kind.namespaced {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        if kind.counts_generations {
            metadata.insert("generation".to_owned(), json!(1));
        }
        fill_in(kind, &mut body);
        fields::claim(kind, None, &mut body, &by.manager, &clock::stamp(by.now));
        Ok(self.put(key, None, body, by))
    }

    /// Replaces an object by what `edit` makes of it. An edit that changes nothing writes nothing.
    pub(crate) fn edit(
        &mut self,
        key: &Key,
        by: &Writer,
        edit: impl FnOnce(&mut Value) -> Result<(), Failure>,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.get(key)?;
        let mut after = Value::clone(&before);
        edit(&mut after)?;
        for fixed in ["name", "namespace"] {
            if at(&after, &["metadata", fixed]) != at(&before, &["metadata", fixed]) {
                return Err(Failure::bad_request(format!(
                    "the {fixed} of the object does not match the one in the URL"
                )));
            }
        }
        let same = |field: &str| at(&after, &["metadata", field]) == at(&before, &["metadata", field]);
        let versionless = at(&after, &["metadata", "resourceVersion"]).is_null();
        if !same("uid") || !(versionless || same("resourceVersion")) {
            return Err(Failure::conflict(key.kind.plural, &key.name));
        }
        let spec_changed = after.get("spec") != before.get("spec");
        let metadata = metadata_of(&mut after)?;
        for kept in ["resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            match at(&before, &["metadata", kept]) {
                Value::Null => metadata.remove(kept),
                value => metadata.insert(kept.to_owned(), value.clone()),
            };
        }
        if after == *before {
            return Ok(before);
        }
        if key.kind.counts_generations && spec_changed {
            let generation = at(&before, &["metadata", "generation"]).as_u64().unwrap_or_default();
            metadata_of(&mut after)?.insert("generation".to_owned(), json!(generation + 1));
        }
        fields::claim(key.kind, Some(&before), &mut after, &by.manager, &clock::stamp(by.now));
        Ok(self.put(key.clone(), Some(before), after, by))
    }

    /// Removes an object.
    pub(crate) fn delete(&mut self, key: &Key, dry_run: bool) -> Result<Arc<Value>, Failure> {
        let before = self.get(key)?;
        if !dry_run {
            self.objects.remove(key);
            self.record(key.kind, Some(before.clone()), None);
        }
        Ok(before)
    }

    fn put(&mut self, key: Key, before: Option<Arc<Value>>, mut body: Value, by: &Writer) -> Arc<Value> {
        if by.dry_run {
            return Arc::new(body);
        }
        body["metadata"]["resourceVersion"] = json!((self.version + 1).to_string());
        let body = Arc::new(body);
        self.objects.insert(key.clone(), body.clone());
        self.record(key.kind, before, Some(body.clone()));
        body
    }

    fn record(&mut self, kind: &'static Kind, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.version += 1;
        if ![&EVENTS, &LEASES].contains(&kind) {
            self.controlled = self.version;
        }
        self.history.push_back(Change {
            version: self.version,
            kind,
            before,
            after,
        });
        while self.history.len() > HISTORY_MAX {
            self.expired = self.history.pop_front().map_or(self.expired, |change| change.version);
        }
    }

    /// The object's name, made from `generateName` where only that is given.
    fn named(&mut self, kind: &Kind, body: &mut Value) -> Result<String, Failure> {
        let given = text(body, &["metadata", "name"]).to_owned();
        if !given.is_empty() {
            return Ok(given);
        }
        let prefix = text(body, &["metadata", "generateName"]).to_owned();
        if prefix.is_empty() {
            return Err(Failure::invalid(format!(
                "{} \"\" is invalid: metadata.name: Required value: name or generateName is required",
                kind.kind
            )));
        }
        self.names += 1;
        let name = format!("{prefix}{}", suffix(&format!("{prefix}{}", self.names), 5));
        metadata_of(body)?.insert("name".to_owned(), json!(name));
        Ok(name)
    }

    fn may_create(&self, key: &Key, body: &Value) -> Result<(), Failure> {
        if self.objects.contains_key(key) {
            return Err(Failure::already_exists(key.kind.plural, &key.name));
        }
        let namespace = Key {
            kind: &NAMESPACES,
            namespace: String::new(),
            name: key.namespace.clone(),
        };
        if key.kind.namespaced && !self.objects.contains_key(&namespace) {
            return Err(Failure::not_found("namespaces", &key.namespace));
        }
        let said = text(body, &["metadata", "namespace"]);
        if !said.is_empty() && said != key.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if key.kind == &EVENTS && text(body, &["involvedObject", "namespace"]) != key.namespace {
            return Err(Failure::invalid(format!(
                "Event {:?} is invalid: involvedObject.namespace: Invalid value: does not match event.namespace",
                key.name
            )));
        }
        if self.objects.len() >= OBJECTS_MAX {
            return Err(Failure::invalid(format!("the sandbox holds at most {OBJECTS_MAX} objects")));
        }
        Ok(())
    }

    fn uid(&self, key: &Key) -> String {
        let digits = digest(&format!("{}/{}/{}/{}", key.kind.plural, key.namespace, key.name, self.version));
        let hex: Vec<char> = digits.chars().collect();
        let part = |from: usize, to: usize| hex.iter().skip(from).take(to - from).collect::<String>();
        format!(
            "{}-{}-4{}-8{}-{}",
            part(0, 8),
            part(8, 12),
            part(13, 16),
            part(17, 20),
            part(20, 32)
        )
    }
}

fn metadata_of(body: &mut Value) -> Result<&mut Map<String, Value>, Failure> {
    let wrong = || Failure::bad_request("the object provided is unrecognized: metadata must be an object");
    let object = body.as_object_mut().ok_or_else(wrong)?;
    object
        .entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(wrong)
}

/// The few defaults that something of ours reads.
fn fill_in(kind: &'static Kind, body: &mut Value) {
    if let Some(object) = body.as_object_mut() {
        object.insert("kind".to_owned(), json!(kind.kind));
        object.insert("apiVersion".to_owned(), json!(kind.api_version()));
    }
    if kind == &SERVICES {
        default(body, &["spec", "type"], json!("ClusterIP"));
        default(body, &["spec", "sessionAffinity"], json!("None"));
        for port in body.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            default(port, &["protocol"], json!("TCP"));
            let own = at(port, &["port"]).clone();
            default(port, &["targetPort"], own);
        }
    }
    if kind == &DEPLOYMENTS {
        default(body, &["spec", "replicas"], json!(1));
    }
}

fn default(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut level = object;
    for key in parents {
        let Some(next) = level.get_mut(*key) else { return };
        level = next;
    }
    if let Some(map) = level.as_object_mut() {
        map.entry((*last).to_owned()).or_insert(value);
    }
}

/// Hexadecimal SHA-256.
fn digest(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A name suffix as Kubernetes makes them: consonants and digits that spell nothing.
pub(crate) fn suffix(of: &str, length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    use sha2::Digest;
    sha2::Sha256::digest(of.as_bytes())
        .iter()
        .take(length)
        .map(|byte| char::from(ALPHABET.get(usize::from(*byte) % ALPHABET.len()).copied().unwrap_or(b'b')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        Writer {
            manager: "test".to_owned(),
            now: Timestamp::UNIX_EPOCH,
            dry_run: false,
        }
    }

    fn with_service() -> (Store, Key) {
        let mut store = Store::new();
        store
            .create(&NAMESPACES, "", json!({ "metadata": { "name": "shop" } }), &writer())
            .expect("created");
        let service = json!({ "metadata": { "name": "web" }, "spec": { "selector": { "color": "blue" } } });
        store.create(&SERVICES, "shop", service, &writer()).expect("created");
        let key = Key {
            kind: &SERVICES,
            namespace: "shop".into(),
            name: "web".into(),
        };
        (store, key)
    }

    #[test]
    fn an_edit_that_changes_nothing_writes_nothing() {
        let (mut store, key) = with_service();
        let version = store.version();
        store.edit(&key, &writer(), |_| Ok(())).expect("accepted");
        assert_eq!(store.version(), version);
    }

    #[test]
    fn a_dry_run_stores_nothing() {
        let (mut store, key) = with_service();
        let before = store.get(&key).expect("there");
        let dry = Writer { dry_run: true, ..writer() };
        let shown = store
            .edit(&key, &dry, |object| {
                object["spec"]["selector"]["color"] = json!("green");
                Ok(())
            })
            .expect("accepted");
        assert_eq!(shown["spec"]["selector"]["color"], "green");
        assert_eq!(store.get(&key).expect("there"), before);
    }

    #[test]
    fn what_fell_out_of_the_history_is_expired() {
        let (mut store, key) = with_service();
        let then = store.version();
        for n in 0..=HISTORY_MAX {
            store
                .edit(&key, &writer(), |object| {
                    object["spec"]["n"] = json!(n);
                    Ok(())
                })
                .expect("accepted");
        }
        assert_eq!(store.since(&SERVICES, then).expect_err("too old").code, 410);
        assert_eq!(store.since(&SERVICES, store.expired()).expect("known").len(), HISTORY_MAX);
        store.compact();
        assert_eq!(store.since(&SERVICES, store.version() - 1).expect_err("too old").code, 410);
    }

    #[test]
    fn an_object_needs_its_namespace() {
        let (mut store, _) = with_service();
        let body = json!({ "metadata": { "name": "web" } });
        assert_eq!(store.create(&SERVICES, "nowhere", body, &writer()).expect_err("refused").code, 404);
    }
}
