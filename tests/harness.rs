//! The testbed's own test: what the other integration tests rely on, is so.

pub mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt,
    api::{LogParams, Patch, PatchParams},
};
use serde_json::json;
use support::{Chat, Cluster, Prometheus, Shop, Traffic, eventually, install_tls, now, real_parts};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_selector_and_readiness() {
    let Some(assets) = real_parts("endpoints_follow_the_selector_and_readiness", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = cluster.namespace("endpoints").await;
    let shop = Shop::open(&cluster, &namespace, "web", 2).await;

    shop.switch_to("green").await;
    assert_eq!(shop.selected().await, "green");
    cluster.set_ready(&namespace, "web-green", false);
    cluster.wait_ready(&namespace, "web-green", false).await;
    shop.wait_endpoints("green", 0).await;
    cluster.set_ready(&namespace, "web-green", true);
    shop.wait_endpoints("green", 2).await;

    let one = cluster.ready_endpoints(&namespace, &shop.active()).await[0].clone();
    cluster.set_ready(&namespace, &one, false);
    shop.wait_endpoints("green", 1).await;
    shop.release("blue", "registry.invalid/web:2.0").await;
    // A release is out once nothing else runs any more.
    let blue = cluster.pods(&namespace, "color=blue").await;
    let left = blue.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let images = left.flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers));
    let images: Vec<&str> = images.filter_map(|container| container.image.as_deref()).collect();
    assert_eq!(images, ["registry.invalid/web:2.0"; 2]);
    // A pod that was born a moment ago has no address yet.
    let addresses = eventually("an address for each pod of the release", SOON, async || {
        let mut blue = cluster.pods(&namespace, "color=blue").await;
        blue.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        let given: Option<Vec<String>> = blue.into_iter().map(|pod| pod.status?.pod_ip).collect();
        given.filter(|given| given.len() >= 2)
    })
    .await;
    for ip in addresses {
        assert!(shop.addresses().contains_key(&ip), "{ip} was not foretold");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_through_the_api_server() {
    let Some(assets) = real_parts("logs_come_through_the_api_server", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = cluster.namespace("logs").await;
    let _shop = Shop::open(&cluster, &namespace, "web", 1).await;
    let pod = cluster.pods(&namespace, "color=green").await.remove(0).name_any();
    let pods: Api<Pod> = Api::namespaced(cluster.admin().await, &namespace);

    let tail = LogParams {
        tail_lines: Some(2),
        ..LogParams::default()
    };
    assert_eq!(
        pods.logs(&pod, &tail).await.expect("logs"),
        format!("{pod}/app current line 99\n{pod}/app current line 100\n")
    );
    let bytes = LogParams {
        limit_bytes: Some(10),
        ..LogParams::default()
    };
    assert_eq!(pods.logs(&pod, &bytes).await.expect("logs").len(), 10);

    let previous = LogParams {
        previous: true,
        ..LogParams::default()
    };
    match pods.logs(&pod, &previous).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 400, "{status:?}"),
        other => panic!("a container that never restarted has no previous log: {other:?}"),
    }
    cluster.set_logs(&namespace, "web-green", "now\n", Some("panicked at checkout\n"));
    cluster.crash(&namespace, "web-green");
    cluster.wait_ready(&namespace, "web-green", false).await;
    assert_eq!(pods.logs(&pod, &previous).await.expect("previous logs"), "panicked at checkout\n");
    let statuses = pods
        .get(&pod)
        .await
        .expect("the pod")
        .status
        .and_then(|status| status.container_statuses)
        .expect("statuses");
    assert_eq!(statuses[0].restart_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_patched_what() {
    let Some(assets) = real_parts("the_audit_log_tells_who_patched_what", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = cluster.namespace("audit").await;
    let shop = Shop::open(&cluster, &namespace, "web", 1).await;
    cluster
        .apply_yaml(&format!(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: reader, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: reader, namespace: {namespace}}}
rules: [{{apiGroups: [''], resources: [services], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
subjects: [{{kind: ServiceAccount, name: reader, namespace: {namespace}}}]
"
        ))
        .await;
    let kubeconfig = cluster.kubeconfig_for_service_account(&namespace, "reader").await;
    let services: Api<Service> = Api::namespaced(cluster.client(&kubeconfig).await, &namespace);
    eventually("the role to be in force", SOON, async || services.get(&shop.active()).await.ok()).await;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    match services.patch(&shop.active(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403),
        other => panic!("a reader may not patch: {other:?}"),
    }

    let before = now();
    shop.switch_to("green").await;
    let asked = cluster.audit_of(&namespace, "reader");
    let refused: Vec<_> = asked.iter().filter(|event| event.is_write()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].code, refused[0].is_stored()), (403, false));
    let all = cluster.audit();
    let switched = all
        .iter()
        .find(|event| event.received >= before && event.is_stored() && event.is_on("services", &namespace, &shop.active()))
        .expect("the switch is on record");
    assert_eq!((switched.user.as_str(), switched.verb.as_str()), ("admin", "patch"));
    assert_eq!(switched.request, json!({"spec": {"selector": {"color": "green"}}}));
    assert_eq!(switched.response["spec"]["selector"], json!({"app": "web", "color": "green"}));
    assert!(switched.answered >= switched.received && switched.answered <= now());
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_sees_what_users_suffer() {
    let Some(assets) = real_parts("prometheus_sees_what_users_suffer", &["etcd", "prometheus"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = cluster.namespace("users").await;
    let shop = Shop::open(&cluster, &namespace, "web", 2).await;
    let mut prometheus = Prometheus::start(&shop.targets().await).await;
    let traffic = Traffic::start(&cluster, &namespace, &shop.active(), 50).await;
    traffic.wait_for("blue", 20, SOON).await;
    assert!(traffic.records().iter().all(|record| record.color.as_deref() != Some("green")));

    shop.set_errors("green", 0.5);
    let switched = now();
    shop.switch_to("green").await;
    let first_bad = eventually("a failed request", SOON, async || traffic.first_bad(switched)).await;
    assert_eq!((first_bad.status, first_bad.color.as_deref()), (Some(500), Some("green")));
    let bad = format!("sum by (pod) (http_requests_total{{namespace=\"{namespace}\",pod=~\"web-green-.+\",status=~\"5..\"}})");
    eventually("counted errors of both pods", SOON, async || {
        let series = prometheus.query(&bad).await;
        (series.len() == 2 && series.iter().all(|(_, count)| *count > 3.0)).then_some(())
    })
    .await;
    let le = prometheus.query("count by (le) (http_request_duration_seconds_bucket)").await;
    for bound in ["0.5", "1", "2", "+Inf"] {
        assert!(le.iter().any(|(labels, _)| labels["le"] == bound), "no bucket {bound} in {le:?}");
    }

    let back = now();
    shop.switch_to("blue").await;
    traffic.wait_for("blue", 20, SOON).await;
    shop.blue[0].take_down();
    eventually("a refused connection", SOON, async || {
        traffic
            .records()
            .iter()
            .find(|one| one.sent > back && one.status.is_none())
            .map(drop)
    })
    .await;
    eventually("a target that is down", SOON, async || {
        (prometheus.query("up == 0").await.len() == 1).then_some(())
    })
    .await;
    shop.blue[0].bring_up().await;
    eventually("no target that is down", SOON, async || {
        prometheus.query("up == 0").await.is_empty().then_some(())
    })
    .await;
    traffic.stop().await;

    prometheus.kill();
    assert!(reqwest::get(prometheus.url()).await.is_err());
    prometheus.restart().await;
    let kept = prometheus.query("max_over_time(http_requests_total{status=\"500\"}[5m])").await;
    assert!(!kept.is_empty(), "it forgot what it had scraped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_can_be_stopped_and_started() {
    let Some(assets) = real_parts("the_api_server_can_be_stopped_and_started", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::start(&assets).await;
    let admin = cluster.admin().await;
    let services: Api<Service> = Api::namespaced(admin, "default");
    cluster.stop_apiserver().await;
    let failed = tokio::time::timeout(Duration::from_secs(5), services.list(&kube::api::ListParams::default())).await;
    assert!(!matches!(failed, Ok(Ok(_))), "nobody can answer: {failed:?}");
    cluster.start_apiserver().await;
    eventually("an answer", SOON, async || {
        services.list(&kube::api::ListParams::default()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_writes_down_what_it_is_sent() {
    install_tls();
    let chat = Chat::start().await;
    let http = reqwest::Client::builder()
        .timeout(Duration::from_millis(500))
        .no_proxy()
        .build()
        .expect("a client");
    chat.set_status(503);
    let answer = http
        .post(chat.url("/slack"))
        .json(&json!({"text": "one"}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    chat.set_silent(true);
    assert!(http.post(chat.url("/slack")).json(&json!({"text": "two"})).send().await.is_err());
    chat.set_silent(false);
    chat.set_status(202);
    http.post(chat.url("/teams"))
        .bearer_auth("t")
        .json(&json!({"text": "three"}))
        .send()
        .await
        .expect("an answer");
    let got = chat.wait_for("the third", SOON, |delivery| delivery.path == "/teams").await;
    assert_eq!((got.status, got.authorization.as_str()), (202, "Bearer t"));
    let said: Vec<_> = chat.deliveries().iter().map(|delivery| delivery.body["text"].clone()).collect();
    assert_eq!(said, ["one", "two", "three"]);
}
