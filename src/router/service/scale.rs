//! More replicas for a color that is to take over and cannot yet.
//!
//! One compare-and-swap of the Deployment's scale, never a write of the Deployment: the right to scale is not the right to
//! change what runs. It only ever raises. What was raised is not lowered again by us: whoever keeps a standby scaled down
//! knows when it may be so again.
//!
//! An autoscaler's bounds go before what was asked for: fewer than its minimum it would correct within seconds, more than its
//! maximum it would take away again. An autoscaler whose Deployment has 0 replicas is switched off, by its own definition;
//! raising the replicas switches it on.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::{
            v1::{Scale, ScaleSpec},
            v2::HorizontalPodAutoscaler,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use super::{
    super::{Autoscaler, RouterError, Scaled},
    MANAGER, ServiceRouter, within,
};
use crate::{
    cluster::{Fault, FaultKind},
    model::Color,
};

/// Updates sent at most: a controller writes the Deployment's status while it scales, each time with a new version.
const ATTEMPTS: u32 = 4;
/// Autoscalers of a namespace that are looked through.
const AUTOSCALERS_MAX: u32 = 500;

impl ServiceRouter {
    /// Asks for at least `wanted` replicas of a color. Repeated, it finds what it did and does nothing.
    pub(super) async fn raise(&self, color: &Color, wanted: u32) -> Result<Scaled, RouterError> {
        let attempted = "scale up";
        let Some(name) = self.spec.colors.get(color).and_then(|side| side.deployment.as_deref()) else {
            return Err(RouterError::NoDeployment {
                object: self.object.clone(),
                color: color.clone(),
            });
        };
        let object = format!("Deployment \"{}/{name}\"", self.spec.namespace);
        let failed = |fault| RouterError::of(attempted, &object, fault);
        let api: Api<Deployment> = Api::namespaced(self.writes(attempted)?, &self.spec.namespace);
        let autoscaler = self.autoscaler(name).await;
        let wanted = autoscaler.as_ref().map_or(wanted, |autoscaler| autoscaler.within(wanted));
        let mut refused = Fault::deadline(Duration::ZERO);
        for _ in 0..ATTEMPTS {
            let deployment = within(self.cluster.flip_timeout(), api.get(name)).await.map_err(failed)?;
            let from = replicas(&deployment);
            if from >= wanted {
                return Ok(Scaled::Enough { replicas: from });
            }
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            let scale = scale(&deployment, wanted);
            match within(self.cluster.flip_timeout(), api.replace_scale(name, &params, &scale)).await {
                Ok(_) => {
                    return Ok(Scaled::Up {
                        from,
                        to: wanted,
                        autoscaler,
                    });
                }
                // Each round reads first, and is done when there are enough.
                Err(fault) if matches!(fault.kind, FaultKind::Conflict | FaultKind::Busy) => refused = fault,
                // Nobody knows whether it was carried out: who would say that it was not looks first. More than was asked for is
                // somebody else's doing.
                Err(fault) if matches!(fault.kind, FaultKind::Server | FaultKind::Timeout | FaultKind::Lost) => {
                    let to = within(self.cluster.flip_timeout(), api.get(name)).await.map(|now| replicas(&now));
                    return match to {
                        Ok(to) if to == wanted => Ok(Scaled::Up { from, to, autoscaler }),
                        Ok(replicas) if replicas > wanted => Ok(Scaled::Enough { replicas }),
                        _ => Err(failed(fault)),
                    };
                }
                Err(fault) => return Err(failed(fault)),
            }
        }
        Err(failed(refused))
    }

    /// The autoscaler of a Deployment. One that cannot be read does not stand before a rollback: it corrects us itself.
    async fn autoscaler(&self, deployment: &str) -> Option<Autoscaler> {
        let client = self.reads("read the autoscalers of").ok()?;
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(client, &self.spec.namespace);
        let params = ListParams::default().limit(AUTOSCALERS_MAX);
        match within(self.cluster.flip_timeout(), api.list(&params)).await {
            Ok(list) => list.items.iter().find_map(|one| bounds(one, deployment)),
            Err(error) => {
                tracing::warn!(guard = %self.spec.id, %error, "Autoscalers not read before scaling up: their bounds are not known");
                None
            }
        }
    }
}

/// The bounds of an autoscaler, if it is this Deployment's.
fn bounds(autoscaler: &HorizontalPodAutoscaler, deployment: &str) -> Option<Autoscaler> {
    let spec = autoscaler.spec.as_ref()?;
    let target = &spec.scale_target_ref;
    let own = target.kind == "Deployment" && target.name == deployment;
    own.then(|| Autoscaler {
        name: autoscaler.metadata.name.clone().unwrap_or_default(),
        min: spec.min_replicas.and_then(|min| u32::try_from(min).ok()).unwrap_or(1),
        max: u32::try_from(spec.max_replicas).unwrap_or(u32::MAX),
    })
}

/// What a Deployment asks for; Kubernetes reads nothing as one.
fn replicas(deployment: &Deployment) -> u32 {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    replicas.map_or(1, |replicas| u32::try_from(replicas).unwrap_or_default())
}

/// The scale that is wanted, of the Deployment that was read: its version makes the update a compare-and-swap.
fn scale(deployment: &Deployment, replicas: u32) -> Scale {
    let metadata = &deployment.metadata;
    Scale {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec {
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn autoscaler(min: Option<i32>, kind: &str, name: &str) -> HorizontalPodAutoscaler {
        let target = json!({"apiVersion": "apps/v1", "kind": kind, "name": name});
        let spec = json!({"minReplicas": min, "maxReplicas": 6, "scaleTargetRef": target});
        serde_json::from_value(json!({"metadata": {"name": "hpa"}, "spec": spec})).expect("an autoscaler")
    }

    #[test]
    fn an_autoscalers_bounds_go_before_what_was_asked_for() {
        let own = bounds(&autoscaler(Some(3), "Deployment", "web-blue"), "web-blue").expect("its own");
        assert_eq!([1, 4, 9].map(|wanted| own.within(wanted)), [3, 4, 6]);
        let without = bounds(&autoscaler(None, "Deployment", "web-blue"), "web-blue").expect("its own");
        assert_eq!(without.within(1), 1, "Kubernetes reads no minimum as one");
        assert!(bounds(&autoscaler(Some(3), "Deployment", "web-green"), "web-blue").is_none());
        assert!(bounds(&autoscaler(Some(3), "StatefulSet", "web-blue"), "web-blue").is_none());
    }

    #[test]
    fn the_scale_is_that_of_the_deployment_that_was_read() {
        let read = json!({"metadata": {"name": "web-blue", "uid": "u", "resourceVersion": "7"}, "spec": {"selector": {}, "template": {}}});
        let scale = scale(&serde_json::from_value(read).expect("a Deployment"), 3);
        assert_eq!(
            scale.metadata.resource_version.as_deref(),
            Some("7"),
            "a change in between makes it fail"
        );
        assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(3));
    }
}
