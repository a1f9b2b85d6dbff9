//! The Role of `deploy/monitor.yaml`, optional rules included, is as small as it can be: without any single right of it something that the
//! daemon does fails, and it says which right it lacks; and beyond it the account may do nothing that any other account may not.
//!
//! Both are read from the manifest itself, so that a new rule is held to them too. The needle is the API server's own sentence, which names
//! verb and resource: a failure for want of another right is not taken for this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        core::v1::Secret,
        rbac::v1::{PolicyRule, Role},
    },
    apimachinery::pkg::apis::meta::v1::APIResource,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::support::{Daemon, Ground, eventually, project, stage::TOKEN};

/// Lives played at a time: each waits for looks and deadlines more than it computes.
const LIVES_AT_ONCE: usize = 14;
/// A rollback with all that follows it takes some 10 s; a busy machine takes longer.
const LIFE_LIMIT: Duration = Duration::from_secs(120);
/// RBAC's caches follow within a second or so.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Questions to the API server at a time.
const QUESTIONS_AT_ONCE: usize = 16;

/// One right: a verb on a resource, or on one object of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    verb: String,
    group: String,
    /// With the subresource behind a slash.
    resource: String,
    name: Option<String>,
}

impl Right {
    fn rule(&self) -> PolicyRule {
        PolicyRule {
            api_groups: Some(vec![self.group.clone()]),
            resources: Some(vec![self.resource.clone()]),
            resource_names: self.name.clone().map(|name| vec![name]),
            verbs: vec![self.verb.clone()],
            ..PolicyRule::default()
        }
    }

    fn attributes(&self, namespace: Option<&str>) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource.as_str(), None),
        };
        ResourceAttributes {
            group: Some(self.group.clone()),
            name: self.name.clone(),
            namespace: namespace.map(str::to_owned),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(self.verb.clone()),
            ..ResourceAttributes::default()
        }
    }

    /// Whether a line says that this very right is lacking, as the API server words it.
    fn is_missed_in(&self, line: &str) -> bool {
        let of_object = |name: &String| line.contains(&format!("\"{name}\" is forbidden"));
        line.contains(&format!("cannot {} resource \"{}\"", self.verb, self.resource)) && self.name.as_ref().is_none_or(of_object)
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.as_deref().unwrap_or("any");
        write!(f, "{} {}.{} ({name})", self.verb, self.resource, self.group)
    }
}

/// Every single right of some rules.
fn rights(rules: &[PolicyRule]) -> Vec<Right> {
    let mut all = Vec::new();
    for rule in rules {
        assert!(rule.non_resource_urls.is_none(), "{rule:?}");
        let names: Vec<Option<String>> = match rule.resource_names.as_deref() {
            None | Some([]) => vec![None],
            Some(names) => names.iter().cloned().map(Some).collect(),
        };
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    all.extend(names.iter().map(|name| Right {
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    all
}

/// The Role in the manifest, with or without the rules that follow in it as comments.
fn manifest(with_optional: bool) -> String {
    let path = project().join("deploy/monitor.yaml");
    let all = std::fs::read_to_string(path).expect("the manifest is there");
    let role = all.split("\n---\n").find(|one| one.contains("kind: Role\n")).expect("a Role");
    let line = |line: &str| match line.strip_prefix("  # ") {
        Some(rule) if with_optional && (rule.starts_with("- apiGroups:") || rule.starts_with("  ")) => format!("  {rule}"),
        _ => line.to_owned(),
    };
    role.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The rules of the manifest, as the API server reads them.
async fn rules(ground: &Ground, with_optional: bool) -> Vec<PolicyRule> {
    let role = manifest(with_optional).replace("namespace: shop", &format!("namespace: {}", ground.namespace));
    let read = ground
        .cluster
        .kubectl(&["apply", "--dry-run=server", "-o", "json", "-f", "-"], &role)
        .await;
    let role: Role = serde_json::from_str(&read.expect("the Role is accepted")).expect("a Role");
    role.rules.expect("it has rules")
}

/// What a daemon is configured for, beyond what every one does: each of these needs rights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deeds {
    /// Nothing more.
    Plain,
    /// Scales a cold standby up, then takes the pods that were left out of service.
    ScaleAndIsolate,
    /// Evicts the pods that were left.
    Evict,
}

impl Deeds {
    const ALL: [Self; 3] = [Self::Plain, Self::ScaleAndIsolate, Self::Evict];

    /// Which of them needs an optional right.
    fn that_need(right: &Right) -> Self {
        match (right.verb.as_str(), right.resource.as_str()) {
            ("create", "pods/eviction") => Self::Evict,
            _ => Self::ScaleAndIsolate,
        }
    }

    /// The optional rights that it needs.
    fn rights(self, optional: &[Right]) -> Vec<Right> {
        let own = |right: &&Right| self != Self::Plain && Self::that_need(right) == self;
        optional.iter().filter(own).cloned().collect()
    }

    fn top(self) -> &'static str {
        match self {
            Self::ScaleAndIsolate => "inherit_rules = false\nstandby = \"scale_up\"\n",
            Self::Plain | Self::Evict => "inherit_rules = false\n",
        }
    }

    fn connections(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::ScaleAndIsolate => "[guards.connections]\naction = \"isolate\"\npause = \"200ms\"\n",
            Self::Evict => "[guards.connections]\naction = \"evict\"\npause = \"200ms\"\n",
        }
    }
}

/// A shop whose daemon has exactly these rights, and which judges by health alone.
async fn ground(test: &str, deeds: Deeds, rights: &[Right]) -> Option<Ground> {
    let guard = format!(
        "{}[guards.rules.health]\nkind = \"probe\"\npath = \"/health\"\ntimeout = \"1s\"\n",
        deeds.connections()
    );
    let ground = Ground::open(test, &guard).await?;
    ground.edit("name = \"shop\"\nnamespace", &format!("name = \"shop\"\n{}namespace", deeds.top()));
    ground.edit("[prometheus]\nurl = \"http://127.0.0.1:9\"\n", "");
    ground.edit("[log]\n", &format!("[replicas]\nnamespace = \"{}\"\n[log]\n", ground.namespace));
    let roles: Api<Role> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    let mut role = roles.get("flipback").await.expect("the Role was applied");
    role.rules = Some(rights.iter().map(Right::rule).collect());
    roles
        .replace("flipback", &PostParams::default(), &role)
        .await
        .expect("the Role is ours");
    Some(ground)
}

/// Waits until the account may do what is in `rights`, and not what is in `lacking`.
async fn settled(ground: &Ground, rights: &[Right], lacking: Option<&Right>) {
    let admin = ground.cluster.admin().await;
    let account = Account::of(&ground.namespace, "flipback");
    eventually("RBAC to take in the Role", SETTLE_LIMIT, async || {
        for right in rights {
            if !account.may(&admin, right.attributes(Some(&ground.namespace))).await {
                return None;
            }
        }
        match lacking {
            Some(right) if account.may(&admin, right.attributes(Some(&ground.namespace))).await => None,
            _ => Some(()),
        }
    })
    .await;
}

/// What the daemon has said or written down about lacking a right.
fn said(ground: &Ground) -> Vec<String> {
    let folder = ground.folder.path();
    let mut texts = vec![std::fs::read_to_string(folder.join("flipback.log")).unwrap_or_default()];
    for bundle in std::fs::read_dir(folder.join("data/incidents")).into_iter().flatten().flatten() {
        texts.push(std::fs::read_to_string(bundle.path().join("incident.json")).unwrap_or_default());
    }
    let lines = texts.iter().flat_map(|text| text.lines());
    // A sentence within a field or a JSON string has its quotes escaped.
    lines
        .filter(|line| line.contains("forbidden"))
        .map(|line| line.replace('\\', ""))
        .collect()
}

/// Waits, for ever if need be, for a status of the guard that fits.
async fn until(daemon: &mut Daemon, fits: impl Fn(&Value) -> bool) {
    loop {
        daemon.process.must_live();
        if daemon.guard().await.as_ref().is_some_and(&fits) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A whole life: the daemon sees a release, sees it fail, puts traffic back, keeps evidence, tells, does what it is configured for, and goes.
async fn live(ground: &Ground, deeds: Deeds, (old, new): (&str, &str), daemon: &mut Daemon) {
    until(daemon, |guard| guard["active"] == old).await;
    ground.shop.switch_to(new).await;
    until(daemon, |guard| guard["active"] == new && guard["phase"] == "watching").await;
    if deeds == Deeds::ScaleAndIsolate {
        empty(ground, old).await;
    }
    ground.shop.side(new).iter().for_each(|app| app.set_healthy(false));
    ground.wait_topic("rollback_completed", LIFE_LIMIT * 2).await;
    ground.wait_topic("evidence_ready", LIFE_LIMIT * 2).await;
    let relieved = |guard: &Value| {
        let events = guard["events"].as_array().cloned().unwrap_or_default();
        let words = ["Isolated ", "Evicted "];
        events
            .iter()
            .filter_map(|event| event["what"].as_str())
            .any(|what| words.iter().any(|word| what.starts_with(word)))
    };
    if deeds != Deeds::Plain {
        until(daemon, relieved).await;
    }
    daemon.terminate().await;
}

/// Scales a color down to nothing.
async fn empty(ground: &Ground, color: &str) {
    let name = format!("deployment/shop-{color}");
    let arguments = ["-n", &ground.namespace, "scale", &name, "--replicas", "0"];
    ground.cluster.kubectl(&arguments, "").await.expect("scaled");
    let deployments: Api<Deployment> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    eventually("a cold standby", LIFE_LIMIT, async || {
        let found = deployments.get(&format!("shop-{color}")).await.ok()?.status?;
        (found.replicas.unwrap_or(0) == 0).then_some(())
    })
    .await;
}

/// Plays a life without one right; `Err`: nothing missed it.
async fn without(test: &str, deeds: Deeds, all: &[Right], right: &Right) -> Result<(), String> {
    let rest: Vec<Right> = all.iter().filter(|other| *other != right).cloned().collect();
    let ground = ground(test, deeds, &rest).await.expect("the parts are there");
    settled(&ground, &rest, Some(right)).await;
    // A right on one color's object is needed where this color is the one to go back to.
    let colors = match right.name.as_deref() {
        Some("shop-green") => ("green", "blue"),
        _ => ("blue", "green"),
    };
    if colors.0 == "green" {
        ground.shop.switch_to("green").await;
    }
    let mut daemon = ground.launch(&[]);
    let missed = async {
        while !said(&ground).iter().any(|line| right.is_missed_in(line)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let lived = tokio::select! {
        () = missed => return Ok(()),
        lived = tokio::time::timeout(LIFE_LIMIT, live(&ground, deeds, colors, &mut daemon)) => lived,
    };
    // The last words come with the end.
    if said(&ground).iter().any(|line| right.is_missed_in(line)) {
        return Ok(());
    }
    Err(format!(
        "without {right}, as {deeds:?}, {}; it lacked {:#?}",
        if lived.is_ok() {
            "it did all there is to do"
        } else {
            "it came to no end"
        },
        said(&ground)
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_right_of_the_role_something_fails_and_with_all_nothing_does() {
    const TEST: &str = "without_any_one_right_of_the_role_something_fails_and_with_all_nothing_does";
    let Some(first) = Ground::open(TEST, "").await else { return };
    let always = rights(&rules(&first, false).await);
    let mut optional = rights(&rules(&first, true).await);
    // No Argo is here to serve its kinds: `src/evidence/capture/rollouts.rs` tests what is asked of them.
    optional.retain(|right| !always.contains(right) && right.group != "argoproj.io");
    assert!(always.len() >= 20 && optional.len() >= 3, "{always:?}\n{optional:?}");
    drop(first);
    let all_for = |deeds: Deeds| -> Vec<Right> { always.iter().cloned().chain(deeds.rights(&optional)).collect() };

    let complete = Deeds::ALL.map(|deeds| (deeds, None));
    let lacking = always.iter().map(|right| (Deeds::Plain, Some(right)));
    let lacking = lacking.chain(optional.iter().map(|right| (Deeds::that_need(right), Some(right))));
    let lives = stream::iter(complete.into_iter().chain(lacking)).map(|(deeds, lacking)| {
        let all = all_for(deeds);
        async move {
            match lacking {
                Some(right) => without(TEST, deeds, &all, right).await,
                None => with_all(TEST, deeds, &all).await,
            }
        }
    });
    let failed: Vec<String> = lives
        .buffer_unordered(LIVES_AT_ONCE)
        .filter_map(|outcome| async { outcome.err() })
        .collect()
        .await;
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// With all its rights nothing is refused, by the API server's own record, and every right was made use of.
async fn with_all(test: &str, deeds: Deeds, all: &[Right]) -> Result<(), String> {
    let ground = ground(test, deeds, all).await.expect("the parts are there");
    settled(&ground, all, None).await;
    let mut daemon = ground.launch(&[]);
    tokio::time::timeout(LIFE_LIMIT, live(&ground, deeds, ("blue", "green"), &mut daemon))
        .await
        .map_err(|_| format!("{deeds:?} came to no end: {}", daemon.process.output()))?;
    let asked = ground.cluster.audit_of(&ground.namespace, "flipback");
    let refused: Vec<String> = asked
        .iter()
        .filter(|event| event.code == 403)
        .map(|event| format!("{} {}", event.verb, event.uri))
        .collect();
    if !refused.is_empty() || !said(&ground).is_empty() {
        return Err(format!("{deeds:?} was refused {refused:?} and said {:?}", said(&ground)));
    }
    Ok(())
}

/// Somebody whom the API server knows, and what it would be allowed.
struct Account {
    user: String,
    groups: Vec<String>,
}

impl Account {
    fn of(namespace: &str, name: &str) -> Self {
        Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }

    async fn may(&self, admin: &Client, attributes: ResourceAttributes) -> bool {
        self.ask(admin, Some(attributes), None).await
    }

    async fn ask(&self, admin: &Client, resource: Option<ResourceAttributes>, path: Option<NonResourceAttributes>) -> bool {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user.clone()),
                groups: Some(self.groups.clone()),
                resource_attributes: resource,
                non_resource_attributes: path,
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(admin.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .expect("an administrator may ask");
        answer.status.expect("an answer").allowed
    }
}

/// Every resource that the API server serves, by group, those within others too (`pods/log`).
async fn served(admin: &Client) -> BTreeMap<(String, String), APIResource> {
    let mut all = BTreeMap::new();
    let core = admin.list_core_api_resources("v1").await.expect("discovery");
    all.extend(core.resources.into_iter().map(|one| ((String::new(), one.name.clone()), one)));
    for group in admin.list_api_groups().await.expect("discovery").groups {
        for version in &group.versions {
            let resources = admin
                .list_api_group_resources(&version.group_version)
                .await
                .expect("discovery")
                .resources;
            all.extend(resources.into_iter().map(|one| ((group.name.clone(), one.name.clone()), one)));
        }
    }
    all
}

/// Verbs that mean something to some resource or other, whatever discovery says of it.
const VERBS: [&str; 15] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "sign",
    "use",
    "*",
];

/// Where a question is about: flipback's own namespace, others, and the cluster.
fn places(own: &str) -> Vec<Option<String>> {
    vec![
        Some(own.to_owned()),
        Some("default".to_owned()),
        Some("kube-system".to_owned()),
        None,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_role_the_account_may_do_nothing_that_others_may_not() {
    const TEST: &str = "beyond_its_role_the_account_may_do_nothing_that_others_may_not";
    let Some(ground) = Ground::open(TEST, "").await else { return };
    let admin = ground.cluster.admin().await;
    let granted = rights(&rules(&ground, false).await);
    settled(&ground, &granted, None).await;
    let served = served(&admin).await;
    for (group, resource) in [
        ("", "secrets"),
        ("", "pods/exec"),
        ("", "serviceaccounts/token"),
        ("rbac.authorization.k8s.io", "roles"),
    ] {
        assert!(
            served.contains_key(&(group.to_owned(), resource.to_owned())),
            "not asked about {resource}"
        );
    }

    let mut questions: Vec<(Right, Option<String>)> = Vec::new();
    let star = [("*".to_owned(), "*".to_owned()), (String::new(), "*".to_owned())];
    for (group, resource) in served.keys().chain(&star) {
        for verb in VERBS {
            let right = Right {
                verb: verb.to_owned(),
                group: group.clone(),
                resource: resource.clone(),
                name: None,
            };
            questions.extend(places(&ground.namespace).into_iter().map(|place| (right.clone(), place)));
        }
    }
    let (account, anyone) = (
        Account::of(&ground.namespace, "flipback"),
        Account::of(&ground.namespace, "default"),
    );
    let asked = questions.len();
    let allowed: BTreeSet<(Right, Option<String>)> = stream::iter(questions)
        .map(|(right, place)| {
            let (account, anyone, admin) = (&account, &anyone, &admin);
            async move {
                let attributes = right.attributes(place.as_deref());
                let own = account.may(admin, attributes.clone()).await && !anyone.may(admin, attributes).await;
                own.then_some((right, place))
            }
        })
        .buffer_unordered(QUESTIONS_AT_ONCE)
        .filter_map(|found| async { found })
        .collect()
        .await;
    assert!(asked > 4_000, "only {asked} questions");
    let wanted: BTreeSet<(Right, Option<String>)> = granted
        .iter()
        .filter(|right| right.name.is_none())
        .map(|right| (right.clone(), Some(ground.namespace.clone())))
        .collect();
    assert_eq!(allowed, wanted);
    by_name(&ground, &admin, &account, &granted, &served).await;
    paths(&admin, &account, &anyone).await;
    no_secret(&ground).await;
}

/// What the Role grants on named objects holds for these, and for none that has another name or lies elsewhere.
async fn by_name(ground: &Ground, admin: &Client, account: &Account, granted: &[Right], served: &BTreeMap<(String, String), APIResource>) {
    let named: Vec<&Right> = granted.iter().filter(|right| right.name.is_some()).collect();
    assert!(!named.is_empty());
    let names: BTreeSet<&String> = named.iter().filter_map(|right| right.name.as_ref()).collect();
    let names = names
        .into_iter()
        .map(String::as_str)
        .chain(["flipback", "flipback-chats", "kubernetes"]);
    for name in names {
        for (group, resource) in served.keys().filter(|(_, resource)| !resource.contains('/')) {
            for verb in VERBS {
                let right = Right {
                    verb: verb.to_owned(),
                    group: group.clone(),
                    resource: resource.clone(),
                    name: Some(name.to_owned()),
                };
                let of_all = Right {
                    name: None,
                    ..right.clone()
                };
                let wanted = granted.contains(&right) || granted.contains(&of_all);
                // Asked about one by one only where a rule of the Role is near: of these resources, and of Secrets.
                let near = resource == "secrets" || granted.iter().any(|granted| granted.resource == *resource);
                if near && (group.is_empty() || granted.iter().any(|granted| granted.group == *group)) {
                    let may = account.may(admin, right.attributes(Some(&ground.namespace))).await;
                    assert_eq!(may, wanted, "{right}");
                }
            }
        }
    }
    for right in named {
        for place in places(&ground.namespace).into_iter().skip(1) {
            assert!(
                !account.may(admin, right.attributes(place.as_deref())).await,
                "{right} in {place:?}"
            );
        }
    }
}

/// What is no object: the API server's own pages.
async fn paths(admin: &Client, account: &Account, anyone: &Account) {
    for path in [
        "/metrics",
        "/logs",
        "/debug/pprof/",
        "/configz",
        "/openid/v1/jwks",
        "/api",
        "/apis",
        "/version",
        "/*",
    ] {
        for verb in ["get", "post", "put", "delete"] {
            let attributes = NonResourceAttributes {
                path: Some(path.to_owned()),
                verb: Some(verb.to_owned()),
            };
            let ours = account.ask(admin, None, Some(attributes.clone())).await;
            let theirs = anyone.ask(admin, None, Some(attributes)).await;
            assert_eq!(ours, theirs, "{verb} {path}");
            assert!(!ours || verb == "get", "{verb} {path}");
        }
    }
}

/// The question that matters most, asked by doing it.
async fn no_secret(ground: &Ground) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "flipback-chats", "namespace": ground.namespace},
                        "stringData": {"slack": TOKEN}});
    ground.cluster.apply_yaml(&secret.to_string()).await;
    let account = ground.cluster.client(&ground.kubeconfig()).await;
    let forbidden = |error: kube::Error| matches!(error, kube::Error::Api(status) if status.code == 403);
    for namespace in [ground.namespace.as_str(), "kube-system", "default"] {
        let secrets: Api<Secret> = Api::namespaced(account.clone(), namespace);
        assert!(forbidden(secrets.get("flipback-chats").await.expect_err("refused")));
        assert!(forbidden(secrets.list(&ListParams::default()).await.expect_err("refused")));
    }
    let everywhere: Api<Secret> = Api::all(account);
    assert!(forbidden(everywhere.list(&ListParams::default()).await.expect_err("refused")));
}
