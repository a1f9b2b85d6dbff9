//! Which rights leading needs, and whether the account has them: asked by `flipback check`, before a leader is missing.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

use super::super::{Cluster, ClusterError, Fault};
use crate::model::settings::ReplicaSettings;

/// What is done to each Lease, and to the one in which replicas announce themselves.
const LEAD: [&str; 2] = ["get", "update"];
const ANNOUNCE: &str = "patch";

/// Why the rights could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// There is no client.
    #[error("failed to ask for rights on Leases: the cluster is not connected")]
    NotConnected(#[source] ClusterError),
    /// The API server did not say.
    #[error("failed to ask for rights on Leases")]
    Failed(#[source] Fault),
}

/// The rights that leading needs and the account lacks, such as `update leases.coordination.k8s.io flipback-shard-0`.
///
/// # Errors
/// [`RightsError`] when they cannot be asked for.
pub async fn lacking(cluster: &Arc<Cluster>, settings: &ReplicaSettings) -> Result<Vec<String>, RightsError> {
    let client = cluster.reads().map_err(RightsError::NotConnected)?;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    let asked = needed(settings).into_iter().map(|(verb, lease)| {
        let reviews = reviews.clone();
        let namespace = settings.namespace.clone();
        async move {
            let allowed = ask(&reviews, namespace, verb, lease.clone(), cluster.read_timeout()).await?;
            let lease = lease.map(|lease| format!(" {lease}")).unwrap_or_default();
            Ok((!allowed).then(|| format!("{verb} leases.coordination.k8s.io{lease}")))
        }
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

/// Each verb with the Lease that it is for; `None`: one that does not exist yet, which no Role can name.
fn needed(settings: &ReplicaSettings) -> Vec<(&'static str, Option<String>)> {
    let shards = (0..settings.shards).map(|shard| format!("{}-shard-{shard}", settings.name));
    let mut needed = vec![("create", None), (ANNOUNCE, Some(format!("{}-members", settings.name)))];
    needed.extend(shards.flat_map(|lease| LEAD.map(|verb| (verb, Some(lease.clone())))));
    needed
}

async fn ask(
    reviews: &Api<SelfSubjectAccessReview>,
    namespace: String,
    verb: &str,
    lease: Option<String>,
    deadline: Duration,
) -> Result<bool, RightsError> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace),
                verb: Some(verb.to_owned()),
                group: Some("coordination.k8s.io".to_owned()),
                resource: Some("leases".to_owned()),
                name: lease,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = tokio::time::timeout(deadline, reviews.create(&PostParams::default(), &review)).await;
    let answer = answer.map_err(|_| RightsError::Failed(Fault::deadline(deadline)))?;
    let answer = answer.map_err(|error| RightsError::Failed(Fault::from(&error)))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
