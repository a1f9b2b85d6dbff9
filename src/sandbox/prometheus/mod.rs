//! A stand-in for Prometheus: it scrapes the pods for real and answers the queries flipback sends.
//!
//! It knows a small, honest part of PromQL (`syntax`, `evaluate`); anything else is `bad_data`, never a guess. Series
//! carry the labels of a pod target: `job`, `namespace`, `pod`, `instance`.

mod evaluate;
mod exposition;
mod samples;
mod serve;
mod syntax;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use self::samples::{Labels, Samples};
use super::{
    api::{
        Api,
        kinds::{PODS, text},
    },
    clock,
    listen::{Ending, Listening},
    node::{Network, PORT},
};

/// An exposition longer than this is not read: the applications' have some kilobytes.
const EXPOSITION_BYTES_MAX: usize = 1024 * 1024;

/// The server and its scrape loop. Stopped, it neither answers nor scrapes; its samples stay, as on a disk.
#[derive(Debug)]
pub(super) struct Prometheus {
    api: Api,
    network: Network,
    every: Duration,
    samples: Arc<Mutex<Samples>>,
    address: SocketAddr,
    running: Option<(Listening, CancellationToken)>,
}

impl Prometheus {
    /// Starts listening and scraping.
    pub(super) async fn start(api: Api, network: Network, every: Duration) -> io::Result<Self> {
        let mut made = Self {
            api,
            network,
            every,
            samples: Arc::default(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            running: None,
        };
        made.resume().await?;
        Ok(made)
    }

    /// Where it listens, or would.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is scraped, and under which labels.
    pub(super) fn targets(&self) -> Vec<(Labels, SocketAddr)> {
        targets(&self.api, &self.network)
    }

    /// Dies: the port refuses, nothing is scraped.
    pub(super) async fn stop(&mut self) {
        if let Some((server, scraping)) = self.running.take() {
            scraping.cancel();
            server.stop().await;
        }
    }

    /// Comes back under the same address.
    pub(super) async fn resume(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let server = Listening::start(self.address, serve::router(self.samples.clone()), Ending::Abrupt).await?;
        self.address = server.address();
        let stop = CancellationToken::new();
        let scraper = Scraper {
            api: self.api.clone(),
            network: self.network.clone(),
            every: self.every,
            samples: self.samples.clone(),
            known: BTreeMap::new(),
        };
        tokio::spawn(scraper.run(stop.clone()));
        self.running = Some((server, stop));
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Some((_, scraping)) = &self.running {
            scraping.cancel();
        }
    }
}

struct Scraper {
    api: Api,
    network: Network,
    every: Duration,
    samples: Arc<Mutex<Samples>>,
    /// The series of each target's last scrape, to tell which are gone.
    known: BTreeMap<Labels, BTreeSet<Labels>>,
}

impl Scraper {
    async fn run(mut self, stop: CancellationToken) {
        let Ok(client) = reqwest::Client::builder()
            .no_proxy()
            .timeout(self.every.max(Duration::from_millis(500)))
            .build()
        else {
            return;
        };
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.round(&client).await,
            }
        }
    }

    async fn round(&mut self, client: &reqwest::Client) {
        let targets = targets(&self.api, &self.network);
        let at = clock::now().as_millisecond();
        let scrapes = targets.iter().map(|(_, to)| scrape(client, *to));
        let answers = futures::future::join_all(scrapes).await;
        let gone: Vec<Labels> = self
            .known
            .keys()
            .filter(|known| !targets.iter().any(|(target, _)| target == *known))
            .cloned()
            .collect();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for ((target, _), answer) in targets.iter().zip(answers) {
            let up = answer.is_some();
            let mut seen: BTreeMap<Labels, f64> = BTreeMap::new();
            for (mut labels, value) in answer.unwrap_or_default() {
                labels.extend(target.clone());
                seen.insert(labels, value);
            }
            store(&mut samples, self.known.get(target), &seen, at);
            samples.add(&up_series(target), at, Some(f64::from(u8::from(up))));
            self.known.insert(target.clone(), seen.into_keys().collect());
        }
        for target in gone {
            store(&mut samples, self.known.get(&target), &BTreeMap::new(), at);
            samples.add(&up_series(&target), at, None);
            self.known.remove(&target);
        }
    }
}

/// Every pod that runs, Ready or not, as Prometheus' own discovery has it.
fn targets(api: &Api, network: &Network) -> Vec<(Labels, SocketAddr)> {
    let pods = api.read(|store| store.all(&PODS).cloned().collect::<Vec<_>>());
    pods.iter()
        .filter_map(|pod| {
            let address = text(pod, &["status", "podIP"]);
            let to = network.resolve(address)?;
            let labels = [
                ("job", text(pod, &["metadata", "labels", "app"]).to_owned()),
                ("namespace", text(pod, &["metadata", "namespace"]).to_owned()),
                ("pod", text(pod, &["metadata", "name"]).to_owned()),
                ("instance", format!("{address}:{PORT}")),
            ];
            Some((labels.map(|(label, value)| (label.to_owned(), value)).into(), to))
        })
        .collect()
}

fn up_series(target: &Labels) -> Labels {
    let mut labels = target.clone();
    labels.insert("__name__".to_owned(), "up".to_owned());
    labels
}

/// Stores what was seen and marks as stale what was known and is gone.
fn store(samples: &mut Samples, known: Option<&BTreeSet<Labels>>, seen: &BTreeMap<Labels, f64>, at: i64) {
    for gone in known.into_iter().flatten().filter(|series| !seen.contains_key(*series)) {
        samples.add(gone, at, None);
    }
    for (series, value) in seen {
        samples.add(series, at, Some(*value));
    }
}

async fn scrape(client: &reqwest::Client, to: SocketAddr) -> Option<Vec<(Labels, f64)>> {
    let answer = client
        .get(format!("http://{to}/metrics"))
        .send()
        .await
        .ok()?
        .error_for_status()
        .ok()?;
    let text = answer.text().await.ok().filter(|text| text.len() <= EXPOSITION_BYTES_MAX)?;
    exposition::parse(&text)
}
