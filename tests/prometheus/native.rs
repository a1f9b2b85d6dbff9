//! Native histograms, exposed as protobuf and scraped by the real Prometheus. The few fields are encoded by hand.

use std::collections::BTreeMap;

use crate::*;

const FEATURE: &[&str] = &["--enable-feature=native-histograms"];

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("7 bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("7 bits"));
}

fn unsigned(field: u64, number: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(number, out);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn double(field: u64, number: f64, out: &mut Vec<u8>) {
    varint(field << 3 | 1, out);
    out.extend(number.to_le_bytes());
}

fn bytes(field: u64, inner: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(inner.len() as u64, out);
    out.extend(inner);
}

/// A histogram of requests by bucket: bucket `n` of `schema` reaches from `2^((n-1)/2^schema)` to `2^(n/2^schema)`.
fn histogram(schema: i64, counts: &BTreeMap<i64, i64>) -> Vec<u8> {
    let mut out = Vec::new();
    let total: i64 = counts.values().sum();
    unsigned(1, total.cast_unsigned(), &mut out);
    double(2, 1.0, &mut out);
    unsigned(5, zigzag(schema), &mut out);
    double(6, 1e-128, &mut out);
    unsigned(7, 0, &mut out);
    let (mut next, mut deltas, mut last) = (0, Vec::new(), 0);
    for (position, (index, count)) in counts.iter().enumerate() {
        // One span per bucket: where it begins, counted from the end of the one before.
        let mut span = Vec::new();
        unsigned(1, zigzag(if position == 0 { *index } else { index - next }), &mut span);
        unsigned(2, 1, &mut span);
        bytes(12, &span, &mut out);
        varint(zigzag(count - last), &mut deltas);
        (next, last) = (index + 1, *count);
    }
    bytes(13, &deltas, &mut out);
    out
}

/// A delimited family with one histogram per path.
fn family(name: &str, histograms: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut inner = Vec::new();
    bytes(1, name.as_bytes(), &mut inner);
    unsigned(3, 4, &mut inner);
    for (path, histogram) in histograms {
        let (mut label, mut metric) = (Vec::new(), Vec::new());
        bytes(1, b"path", &mut label);
        bytes(2, path.as_bytes(), &mut label);
        bytes(1, &label, &mut metric);
        bytes(7, histogram, &mut metric);
        bytes(4, &metric, &mut inner);
    }
    let mut out = Vec::new();
    varint(inner.len() as u64, &mut out);
    out.extend(inner);
    out
}

const METRIC: &str = "http_request_duration_seconds";

fn latency(name: &str, threshold: f64, kind: Histogram) -> RuleSpec {
    let suffix = match kind {
        Histogram::Classic => "_bucket",
        Histogram::Native => "",
    };
    RuleSpec::new(
        RuleName::new(name).expect("a name"),
        RuleKind::Latency(LatencyRule {
            quantile: 0.95,
            threshold: Duration::from_secs_f64(threshold),
            unit: TimeUnit::Seconds,
            buckets: format!("{METRIC}{suffix}{{namespace=\"{{namespace}}\",pod=~\"{{deployment}}-.+\"}}"),
            histogram: kind,
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_exact_at_a_bound_and_within_a_buckets_width_elsewhere() {
    let Some(binary) = prometheus("native_shares") else { return };
    let world = World::start_with(&binary, &[A, B], FEATURE).await;
    let mut guard = guard("web");
    guard.rules = vec![latency("exact", 1.0, Histogram::Native), latency("within", 1.3, Histogram::Native)];
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    // Schema 0: 0.25-0.5 s, 0.5-1 s, 1-2 s, 2-4 s; an idle path, and one with another resolution (8 buckets per power of two).
    let expose = |n: i64| {
        let coarse = histogram(0, &BTreeMap::from([(-1, 20 * n), (0, 50 * n), (1, 30 * n)]));
        let fine = histogram(3, &BTreeMap::from([(-3, 7 * n), (8, 3 * n)]));
        world.expose_protobuf(
            A,
            family(METRIC, &[("/a", coarse), ("/idle", histogram(0, &BTreeMap::new())), ("/c", fine)]),
        );
        world.expose_protobuf(B, family(METRIC, &[("/a", histogram(0, &BTreeMap::new()))]));
    };
    expose(1);
    world.until(&format!("sum(histogram_count({METRIC}))"), "110").await;
    world.until(&format!("count(histogram_count({METRIC}))"), "4").await;
    let first = look(&observer, guards).await;
    expose(3);
    world.until(&format!("sum(histogram_count({METRIC}))"), "330").await;
    let second = look(&observer, guards).await;
    for (readings, n) in [(&first, 1.0), (&second, 3.0)] {
        let exact = counters(&pick(readings, &guard, "exact"));
        let slow = exact[A].bad.expect("known");
        assert!(
            (exact[A].total - 110.0 * n).abs() < 1e-9 && (slow - 33.0 * n).abs() < 1e-9,
            "{exact:?}"
        );
        // A target without requests is there, with nothing slow.
        assert_eq!((exact[B].total.abs() < 1e-9, exact[B].bad), (true, Some(0.0)));
        // 1.3 s lies in the bucket of 1 to 2 s, which holds 30 of /a; of /c all 3 are over 1.8 s.
        let within = counters(&pick(readings, &guard, "within"))[A].bad.expect("known");
        assert!((3.0 * n..=33.0 * n).contains(&within) && within < 33.0 * n - 1.0, "{within}");
    }
    let Reading::Counters { sample_at, .. } = pick(&second, &guard, "exact") else {
        panic!("no counters")
    };
    assert!(now().duration_since(sample_at).as_secs_f64() < 10.0);
    let reports = observer.inspect(&guard.id, now()).await;
    let blue = |rule: &str| {
        let found = reports
            .iter()
            .find(|report| report.rule.as_str() == rule && report.color.as_str() == "blue");
        found.expect("a report")
    };
    assert!(
        blue("exact").value.as_ref().is_some_and(|value| value.contains("slower than 1 s")),
        "{:?}",
        blue("exact")
    );
    assert!(blue("exact").warnings.iter().all(|warning| !warning.contains("power of two")));
    assert!(
        blue("within")
            .warnings
            .iter()
            .any(|warning| warning.contains("a threshold such as 1 is exact")),
        "{:?}",
        blue("within")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolution_that_changes_is_neither_a_restart_nor_slow_requests() {
    let Some(binary) = prometheus("native_resolution") else { return };
    let world = World::start_with(&binary, &[A], FEATURE).await;
    let mut guard = guard("web");
    guard.rules = vec![latency("p95", 1.3, Histogram::Native)];
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let expose = |schema: i64, counts: &[(i64, i64)]| {
        let counts = counts.iter().copied().collect();
        world.expose_protobuf(A, family(METRIC, &[("/", histogram(schema, &counts))]));
    };
    let seen = || async { counters(&pick(&look(&observer, guards).await, &guard, "p95"))[A] };
    // 1000 requests of 1 to 1.19 s (schema 2, bucket 1): none is slower than 1.3 s.
    expose(2, &[(1, 1000)]);
    world.until(&format!("sum(histogram_count({METRIC}))"), "1000").await;
    let first = seen().await.bad.expect("known");
    assert!(first < 1e-6, "{first}");
    // The same, merged into 1 to 2 s, and 10 more: by interpolation hundreds are slow, and no more than 10 can have become so.
    expose(0, &[(1, 1010)]);
    world.until(&format!("sum(histogram_count({METRIC}))"), "1010").await;
    let merged = seen().await;
    let bad = merged.bad.expect("known");
    assert!((0.0..=10.0).contains(&bad), "{merged:?}");
    // Finer again: the estimate falls, what was told does not.
    expose(2, &[(1, 1020)]);
    world.until(&format!("sum(histogram_count({METRIC}))"), "1020").await;
    let fine = seen().await;
    assert!(fine.bad.is_some_and(|now| now >= bad - 1e-9), "{fine:?} after {merged:?}");
    // A restart counts from what the new process has.
    expose(2, &[(4, 6)]);
    world.until(&format!("sum(histogram_count({METRIC}))"), "6").await;
    let reborn = seen().await;
    assert!(reborn.bad.is_some_and(|bad| (bad - 6.0).abs() < 1e-6), "{reborn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_form_of_histogram_is_named_with_what_to_set() {
    let Some(binary) = prometheus("native_or_classic") else { return };
    const GREEN: &str = "web-green-5d4f-aaaaa";
    let world = World::start_with(&binary, &[A, GREEN], FEATURE).await;
    world.expose_protobuf(A, family(METRIC, &[("/", histogram(0, &BTreeMap::from([(0, 5)])))]));
    world.expose(GREEN, &buckets("1", 90, 100));
    world.until(&format!("count({METRIC}_bucket{{le='+Inf'}})"), "1").await;
    world.until(&format!("count(histogram_count({METRIC}))"), "1").await;
    let mut guard = guard("web");
    guard.rules = vec![
        latency("classic", 1.0, Histogram::Classic),
        latency("native", 1.0, Histogram::Native),
    ];
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let readings = look(&observer, guards).await;
    let of = |color: &str, rule: &str| {
        let color = Color::new(color).expect("a name");
        readings[&guard.id][&color][&RuleName::new(rule).expect("a name")].clone()
    };
    let why = |reading: Reading| match reading {
        Reading::Absent(Absence::Error(why)) => why,
        other => panic!("{other:?}"),
    };
    let native_only = why(of("blue", "classic"));
    assert!(
        native_only.contains("set histogram = \"native\"") && native_only.contains(METRIC),
        "{native_only}"
    );
    let classic_only = why(of("green", "native"));
    assert!(
        classic_only.contains("set histogram = \"classic\"") && classic_only.contains("_bucket{"),
        "{classic_only}"
    );
    assert!(matches!(of("blue", "native"), Reading::Counters { .. }));
    assert!(matches!(of("green", "classic"), Reading::Counters { .. }));
    let reports = observer.inspect(&guard.id, now()).await;
    let report = |color: &str, rule: &str| {
        let found = reports.iter().find(|one| one.color.as_str() == color && one.rule.as_str() == rule);
        found.and_then(|one| one.absent.clone()).expect("absent").to_string()
    };
    assert_eq!(report("blue", "classic"), native_only);
    assert_eq!(report("green", "native"), classic_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_native_histogram_are_evidence() {
    let Some(binary) = prometheus("native_ranges") else { return };
    let world = World::start_with(&binary, &[A], FEATURE).await;
    let mut guard = guard("web");
    guard.rules = vec![latency("p95", 1.0, Histogram::Native)];
    let (observer, _) = world.observer(std::slice::from_ref(&guard));
    let began = now();
    for n in 1..=8_i64 {
        let counts = BTreeMap::from([(0, 30 * n), (1, 10 * n)]);
        world.expose_protobuf(A, family(METRIC, &[("/", histogram(0, &counts))]));
        world.until(&format!("histogram_count({METRIC})"), &(40 * n).to_string()).await;
    }
    let series = observer
        .range(&guard.id, began, now(), Duration::from_secs(1))
        .await
        .expect("answered");
    let last = |what: &str| {
        let found = series.iter().find(|one| one.color.as_str() == "blue" && one.name == what);
        found.and_then(|one| one.points.last().copied()).expect("points").1
    };
    assert!((last("share") - 0.25).abs() < 1e-6, "{}", last("share"));
    assert!(last("total") > 1.0 && (1.0..=2.0).contains(&last("p95")));
}
