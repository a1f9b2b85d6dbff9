//! A past that never was: counters and histograms of many guards, written as TSDB blocks by promtool, and a real Prometheus over it.
//!
//! Pods of one color are scraped at different moments, requests come at random, and what goes wrong is said beforehand.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::process::{Folder, Process, free_port};

/// A block holds two hours, as Prometheus' own do.
const BLOCK: i64 = 7200;

/// Blocks made at once.
const MAKERS: usize = 2;

/// What goes wrong, or who takes over.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// From then on the other color has the traffic.
    Switch,
    /// So many of the active color's requests fail.
    Errors(f64),
    /// Nothing is scraped.
    Gap,
}

/// Something that happens to one guard.
#[derive(Clone, Copy, Debug)]
pub struct Happening {
    /// The number of the guard.
    pub guard: usize,
    /// Seconds from the beginning.
    pub from: i64,
    /// Its end; of no meaning for a switch.
    pub to: i64,
    /// What.
    pub what: Fault,
}

/// What the past is like.
#[derive(Clone, Debug)]
pub struct Story {
    /// How many guards; they are called `web-00`, `web-01`, ...
    pub guards: usize,
    /// Seconds since 1970 at which it begins; a multiple of two hours.
    pub begin: i64,
    /// How long it is, in seconds.
    pub span: i64,
    /// Seconds between two scrapes.
    pub spacing: i64,
    /// Requests per second of one guard.
    pub rate: f64,
    /// What happens.
    pub happenings: Vec<Happening>,
}

/// Upper bounds of the histogram's buckets.
const BOUNDS: [&str; 5] = ["0.25", "0.5", "1", "2", "+Inf"];

/// The part of requests in each bucket, not cumulative: 1 % over a second, 0.2 % over two.
const SPEEDS: [f64; 5] = [0.80, 0.15, 0.04, 0.008, 0.002];

/// The part of requests that always fails.
const NOISE: f64 = 0.001;

#[derive(Clone, Debug, Default)]
struct Pod {
    ok: f64,
    bad: f64,
    buckets: [f64; 5],
}

impl Story {
    /// The name of a guard.
    #[must_use]
    pub fn name(guard: usize) -> String {
        format!("web-{guard:02}")
    }

    /// Seconds since 1970 at which it ends.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.begin + self.span
    }

    fn happening(&self, guard: usize, at: i64, test: impl Fn(Fault) -> bool) -> Option<&Happening> {
        let at = at - self.begin;
        self.happenings
            .iter()
            .find(|one| one.guard == guard && test(one.what) && at >= one.from && at < one.to)
    }

    /// The number of the color with the traffic: 0 blue, 1 green.
    fn active(&self, guard: usize, at: i64) -> usize {
        let at = at - self.begin;
        let switches = self
            .happenings
            .iter()
            .filter(|one| one.guard == guard && matches!(one.what, Fault::Switch) && at >= one.from);
        switches.count() % 2
    }

    /// Writes the blocks below `folder`.
    ///
    /// # Panics
    /// When promtool does not do it.
    pub fn write(&self, folder: &Path) {
        let mut random = SmallRng::seed_from_u64(1);
        let mut pods = vec![Pod::default(); self.guards * 4];
        let mut makers: Vec<(std::process::Child, std::path::PathBuf)> = Vec::new();
        std::fs::create_dir_all(folder).expect("the folder is ours");
        let mut start = self.begin;
        while start < self.end() {
            let end = (start + BLOCK).min(self.end());
            let text = self.block(start, end, &mut pods, &mut random);
            let file = folder.join(format!("{start}.om"));
            std::fs::write(&file, text).expect("the folder is ours");
            let child = Command::new("promtool")
                .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
                .args([&file, folder])
                .stdout(Stdio::null())
                .spawn()
                .expect("promtool starts");
            makers.push((child, file));
            if makers.len() >= MAKERS {
                finish(makers.remove(0));
            }
            start = end;
        }
        makers.into_iter().for_each(finish);
    }

    /// The samples of one block, series by series.
    fn block(&self, start: i64, end: i64, pods: &mut [Pod], random: &mut SmallRng) -> String {
        let mut requests = String::from("# TYPE http_requests counter\n");
        let mut durations = String::from("# TYPE http_request_duration_seconds histogram\n");
        let mut starts = String::from("# TYPE process_start_time_seconds gauge\n");
        for (index, pod) in pods.iter_mut().enumerate() {
            let (guard, color, twin) = (index / 4, index / 2 % 2, index % 2);
            let name = Self::name(guard);
            let color_name = ["blue", "green"][color];
            let labels = format!(
                r#"namespace="shop",job="{name}",instance="10.0.{guard}.{color}{twin}:80",pod="{name}-{color_name}-5d9f7-x{twin}k""#
            );
            // Pods are scraped at moments of their own.
            let offset = (guard as i64 * 7 + color as i64 * 3 + twin as i64 * 5) % self.spacing;
            let first = start.div_euclid(self.spacing) * self.spacing + offset;
            let mut series: [String; 7] = Default::default();
            let mut at = if first < start { first + self.spacing } else { first };
            while at < end {
                if self.active(guard, at) == color {
                    self.serve(guard, at, pod, random);
                }
                if self.happening(guard, at, |what| matches!(what, Fault::Gap)).is_none() {
                    let [ok, bad, buckets @ ..] = &mut series;
                    // Writing to a String cannot fail.
                    let _ = writeln!(ok, r#"http_requests_total{{{labels},status="200"}} {} {at}"#, pod.ok);
                    if pod.bad > 0.0 {
                        let _ = writeln!(bad, r#"http_requests_total{{{labels},status="500"}} {} {at}"#, pod.bad);
                    }
                    let mut sum = 0.0;
                    for ((text, bound), count) in buckets.iter_mut().zip(BOUNDS).zip(pod.buckets) {
                        sum += count;
                        let _ = writeln!(text, r#"http_request_duration_seconds_bucket{{{labels},le="{bound}"}} {sum} {at}"#);
                    }
                    let _ = writeln!(starts, "process_start_time_seconds{{{labels}}} {} {at}", self.begin - 86_400);
                }
                at += self.spacing;
            }
            let [ok, bad, buckets @ ..] = series;
            requests.push_str(&ok);
            requests.push_str(&bad);
            buckets.iter().for_each(|text| durations.push_str(text));
        }
        requests + &durations + &starts + "# EOF\n"
    }

    /// What one pod answered since the last scrape.
    fn serve(&self, guard: usize, at: i64, pod: &mut Pod, random: &mut SmallRng) {
        // Busier by day than by night.
        let day = 1.0 + 0.5 * (at as f64 / 86_400.0 * std::f64::consts::TAU).sin();
        let count = poisson(self.rate / 2.0 * self.spacing as f64 * day, random);
        let share = match self
            .happening(guard, at, |what| matches!(what, Fault::Errors(_)))
            .map(|one| one.what)
        {
            Some(Fault::Errors(share)) => share,
            _ => NOISE,
        };
        let bad = poisson(count * share, random).min(count);
        pod.bad += bad;
        pod.ok += count - bad;
        let mut left = count;
        for (bucket, speed) in pod.buckets.iter_mut().zip(SPEEDS).skip(1) {
            let part = poisson(count * speed, random).min(left);
            *bucket += part;
            left -= part;
        }
        pod.buckets[0] += left;
    }
}

fn finish((mut child, file): (std::process::Child, std::path::PathBuf)) {
    let ended = child.wait().expect("it is our child");
    assert!(ended.success(), "promtool refused {}", file.display());
    std::fs::remove_file(file).expect("the folder is ours");
}

/// A random count with this mean.
fn poisson(mean: f64, random: &mut SmallRng) -> f64 {
    if mean > 30.0 {
        // Near enough: the sum of twelve uniform numbers is all but normal.
        let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        return (mean + normal * mean.sqrt()).round().max(0.0);
    }
    let (limit, mut product, mut count) = ((-mean).exp(), random.random::<f64>(), 0.0);
    while product > limit {
        product *= random.random::<f64>();
        count += 1.0;
    }
    count
}

/// A Prometheus over old blocks, which scrapes nothing.
#[derive(Debug)]
pub struct Archive {
    process: Process,
    port: u16,
    folder: Folder,
}

impl Archive {
    /// Writes the story and serves it; `flags` are added to Prometheus' own.
    pub async fn open(story: &Story, flags: &[&str]) -> Self {
        let folder = Folder::new();
        let data = folder.path().join("data");
        let written = story.clone();
        let target = data.clone();
        tokio::task::spawn_blocking(move || written.write(&target))
            .await
            .expect("promtool does it");
        Self::serve(folder, &data, flags).await
    }

    /// Serves blocks that are there already.
    pub async fn serve(folder: Folder, data: &Path, flags: &[&str]) -> Self {
        super::install_tls();
        folder.write("prometheus.yml", "global: {}\n");
        let port = free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--log.level=warn", "--storage.tsdb.retention.time=100y"])
            // Compacting old blocks is not what is measured.
            .args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"])
            .args(flags);
        let process = Process::start("prometheus", command, folder.path().join("prometheus.log"));
        let mut archive = Self { process, port, folder };
        archive.ready().await;
        archive
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A folder of its own, for the configuration of who asks.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    async fn ready(&mut self) {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url = format!("{}/-/ready", self.url());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.process.must_live();
            assert!(
                tokio::time::Instant::now() < deadline,
                "Prometheus is not ready: {}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A configuration that guards every one of the story's.
#[must_use]
pub fn configuration(story: &Story, prometheus: &str) -> String {
    let mut text = format!("[prometheus]\nurl = \"{prometheus}\"\n");
    for guard in 0..story.guards {
        let name = Story::name(guard);
        let _ = write!(
            text,
            r#"
[[guards]]
name = "{name}"
namespace = "shop"
[guards.route]
kind = "service"
service = "{name}"
selector_key = "version"
[guards.colors]
blue = {{ value = "blue", deployment = "{name}-blue" }}
green = {{ value = "green", deployment = "{name}-green" }}
"#
        );
    }
    text
}
