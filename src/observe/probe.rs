//! HTTP probes of a color's pods: GET, a range of good statuses, a text the body must hold.
//!
//! Ready endpoints are asked. Those that are not Ready are asked only when there is no Ready one: a pod that is still starting fails its
//! probes by design, gets no traffic, and says nothing about the release. No endpoint at all is no failed probe but an absence, which
//! the endpoints rule judges. A probe that our own deadline cut short is not a failed one: it is left out.
//!
//! Pods are asked at their address, never through the Service, without following redirects and never through a proxy. A path that starts
//! with `https:` (`https:/health`) is asked over TLS without verifying the certificate, as the kubelet does: no certificate names a pod's
//! address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use futures::{StreamExt, stream};
use http::header::HOST;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{UNWATCHED, plan::Address};
use crate::{
    metrics::Metrics,
    model::{Absence, Endpoint, ProbeRule, Reading, Side},
};

/// Probes under way at once: enough that one guard's hanging pods do not delay the others', far below the limit on open files.
const CONCURRENCY: usize = 256;

/// Bytes of a body that are searched for the expected text.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Pause before the first further attempt, before jitter.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Asks pods.
#[derive(Debug)]
pub(super) struct Prober {
    client: reqwest::Client,
    resolve: BTreeMap<String, SocketAddr>,
    metrics: Metrics,
}

/// One probe rule on one color of one guard.
#[derive(Debug)]
pub(super) struct Round<'a> {
    /// Which reading it makes.
    pub at: Address,
    /// How to ask.
    pub rule: &'a ProbeRule,
    /// Whom to ask; `None`: the route cannot be read.
    pub side: Option<&'a Side>,
}

/// What became of one endpoint's probe.
#[derive(Debug, PartialEq)]
enum Probed {
    Good,
    Failed(String),
    /// Our own deadline came first.
    Unfinished,
    /// There is no way to ask, which is no fault of the pod.
    Unaskable(String),
}

impl Prober {
    /// Makes the client. `resolve` sends probes of an address (`ip`) or of one of its ports (`ip:port`) elsewhere.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(resolve: BTreeMap<String, SocketAddr>, metrics: Metrics) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("flipback-probe/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            // A probe must see a pod that no longer accepts connections.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, resolve, metrics })
    }

    /// Runs all rounds at once, at most until `deadline`.
    pub(super) async fn probe(&self, rounds: &[Round<'_>], now: Timestamp, deadline: Instant) -> BTreeMap<Address, Reading> {
        let budget = deadline.saturating_duration_since(Instant::now());
        // The futures are made in a loop: a closure over references keeps the whole look from being `Send`.
        let mut asked = Vec::new();
        for (index, round) in rounds.iter().enumerate() {
            let max = usize::try_from(round.rule.endpoints_max).unwrap_or(usize::MAX);
            for endpoint in round
                .side
                .filter(|side| !side.unwatched)
                .map_or(&[][..], endpoints)
                .iter()
                .take(max)
            {
                asked.push(self.endpoint(index, round.rule, endpoint, deadline));
            }
        }
        let mut results: Vec<Vec<Probed>> = rounds.iter().map(|_| Vec::new()).collect();
        let mut running = stream::iter(asked).buffer_unordered(CONCURRENCY);
        while let Some((index, probed)) = running.next().await {
            if let Some(results) = results.get_mut(index) {
                results.push(probed);
            }
        }
        let readings = rounds.iter().zip(results).map(|(round, results)| {
            self.count(&round.at, &results);
            (round.at.clone(), reading(round, &results, now, budget))
        });
        readings.collect()
    }

    fn count(&self, at: &Address, results: &[Probed]) {
        for probed in results {
            let word = match probed {
                Probed::Good => "ok",
                Probed::Failed(_) => "failed",
                Probed::Unfinished | Probed::Unaskable(_) => continue,
            };
            self.metrics.probes.with_label_values(&[at.guard.as_str(), word]).inc();
        }
    }

    /// Asks one endpoint of the round with this index.
    async fn endpoint(&self, index: usize, rule: &ProbeRule, endpoint: &Endpoint, deadline: Instant) -> (usize, Probed) {
        (index, self.persist(rule, endpoint, deadline).await)
    }

    /// Asks one endpoint, with retries.
    async fn persist(&self, rule: &ProbeRule, endpoint: &Endpoint, deadline: Instant) -> Probed {
        let (url, host) = match self.target(rule, endpoint) {
            Ok(target) => target,
            Err(why) => return Probed::Unaskable(why),
        };
        let mut last = None;
        let attempts = async {
            let attempt = || async {
                self.attempt(rule, &url, &host)
                    .await
                    .map_err(|why| format!("pod {} ({}): {why}", endpoint.pod, endpoint.address))
            };
            let policy = ExponentialBuilder::default()
                .with_min_delay(RETRY_PAUSE)
                .with_max_delay(Duration::from_secs(1))
                .with_max_times(usize::try_from(rule.retries).unwrap_or(usize::MAX))
                .with_jitter();
            attempt.retry(policy).notify(|why, _| last = Some(why.clone())).await
        };
        match tokio::time::timeout_at(deadline, attempts).await {
            Ok(Ok(())) => Probed::Good,
            Ok(Err(why)) => Probed::Failed(why),
            // At least one whole attempt has failed: what was cut short are its retries.
            Err(_) => last.map_or(Probed::Unfinished, Probed::Failed),
        }
    }

    async fn attempt(&self, rule: &ProbeRule, url: &url::Url, host: &str) -> Result<(), String> {
        let request = async {
            let response = self.client.get(url.clone()).header(HOST, host).send().await.map_err(why)?;
            let status = response.status().as_u16();
            let (low, high) = rule.status;
            if !(low..=high).contains(&status) {
                return Err(format!("status {status}, expected {low} to {high}"));
            }
            match &rule.body_contains {
                Some(text) if !holds(response, text).await? => Err(format!("the body does not contain {text:?}")),
                _ => Ok(()),
            }
        };
        match tokio::time::timeout(rule.timeout, request).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(rule.timeout))),
        }
    }

    /// The URL to ask and the `Host` to claim.
    fn target(&self, rule: &ProbeRule, endpoint: &Endpoint) -> Result<(url::Url, String), String> {
        let port = rule
            .port
            .or(endpoint.port)
            .ok_or("no port is known: set the probe's `port`, since the Service targets none that can be read")?;
        let host = match endpoint.address.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            _ => format!("{}:{port}", endpoint.address),
        };
        let overridden = self.resolve.get(&host).or_else(|| self.resolve.get(&endpoint.address));
        let to = overridden.map_or_else(|| host.clone(), ToString::to_string);
        let (scheme, path) = match rule.path.strip_prefix("https:") {
            Some(path) => ("https", path),
            None => ("http", rule.path.as_str()),
        };
        let url = format!("{scheme}://{to}/{}", path.trim_start_matches('/'));
        match url::Url::parse(&url) {
            Ok(url) => Ok((url, host)),
            Err(_) => Err(format!("{url} is no URL: check the probe's `path`")),
        }
    }
}

/// Whom to ask of a color.
fn endpoints(side: &Side) -> &[Endpoint] {
    if side.endpoints.is_empty() {
        &side.unready
    } else {
        &side.endpoints
    }
}

/// Whether the first bytes of a body hold a text.
async fn holds(mut response: reqwest::Response, text: &str) -> Result<bool, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(why)? {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_BYTES_MAX {
            body.truncate(BODY_BYTES_MAX);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).contains(text))
}

/// A failed request in few words; the address is named elsewhere.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn why(error: reqwest::Error) -> String {
    let innermost = std::iter::successors(std::error::Error::source(&error), |&error| error.source()).last();
    let what = if error.is_connect() {
        "cannot connect"
    } else {
        "the request failed"
    };
    match innermost {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    }
}

/// What a round tells, when it was given `budget`.
fn reading(round: &Round<'_>, results: &[Probed], now: Timestamp, budget: Duration) -> Reading {
    let Some(side) = round.side else {
        return Reading::Absent(Absence::Error("the route cannot be read, so there is nobody to probe".to_owned()));
    };
    // A pod that was replaced meanwhile does not answer at its old address, and is not down.
    if side.unwatched {
        return Reading::Absent(Absence::Error(UNWATCHED.to_owned()));
    }
    if results.is_empty() {
        return Reading::Absent(Absence::Empty);
    }
    let (mut good, mut unaskable, mut failures) = (0, None, Vec::new());
    for probed in results {
        match probed {
            Probed::Good => good += 1,
            Probed::Failed(why) => failures.push(why),
            Probed::Unaskable(why) => unaskable = Some(why),
            Probed::Unfinished => {}
        }
    }
    let counted = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match (good + failures.len(), unaskable) {
        (0, Some(why)) => Reading::Absent(Absence::Error(why.clone())),
        (0, None) if round.rule.timeout >= budget => Reading::Absent(Absence::Error(format!(
            "the probe's timeout of {} is longer than the {} one look may take: shorten it, or poll less often",
            humantime::format_duration(round.rule.timeout),
            humantime::format_duration(Duration::from_millis(u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)))
        ))),
        (0, None) => Reading::Absent(Absence::Timeout),
        (asked, _) => Reading::Probes {
            sample_at: now,
            asked: counted(asked),
            failed: counted(failures.len()),
            // The first by name, so that the same failure reads the same at each poll.
            detail: failures.into_iter().min().cloned(),
        },
    }
}
