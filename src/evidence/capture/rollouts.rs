//! Argo Rollouts: where what runs a color belongs to one, its manifest and those of the analyses that it ran. They are asked for there
//! and nowhere else, so that nobody without Argo needs a right for them.

use std::collections::BTreeSet;

use futures::future::join_all;
use kube::{api::ApiResource, core::GroupVersionKind};
use serde_json::Value;

use super::{Capture, list_of};
use crate::{evidence::plan, model::file_segment};

/// Argo's group and version, stable since 2019.
const GROUP: &str = "argoproj.io";
const VERSION: &str = "v1alpha1";

/// A kind of Argo's, with its plural.
fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural)
}

/// The Rollouts that an object belongs to.
fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let of_argo = |reference: &&Value| {
        let group = reference["apiVersion"].as_str().and_then(|version| version.split('/').next());
        reference["kind"] == "Rollout" && group == Some(GROUP)
    };
    references.filter(of_argo).filter_map(|reference| reference["name"].as_str())
}

/// The Rollouts that any of these objects belong to.
pub(super) fn rollouts_of<'o>(objects: impl Iterator<Item = &'o Value>) -> BTreeSet<String> {
    objects.flat_map(owners).map(str::to_owned).collect()
}

impl Capture<'_> {
    /// Captures these Rollouts and what was analysed for them.
    pub(super) async fn rollouts(&self, names: &BTreeSet<String>) {
        if names.is_empty() {
            return;
        }
        let of = resource("Rollout", "rollouts");
        let each = join_all(names.iter().map(|name| self.object(&of, name)));
        tokio::join!(each, self.analysis_runs(names));
    }

    async fn analysis_runs(&self, names: &BTreeSet<String>) {
        let of = resource("AnalysisRun", "analysisruns");
        let ours = |run: &Value| owners(run).any(|owner| names.contains(owner));
        let file = format!("{}manifests/analysisruns.json", self.plan.place);
        let read = async {
            let (mut found, more) = self.look_through(&of, ours, |found| found).await?;
            if !found.is_empty() {
                found.sort_by_cached_key(|run| (run["metadata"]["creationTimestamp"].to_string(), file_segment(plan::name_of(run))));
                self.shelf.put_json(&file, &list_of(found)).await?;
            }
            Ok(more)
        };
        if self.progress.run(&file, std::time::Duration::ZERO, read).await == Some(true) {
            self.progress.fail(&file, "the namespace has too many of them to look through all");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_argos_own_rollouts_are_owners() {
        let owned = |api_version: &str, kind: &str, name: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": api_version, "kind": kind, "name": name}]}});
        let objects = [
            owned("argoproj.io/v1alpha1", "Rollout", "web"),
            owned("argoproj.io/v1alpha1", "Rollout", "web"),
            owned("apps/v1", "Deployment", "api"),
            owned("rollouts.example/v1", "Rollout", "theirs"),
            json!({"metadata": {}}),
        ];
        assert_eq!(rollouts_of(objects.iter()), BTreeSet::from(["web".to_owned()]));
    }
}
