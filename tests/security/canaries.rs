//! No secret appears in anything that flipback says or writes, over a whole life: a canary stands in for every credential that the
//! configuration knows, and each is looked for, plain and in the usual encodings, in the log at its most talkative, in what every command
//! prints, in every page, in the metrics, in every file of the data folder (evidence, outbox, journal), in what the API server was sent,
//! and in what was sent to anybody else than the one whose credential it is.
//!
//! The life is a bad one: chats, store and Prometheus refuse with everything they were sent, others are not there, a rollback fails for
//! want of a right, configurations with secrets in the wrong places are refused. Then all is well, and a rollback succeeds.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use futures::{StreamExt, stream};
use k8s_openapi::api::rbac::v1::Role;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    support::{
        Daemon, Ground, Said, eventually, project,
        stage::{SOON, VERDICT_LIMIT},
    },
    world::World,
};

/// Commands at a time: they wait for those who refuse.
const COMMANDS_AT_ONCE: usize = 6;

/// Files that hold no secret, or one whose content is never read as a text: certificates, and the key that belongs to one.
const NO_SECRETS: [&str; 3] = ["ca_file", "client_certificate_file", "client_key_file"];

/// Every place for a secret that `config/flipback.toml` documents: the section, the key, and which canaries are put there.
const PLACES: &[(&str, &str, &[&str])] = &[
    ("serve", "token_file", &["serve-token"]),
    ("prometheus", "bearer_file", &["prometheus-bearer"]),
    ("prometheus", "password_file", &["prometheus-password"]),
    ("prometheus.headers", "Authorization-Proxy", &["prometheus-header"]),
    ("chats.slack", "url_file", &["slack-url", "teams-url", "discord-url"]),
    ("chats.releases", "token_file", &["slackbot-token"]),
    ("chats.pagerduty", "routing_key_file", &["pagerduty-key"]),
    ("chats.alertmanager", "token_file", &["alertmanager-token"]),
    ("chats.email", "password_file", &["mail-password"]),
    (
        "chats.receiver",
        "url_file",
        &["webhook-url", "alertmanager-url", "closed-url", "garbled-url", "tls-url"],
    ),
    ("chats.receiver", "token_file", &["webhook-token"]),
    ("chats.receiver", "signing_key_file", &["webhook-key"]),
    ("evidence.copy.options", "aws_secret_access_key", &["store-secret"]),
];

/// Secrets that come some other way: by the environment, in a kubeconfig, from somebody who guesses, in a configuration that is refused.
const FURTHER: &[&str] = &[
    "environment-url",
    "proxy-password",
    "store-token",
    "kubeconfig-token",
    "kubeconfig-password",
    "guessed-token",
    "inline-url",
    "inline-token",
    "broken-line",
    "url-password",
    "client-key",
];

/// Whoever may be sent a secret: the place of its credential, and no other.
const HOMES: &[(&str, &str)] = &[
    ("prometheus-bearer", "prometheus"),
    ("prometheus-password", "prometheus"),
    ("prometheus-header", "prometheus"),
    ("slack-url", "slack"),
    ("teams-url", "teams"),
    ("discord-url", "discord"),
    ("slackbot-token", "slackbot"),
    ("pagerduty-key", "pagerduty"),
    ("alertmanager-token", "alerts"),
    ("alertmanager-url", "alertmanager"),
    ("mail-password", "mail"),
    ("webhook-url", "webhook"),
    ("webhook-token", "webhook"),
    ("store-token", "s3"),
    ("kubeconfig-token", "kubernetes"),
    ("kubeconfig-password", "kubernetes"),
];

/// The canary of a name. 32 characters of letters and digits at its end, which no server changes.
fn canary(name: &str) -> String {
    let digest = {
        use sha2::Digest as _;
        sha2::Sha256::digest(format!("canary {name}"))
    };
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    match name {
        // Just this form is taken for a key.
        "pagerduty-key" => hex,
        "slackbot-token" => format!("xoxb-{hex}"),
        _ => format!("canary/{name}+{hex}"),
    }
}

/// A secret, and how it may look.
struct Bird {
    name: String,
    forms: Vec<String>,
}

impl Bird {
    fn new(name: &str, secret: &str) -> Self {
        let bytes = secret.as_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let percent = |upper: bool| -> String {
            let of = |byte: &u8| match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => char::from(*byte).to_string(),
                byte if upper => format!("%{byte:02X}"),
                byte => format!("%{byte:02x}"),
            };
            bytes.iter().map(of).collect()
        };
        // What is telling of it, whatever came before: its end, without signs that are written in many ways.
        let core = secret.rsplit(['+', '.', '/', '-']).find(|part| part.len() >= 16).unwrap_or(secret);
        let mut forms = vec![secret.to_owned(), core.to_owned(), hex, percent(true), percent(false)];
        // Within something longer it begins at any of three places of a group; its outer letters depend on its neighbours.
        for skipped in 0..3 {
            for text in [secret, core] {
                let padded = [vec![b'x'; skipped], text.as_bytes().to_vec()].concat();
                let whole = BASE64_STANDARD_NO_PAD.encode(padded);
                let (first, last) = ((skipped * 8).div_ceil(6), (skipped + text.len()) * 8 / 6);
                let inner: String = whole.chars().skip(first).take(last - first).collect();
                forms.push(inner.replace('+', "-").replace('/', "_"));
                forms.push(inner);
            }
        }
        forms.sort();
        forms.dedup();
        assert!(forms.iter().all(|form| form.len() >= 16), "{name}: {forms:?}");
        Self {
            name: name.to_owned(),
            forms,
        }
    }

    /// Where it is in a text, with what is around it.
    fn sings_in(&self, text: &[u8]) -> Option<String> {
        let lower = text.to_ascii_lowercase();
        let at = self
            .forms
            .iter()
            .find_map(|form| find(text, form.as_bytes()).or_else(|| find(&lower, form.to_ascii_lowercase().as_bytes())))?;
        let around = text.get(at.saturating_sub(160)..(at + 160).min(text.len())).unwrap_or_default();
        Some(String::from_utf8_lossy(around).into_owned())
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    // Only where its first bytes are: the log is megabytes.
    let first = *what.first()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.iter().position(|byte| *byte == first) {
        let start = from + at;
        if text.get(start..start + what.len()) == Some(what) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

/// Everything that was said or written, with where it was.
#[derive(Default)]
struct Heap(Vec<(String, Vec<u8>)>);

impl Heap {
    fn add(&mut self, place: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.0.push((place.into(), text.into()));
    }

    /// What a command printed, on both ways out.
    fn said(&mut self, command: &[&str], said: &Said) {
        self.add(format!("flipback {}", command.join(" ")), format!("{}\n{}", said.out, said.err));
    }

    fn files(&mut self, folder: &Path) -> usize {
        let mut found = 0;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // Names are written too.
            self.add(format!("the name of {}", path.display()), path.display().to_string());
            if path.is_dir() {
                found += self.files(&path);
            } else {
                self.add(path.display().to_string(), fs::read(&path).unwrap_or_default());
                found += 1;
            }
        }
        found
    }
}

/// The stage: a shop, a world, and a configuration with a canary at every place for a secret.
struct Aviary {
    ground: Ground,
    world: World,
    birds: Vec<Bird>,
    /// The configuration in force: how Prometheus is told who asks is changed on the way.
    text: String,
}

const BASIC: &str = "username = \"reader\"\npassword_file = \"secrets/prometheus-password\"\n";
const BEARER: &str = "bearer_file = \"secrets/prometheus-bearer\"\n";

impl Aviary {
    async fn open(test: &str) -> Option<Self> {
        let ground = Ground::open(test, "").await?;
        let world = World::start().await;
        let names = PLACES.iter().flat_map(|(_, _, names)| names.iter()).chain(FURTHER);
        let mut birds: Vec<Bird> = names.map(|name| Bird::new(name, &canary(name))).collect();
        let kubeconfig = fs::read_to_string(ground.kubeconfig()).expect("ours");
        let kubeconfig: Value = serde_json::from_str(&kubeconfig).expect("JSON");
        let token = kubeconfig["users"][0]["user"]["token"].as_str().expect("a token").to_owned();
        birds.push(Bird::new("account-token", &token));
        let aviary = Self {
            text: String::new(),
            ground,
            world,
            birds,
        };
        Some(aviary.configured())
    }

    /// Writes every secret into its file, and the configuration that names them.
    fn configured(mut self) -> Self {
        let http = format!("http://{}", self.world.http);
        let secret = |name: &str, text: String| self.ground.folder.write(&format!("secrets/{name}"), text + "\n");
        for (_, _, names) in PLACES {
            for name in *names {
                let canary = canary(name);
                let text = match *name {
                    "slack-url" => format!("{http}/slack/{canary}"),
                    "discord-url" => format!("{http}/discord/{canary}"),
                    "webhook-url" => format!("{http}/webhook/{canary}"),
                    "teams-url" => format!(
                        "{http}/teams/workflows?api-version=1&sig={}",
                        canary.replace('/', "%2F").replace('+', "%2B")
                    ),
                    "alertmanager-url" => {
                        let password = canary.replace('/', "%2F");
                        format!("http://flipback:{password}@{}/alertmanager", self.world.http)
                    }
                    // Nobody listens there.
                    "closed-url" => format!("http://127.0.0.1:9/{canary}"),
                    // Nobody there speaks TLS.
                    "tls-url" => format!("https://{}/{canary}", self.world.http),
                    "garbled-url" => format!("{canary}: no URL at all"),
                    _ => canary,
                };
                secret(name, text);
            }
        }
        let chats = "[chats.slack]\nurl_file = \"slack-url\"\n[chats.teams]\nurl_file = \"teams-url\"\n[chats.webhook]\nurl_file = \"webhook-url\"\n";
        self.ground.edit(chats, &chat_sections(&self.world));
        self.ground.edit(
            "token_file = \"token\"\n",
            "token_file = \"secrets/serve-token\"\nevidence = true\n",
        );
        self.ground.edit(
            "[log]\nfilter = \"info,flipback=debug\"\n",
            "[log]\nfilter = \"trace\"\nformat = \"json\"\n",
        );
        let prometheus = format!(
            "url = \"{http}/prometheus\"\n{BASIC}[prometheus.headers]\nAuthorization-Proxy = {{ file = \"secrets/prometheus-header\" }}\n"
        );
        self.ground.edit("url = \"http://127.0.0.1:9\"\n", &prometheus);
        let store = format!(
            "[evidence.copy]\nurl = \"s3://bucket/prefix\"\n[evidence.copy.options]\naws_endpoint = \"{http}/s3\"\naws_region = \"eu\"\nallow_http = true\n\
             aws_access_key_id = {{ file = \"secrets/store-id\" }}\naws_secret_access_key = {{ file = \"secrets/store-secret\" }}\n[[guards]]\n"
        );
        secret("store-id", "who-stores".to_owned());
        self.ground.edit("[[guards]]\n", &store);
        self.text = fs::read_to_string(&self.ground.config).expect("ours");
        self
    }

    /// The binary, with secrets in its environment as far as it reads any from there.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.ground.binary(arguments);
        command
            .env(
                "FLIPBACK_CHATS__OUTSIDE__URL",
                format!("https://hooks.invalid/{}", canary("environment-url")),
            )
            .env(
                "HTTPS_PROXY",
                format!("http://proxied:{}@127.0.0.1:9", canary("proxy-password").replace('/', "%2F")),
            )
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("AWS_SESSION_TOKEN", canary("store-token"))
            .env("RUST_BACKTRACE", "full");
        command
    }

    async fn run(&self, heap: &mut Heap, arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        let said = Said::from(
            tokio::time::timeout(VERDICT_LIMIT * 2, ran)
                .await
                .expect("it ends")
                .expect("it ran"),
        );
        heap.said(arguments, &said);
        said
    }

    /// Runs several at a time.
    async fn run_all<'c>(&self, heap: &mut Heap, commands: &[&'c [&'c str]]) -> Vec<(&'c [&'c str], Said)> {
        let runs = commands.iter().map(|command| async move {
            let mut own = Heap::default();
            let said = self.run(&mut own, command).await;
            (*command, said, own)
        });
        let done: Vec<(&[&str], Said, Heap)> = stream::iter(runs).buffered(COMMANDS_AT_ONCE).collect().await;
        let mut answers = Vec::new();
        for (command, said, own) in done {
            heap.0.extend(own.0);
            answers.push((command, said));
        }
        answers
    }

    async fn start(&self) -> Daemon {
        let mut daemon = self.ground.daemon(self.command(&["run"]));
        daemon.wait_for("blue to be active", |guard| guard["active"].is_string()).await;
        daemon
    }

    fn name(&self) -> String {
        format!("{}/shop", self.ground.namespace)
    }

    /// Gives the account its rights, or takes that of the flip away.
    async fn may_flip(&self, may: bool) {
        let roles: Api<Role> = Api::namespaced(self.ground.cluster.admin().await, &self.ground.namespace);
        let mut role = roles.get("flipback").await.expect("it was applied");
        for rule in role.rules.iter_mut().flatten() {
            let flips = rule.resources.as_deref() == Some(&["services".to_owned()]) && rule.resource_names.is_some();
            if flips {
                rule.verbs = vec![if may { "patch" } else { "get" }.to_owned()];
            }
        }
        roles.replace("flipback", &PostParams::default(), &role).await.expect("it is ours");
    }

    /// A configuration that must be refused, and was.
    async fn refuse(&self, heap: &mut Heap, daemon: &Daemon, text: String) {
        fs::write(&self.ground.config, text).expect("ours");
        daemon.process.signal("HUP");
        let status = eventually("the configuration to be refused", VERDICT_LIMIT, async || {
            let status = daemon.status().await?;
            status["config"]["refused"].is_object().then_some(status)
        })
        .await;
        heap.add("the status with a refused configuration", status.to_string());
        self.run(heap, &["check"]).await;
        self.take(daemon, &self.text).await;
    }

    /// A configuration that must be taken.
    async fn take(&self, daemon: &Daemon, text: &str) {
        fs::write(&self.ground.config, text).expect("ours");
        daemon.process.signal("HUP");
        eventually("the configuration to be taken", VERDICT_LIMIT, async || {
            let status = daemon.status().await?;
            status["config"]["refused"].is_null().then_some(())
        })
        .await;
    }
}

/// Chats of every kind, and some that are not there.
fn chat_sections(world: &World) -> String {
    let (http, mail) = (world.http, world.mail.port());
    let file = |key: &str, name: &str| format!("{key}_file = \"secrets/{name}\"\n");
    let hook = |name: &str| {
        format!(
            "[chats.{name}]\nkind = \"webhook\"\ntimeout = \"2s\"\n{}",
            file("url", &format!("{name}-url"))
        )
    };
    [
        format!("[chats.slack]\n{}", file("url", "slack-url")),
        format!("[chats.teams]\n{}", file("url", "teams-url")),
        format!("[chats.discord]\n{}", file("url", "discord-url")),
        format!("[chats.webhook]\n{}{}{}", file("url", "webhook-url"), file("token", "webhook-token"), file("signing_key", "webhook-key")),
        format!("[chats.slack_bot]\nchannel = \"C0123456789\"\napi = \"http://{http}/slackbot/\"\n{}", file("token", "slackbot-token")),
        format!("[chats.pagerduty]\napi = \"http://{http}/pagerduty/\"\n{}", file("routing_key", "pagerduty-key")),
        format!("[chats.alertmanager]\n{}", file("url", "alertmanager-url")),
        format!("[chats.alerts]\nkind = \"alertmanager\"\nurl = \"http://{http}/alerts\"\n{}", file("token", "alertmanager-token")),
        format!(
            "[chats.email]\nhost = \"127.0.0.1\"\nport = {mail}\nsecurity = \"none\"\nusername = \"flipback\"\nfrom = \"flipback@mail.invalid\"\n\
             to = [\"ops@mail.invalid\"]\n{}",
            file("password", "mail-password")
        ),
        hook("closed"),
        hook("garbled"),
        hook("tls"),
        "[chats.outside]\nkind = \"webhook\"\ntimeout = \"2s\"\n".to_owned(),
    ]
    .concat()
}

/// The places for secrets that the documented configuration has, as (section, key).
fn documented() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(project().join("config/flipback.toml")).expect("it is there");
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        // A default, an example, or the other of two examples that exclude each other; prose has no key.
        let line = line.strip_prefix('#').unwrap_or(line);
        let line = line.strip_prefix([':', ';']).unwrap_or(line).trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']).to_owned();
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let by_file = key.ends_with("_file") || value.starts_with("{ file = ");
        if by_file && !key.contains(' ') && !NO_SECRETS.contains(&key) {
            found.insert((section.clone(), key.to_owned()));
        }
    }
    found
}

#[test]
fn every_secret_that_the_configuration_documents_has_a_canary() {
    let known: BTreeSet<(String, String)> = PLACES
        .iter()
        .map(|(section, key, _)| ((*section).to_owned(), (*key).to_owned()))
        .collect();
    assert_eq!(documented(), known, "put a canary there, in PLACES, and see what becomes of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_said_or_written() {
    let Some(aviary) = Aviary::open("no_secret_is_ever_said_or_written").await else {
        return;
    };
    let mut heap = Heap::default();
    let mut daemon = aviary.start().await;
    bad_times(&aviary, &mut heap, &mut daemon).await;
    good_times(&aviary, &mut heap, &mut daemon).await;
    let folder = aviary.ground.evidence_of_all().await;
    pages(&aviary, &mut heap, &daemon, &folder).await;
    commands(&aviary, &mut heap, &folder).await;
    dark_cluster(&aviary, &mut heap).await;
    daemon.terminate().await;

    // The same again as a person reads it: a log of text, and what an earlier run left.
    aviary.ground.edit("format = \"json\"", "format = \"text\"");
    aviary.world.set_hostile(true);
    let mut daemon = aviary.start().await;
    aviary.run(&mut heap, &["pause", "shop", "--reason", "to be told"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    daemon.terminate().await;

    heap.add("the log", daemon.process.output());
    let files = heap.files(&aviary.ground.folder.path().join("data"));
    assert!(files > 60, "only {files} files in the data folder");
    let asked = aviary.ground.cluster.audit_of(&aviary.ground.namespace, "flipback");
    for event in &asked {
        heap.add(
            format!("{} {}", event.verb, event.uri),
            format!("{} {}", event.agent, event.request),
        );
    }
    assert!(
        heap.0.iter().map(|(_, text)| text.len()).sum::<usize>() > 1_000_000,
        "that is not all of it"
    );
    nothing_sings(&aviary, &heap);
}

/// No canary in the heap, nor in what was sent to others; and each was really in use.
fn nothing_sings(aviary: &Aviary, heap: &Heap) {
    let mut found = Vec::new();
    for bird in &aviary.birds {
        for (place, text) in &heap.0 {
            if let Some(around) = bird.sings_in(text) {
                found.push(format!("{} in {place}: ... {around} ...", bird.name));
            }
        }
    }
    let heard = aviary.world.heard();
    for bird in &aviary.birds {
        let home = HOMES.iter().find(|(name, _)| *name == bird.name).map(|(_, home)| *home);
        let mut used = home.is_none();
        for one in &heard {
            let Some(around) = bird.sings_in(one.all.as_bytes()) else {
                continue;
            };
            used |= home == Some(one.place.as_str());
            if home != Some(one.place.as_str()) {
                found.push(format!("{} was sent to {}: ... {around} ...", bird.name, one.place));
            }
        }
        assert!(used, "{} was never used: the test is blind to it", bird.name);
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n\n"));
}

/// Everybody refuses, aloud; a flip fails; what is no configuration is not taken.
async fn bad_times(aviary: &Aviary, heap: &mut Heap, daemon: &mut Daemon) {
    let guard = aviary.name();
    aviary.world.set_hostile(true);
    let pause = json!({"command": "pause", "guard": guard, "by": "ann", "reason": "a test"});
    let (code, said) = daemon.command(&canary("guessed-token"), &pause).await;
    assert_eq!(code, 401);
    heap.add("the answer to a wrong token", said.to_string());
    for command in [&["pause", "shop", "--reason", "a test"][..], &["resume", "shop"]] {
        aviary.run(heap, command).await;
    }
    aviary.may_flip(false).await;
    let failed = eventually("a rollback that fails for want of a right", VERDICT_LIMIT, async || {
        let mut failed = Heap::default();
        let said = aviary
            .run(&mut failed, &["rollback", "shop", "--reason", "it is bad", "--output", "json"])
            .await;
        (said.code != 0 && format!("{}{}", said.out, said.err).contains("forbidden")).then_some(failed)
    })
    .await;
    heap.0.extend(failed.0);
    let text = &aviary.text;
    let http = format!("http://{}", aviary.world.http);
    let inline = format!(
        "{}\n[chats.inline]\nkind = \"webhook\"\nurl = \"{http}/{}\"\ntoken = \"{}\"\n",
        text.replace(
            &format!("url = \"{http}/prometheus\""),
            &format!("url = \"http://reader:{}@127.0.0.1:9\"", canary("url-password"))
        ),
        canary("inline-url"),
        canary("inline-token"),
    );
    aviary.refuse(heap, daemon, inline).await;
    aviary
        .refuse(heap, daemon, format!("{text}\ntoken = \"{}\nunfinished = [", canary("broken-line")))
        .await;
    aviary.take(daemon, &text.replace(BASIC, BEARER)).await;
    // A key that is none is a problem of the Prometheus, told in its own time.
    let key = aviary.ground.folder.write(
        "secrets/client-key",
        format!("-----BEGIN PRIVATE KEY-----\n{}\n", canary("client-key")),
    );
    let keyed = format!("{BEARER}client_certificate_file = \"secrets/client-key\"\nclient_key_file = {key:?}\n");
    fs::write(&aviary.ground.config, text.replace(BASIC, &keyed)).expect("ours");
    aviary.run(heap, &["check"]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    heap.add(
        "the status with a key that is none",
        daemon.status().await.unwrap_or_default().to_string(),
    );
    heap.add("/metrics in bad times", daemon.metrics().await);
    aviary.take(daemon, &text.replace(BASIC, BEARER)).await;
}

/// All is well again, and a flip succeeds.
async fn good_times(aviary: &Aviary, heap: &mut Heap, daemon: &mut Daemon) {
    aviary.world.set_hostile(false);
    aviary.may_flip(true).await;
    aviary.run(heap, &["resume", "shop"]).await;
    eventually("a rollback that succeeds", VERDICT_LIMIT, async || {
        let mut done = Heap::default();
        let said = aviary.run(&mut done, &["rollback", "shop", "--reason", "it is bad"]).await;
        (said.code == 0).then_some(())
    })
    .await;
    aviary.run(heap, &["notify", "test"]).await;
    daemon.wait_for("green to be active", |guard| guard["active"] == "green").await;
    eventually("the chats to hear of it", VERDICT_LIMIT, async || {
        let heard = aviary.world.heard();
        let told = |home: &str| heard.iter().any(|one| one.place == home && one.all.contains("rollback_completed"));
        (told("webhook") && heard.iter().any(|one| one.place == "s3")).then_some(())
    })
    .await;
}

/// Everything there is to see over HTTP.
async fn pages(aviary: &Aviary, heap: &mut Heap, daemon: &Daemon, bundles: &[PathBuf]) {
    let guard = aviary.name();
    let mut paths: Vec<String> = [
        "/",
        "/page.js",
        "/page.css",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/feed",
        "/nowhere",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend([format!("/api/v1/guards/{guard}"), format!("/api/v1/history/{guard}")]);
    for bundle in bundles {
        let id = bundle.file_name().expect("a name").to_string_lossy().into_owned();
        let manifest = fs::read_to_string(bundle.join("MANIFEST.sha256")).expect("a manifest");
        let files = manifest.lines().filter_map(|line| line.split_once("  "));
        paths.extend(files.map(|(_, file)| format!("/incidents/{id}/{file}")));
    }
    assert!(paths.len() > 40, "{paths:?}");
    for path in &paths {
        let answer = reqwest::get(format!("{}{path}", daemon.url)).await.expect("the daemon answers");
        let headers = format!("{:?}", answer.headers());
        heap.add(path.clone(), headers);
        heap.add(path.clone(), answer.bytes().await.expect("a body").to_vec());
    }
    let mut events = reqwest::get(format!("{}/api/v1/events", daemon.url))
        .await
        .expect("the daemon answers");
    let event = tokio::time::timeout(SOON, events.chunk())
        .await
        .expect("pushed at once")
        .expect("a chunk");
    heap.add("/api/v1/events", event.expect("an event").to_vec());
}

/// What every command prints, at its most talkative.
async fn commands(aviary: &Aviary, heap: &mut Heap, bundles: &[PathBuf]) {
    let export = aviary.ground.folder.path().join("export");
    fs::create_dir_all(&export).expect("ours");
    let archive = export.join("bundle.tar.zst");
    let to = archive.display().to_string();
    let incident = bundles
        .last()
        .and_then(|bundle| bundle.file_name())
        .expect("a bundle")
        .to_string_lossy()
        .into_owned();
    let commands: &[&[&str]] = &[
        &["check", "--log", "trace"],
        &["check", "--log", "trace", "--output", "json", "--send-test"],
        &["check", "--offline"],
        &["status", "--log", "trace"],
        &["status", "shop", "--output", "json"],
        &["status", "--alone"],
        &["history", "shop", "--log", "trace"],
        &["notify", "list", "--log", "trace"],
        &["notify", "test", "--dry-run", "--log", "trace"],
        &["notify", "test", "--log", "trace", "--output", "json"],
        &["evidence", "list", "--output", "json"],
        &["evidence", "show", &incident],
        &["evidence", "verify", &incident],
        &["evidence", "report", &incident],
        &["evidence", "copy", &incident, "--log", "trace"],
        &["evidence", "export", &incident, "--to", &to],
        &["audit", "show"],
        &["audit", "verify"],
        &["gate", "shop", "--color", "green", "--for", "3s", "--log", "trace"],
        &["backtest", "--since", "1h", "--log", "trace"],
        &[
            "rollback",
            "shop",
            "--reason",
            "a rehearsal",
            "--dry-run",
            "--alone",
            "--log",
            "trace",
        ],
    ];
    for (command, said) in aviary.run_all(heap, commands).await {
        let wrong = ["unexpected argument", "unrecognized subcommand", "required arguments"];
        assert!(!wrong.iter().any(|words| said.err.contains(words)), "{command:?}: {}", said.err);
    }
    aviary.world.set_hostile(true);
    let hostile: &[&[&str]] = &[
        &["check", "--send-test", "--log", "trace"],
        &["evidence", "copy", &incident, "--log", "trace"],
    ];
    aviary.run_all(heap, hostile).await;
    aviary.world.set_hostile(false);
    let packed = fs::read(&archive).expect("it was exported");
    heap.add("the archive", zstd::decode_all(packed.as_slice()).expect("it is one"));
}

/// Clusters that do not believe us, and cannot be reached through their proxy.
async fn dark_cluster(aviary: &Aviary, heap: &mut Heap) {
    let server = format!("http://{}/kubernetes", aviary.world.http);
    let proxied = format!("http://proxied:{}@127.0.0.1:9", canary("proxy-password").replace('/', "%2F"));
    let token = json!({"token": canary("kubeconfig-token")});
    let password = json!({"username": "ann", "password": canary("kubeconfig-password")});
    let whole = fs::read_to_string(&aviary.ground.config).expect("ours");
    aviary.world.set_hostile(true);
    for (name, cluster, user) in [
        ("token", json!({"server": server}), token.clone()),
        ("password", json!({"server": server}), password),
        (
            "proxied",
            json!({"server": "https://kubernetes.invalid", "proxy-url": proxied}),
            token,
        ),
    ] {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dark",
            "clusters": [{"name": "dark", "cluster": cluster}], "users": [{"name": "dark", "user": user}],
            "contexts": [{"name": "dark", "context": {"cluster": "dark", "user": "dark"}}],
        });
        let file = aviary
            .ground
            .folder
            .write(&format!("secrets/kubeconfig-{name}"), kubeconfig.to_string());
        let other = whole.replace(&aviary.ground.kubeconfig().display().to_string(), &file.display().to_string());
        fs::write(&aviary.ground.config, other).expect("ours");
        let both: &[&[&str]] = &[&["check", "--log", "trace"], &["status", "--alone", "--log", "trace"]];
        aviary.run_all(heap, both).await;
    }
    aviary.world.set_hostile(false);
    fs::write(&aviary.ground.config, whole).expect("ours");
}

impl Ground {
    /// Every finished folder of evidence, oldest first; there are two at least.
    async fn evidence_of_all(&self) -> Vec<PathBuf> {
        let incidents = self.folder.path().join("data/incidents");
        eventually("evidence of both rollbacks", VERDICT_LIMIT, async || {
            let entries = fs::read_dir(&incidents).ok()?.flatten();
            let mut found: Vec<PathBuf> = entries
                .map(|entry| entry.path())
                .filter(|path| path.join("report.html").exists())
                .collect();
            found.retain(|path| path.join("MANIFEST.sha256").exists());
            found.sort();
            (!found.is_empty()).then_some(found)
        })
        .await
    }
}
