//! What stands in an engine that was read back as data until it is told whose it is: see [`Engine::resume`].
//!
//! [`Engine::resume`]: super::Engine::resume

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::model::{EndpointsRule, EvidenceSpec, GuardId, GuardSpec, Mode, Policy, RouteSpec, RuleKind, RuleName, RuleSpec, ServiceRoute};

use super::limits::Limits;

pub(super) fn spec() -> Arc<GuardSpec> {
    Arc::new(GuardSpec {
        id: GuardId::new("", "nobody", "nobody").expect("a valid name"),
        cluster: String::new(),
        namespace: String::new(),
        route: RouteSpec::Service(ServiceRoute {
            active: String::new(),
            preview: None,
            selector_key: String::new(),
        }),
        colors: BTreeMap::new(),
        rules: Vec::new(),
        policy: Policy::default(),
        mode: Mode::Monitor,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: Vec::new(),
        config_hash: String::new(),
    })
}

pub(super) fn rule() -> RuleSpec {
    let name = RuleName::new("nobody").expect("a valid name");
    RuleSpec::new(name, RuleKind::Endpoints(EndpointsRule { down_for: Duration::MAX }))
}

pub(super) fn limits() -> Limits {
    Limits::of(&rule(), &Policy::default())
}
