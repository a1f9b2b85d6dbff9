//! From settings to clients. Which kubeconfig, which context, which manners.
//!
//! Two stacks, because reads and the flip want opposite manners. Reads and watches share one: answers of 429, 503 and
//! 504 are asked again, a few times and quickly. The flip's stack **never** asks again: kube's default would repeat a
//! PATCH up to 15 times and obey `Retry-After` without limit. Neither waits for ever, which is kube's default too.
//!
//! Unlike kube's own inference, a kubeconfig that exists and is broken is an error and not a reason to try the
//! in-cluster account: it would silently act on another cluster than the one a person named.

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    client::retry::RetryPolicy,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceExt as _, retry::Retry, timeout::Timeout};

use super::fault;
use crate::model::settings::ClusterSettings;

/// A TCP and TLS handshake that takes longer than this will not carry a flip either.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Used where the settings say nothing (zero).
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Used where the settings say nothing (zero).
pub(super) const FLIP_TIMEOUT: Duration = Duration::from_secs(5);
/// Credential plugins may ask a cloud; one that takes longer than this is hung.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads are asked again so often when the server is busy.
const READ_RETRIES: u32 = 3;
/// A read waits at most so long before it asks again.
const READ_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// A watch is silent until the server ends it; only silence beyond that, by this much, is a dead connection.
const WATCH_SILENCE_MARGIN: Duration = Duration::from_secs(5);

/// One connection's clients and where they come from.
pub(super) struct Clients {
    /// Asks again, a few times, when the server is busy.
    pub reads: Client,
    /// Never asks again.
    pub writes: Client,
    /// The reads' connections without their response deadline: a watch is an answer that takes minutes.
    pub watches: Client,
    /// `host:port` of the API server.
    pub server: String,
    /// Where the credentials come from, for people.
    pub origin: String,
}

impl Clients {
    /// The same client three times; reads ask again.
    pub(super) fn over(client: Client, read_timeout: Duration) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self {
            reads: patient(client.clone(), &namespace, read_timeout),
            writes: client.clone(),
            watches: client,
            server: "given".to_owned(),
            origin: "the caller".to_owned(),
        }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("server", &self.server)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Why there are no clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoClients {
    /// A sentence that says what to do.
    pub why: String,
}

impl NoClients {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

/// Reads the configuration and builds all clients, off the runtime's threads: credential plugins block.
pub(super) async fn connect(settings: &ClusterSettings, watch_for: Duration) -> Result<Clients, NoClients> {
    let (config, origin) = configure(settings).await?;
    let server = config.cluster_url.authority().map_or_else(String::new, |authority| {
        let host = authority.host();
        authority.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    });
    let (read_timeout, flip_timeout) = timeouts(settings);
    let built = tokio::task::spawn_blocking(move || build(&config, read_timeout, flip_timeout, watch_for));
    let built = tokio::time::timeout(BUILD_TIMEOUT, built).await;
    let (reads, writes, watches) = match built {
        Ok(Ok(Ok(clients))) => clients,
        Ok(Ok(Err(error))) => return Err(unusable(&origin, &error)),
        Ok(Err(_)) => return Err(NoClients::because(format!("the client for {origin} could not be built"))),
        Err(_) => {
            return Err(NoClients::because(format!(
                "the credential plugin of {origin} did not answer within {}: run it by hand to see why",
                humantime::format_duration(BUILD_TIMEOUT)
            )));
        }
    };
    Ok(Clients {
        reads,
        writes,
        watches,
        server,
        origin,
    })
}

/// The settings' read and flip timeouts; the defaults where they are zero.
pub(super) fn timeouts(settings: &ClusterSettings) -> (Duration, Duration) {
    let or = |given: Duration, default| if given.is_zero() { default } else { given };
    (or(settings.read_timeout, READ_TIMEOUT), or(settings.flip_timeout, FLIP_TIMEOUT))
}

fn build(config: &Config, read: Duration, flip: Duration, watch_for: Duration) -> Result<(Client, Client, Client), kube::Error> {
    let silence = watch_for + WATCH_SILENCE_MARGIN;
    let watches = Client::try_from(mannered(config, silence.max(read), read))?;
    let writes = Client::try_from(mannered(config, flip, flip))?;
    let reads = patient(watches.clone(), &config.default_namespace, read);
    Ok((reads, writes, watches))
}

fn mannered(config: &Config, silence: Duration, write: Duration) -> Config {
    let mut config = config.clone();
    config.connect_timeout = Some(CONNECT_TIMEOUT.min(write));
    config.read_timeout = Some(silence);
    config.write_timeout = Some(write);
    // Else the time a pooled connection lay idle counts against the next answer.
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config
}

/// A client that asks again when the server is busy, and gives up on an answer that has not begun by `deadline`.
pub(super) fn patient(client: Client, namespace: &str, deadline: Duration) -> Client {
    let policy = RetryPolicy::new(Duration::from_millis(50), READ_RETRY_DELAY_MAX, READ_RETRIES, false)
        .expect("the delays are positive and in order");
    let once = tower::service_fn(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    })
    .map_err(BoxError::from);
    Client::new(Timeout::new(Retry::new(policy, once), deadline), namespace)
}

/// Finds the configuration; tells in words where it comes from.
async fn configure(settings: &ClusterSettings) -> Result<(Config, String), NoClients> {
    let given = settings.kubeconfig.clone();
    let read = tokio::task::spawn_blocking(move || match &given {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    });
    let read = read
        .await
        .map_err(|_| NoClients::because("reading the kubeconfig was interrupted"))?;
    let file = match &settings.kubeconfig {
        Some(path) => format!("the kubeconfig {path:?}"),
        None => "the kubeconfig (KUBECONFIG or ~/.kube/config)".to_owned(),
    };
    match read {
        Ok(kubeconfig) => from_kubeconfig(kubeconfig, settings, file).await,
        Err(error) if settings.kubeconfig.is_none() && settings.context.is_none() && absent(&error) => in_cluster("there is no kubeconfig"),
        Err(error) => Err(NoClients::because(unreadable(&file, &error))),
    }
}

async fn from_kubeconfig(kubeconfig: Kubeconfig, settings: &ClusterSettings, file: String) -> Result<(Config, String), NoClients> {
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let known = if known.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has: {}", known.join(", "))
    };
    let current = kubeconfig.current_context.clone().filter(|name| !name.is_empty());
    let Some(context) = settings.context.clone().or(current) else {
        return match settings.kubeconfig {
            // What kubectl in a pod with an empty kubeconfig would do.
            None if kubeconfig.contexts.is_empty() => in_cluster("the kubeconfig is empty"),
            _ => Err(NoClients::because(format!(
                "{file} has no current context: name one with `context`; {known}"
            ))),
        };
    };
    if !kubeconfig.contexts.iter().any(|named| named.name == context) {
        return Err(NoClients::because(format!("{file} has no context {context:?}; {known}")));
    }
    let options = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| NoClients::because(unreadable(&file, &error)))?;
    config.apply_debug_overrides();
    Ok((config, format!("context {context:?} of {file}")))
}

fn in_cluster(because: &str) -> Result<(Config, String), NoClients> {
    match Config::incluster() {
        Ok(config) => Ok((config, "the pod's service account".to_owned())),
        Err(_) => Err(NoClients::because(format!(
            "{because}, and this is no pod with a service account: set `kubeconfig`, KUBECONFIG or ~/.kube/config"
        ))),
    }
}

/// Whether the kubeconfig is simply not there.
fn absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        // A KUBECONFIG that names a missing file is a person's mistake, and told as one.
        KubeconfigError::ReadConfig(source, path) => {
            source.kind() == std::io::ErrorKind::NotFound && path.ends_with(PathBuf::from(".kube/config"))
        }
        _ => false,
    }
}

/// Words for a kubeconfig that cannot be used; parser messages may quote a token and are left out.
fn unreadable(file: &str, error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) => {
            let quoted = format!("{path:?}");
            let which = if file.contains(&quoted) {
                String::new()
            } else {
                format!(" ({quoted})")
            };
            format!("{file} cannot be read{which}: {source}; put it there, or correct `kubeconfig` or KUBECONFIG")
        }
        KubeconfigError::FindPath => format!("{file} was not found: set `kubeconfig` or KUBECONFIG"),
        KubeconfigError::Parse(_) => format!("{file} is not a valid kubeconfig: check it with `kubectl config view`"),
        KubeconfigError::LoadClusterOfContext(cluster) => format!("{file} names the cluster {cluster:?}, which it does not define"),
        KubeconfigError::LoadCertificateAuthority(source) => format!("{file} names a certificate authority that cannot be read: {source}"),
        KubeconfigError::LoadClientCertificate(source) => format!("{file} names a client certificate that cannot be read: {source}"),
        KubeconfigError::LoadClientKey(_) => format!("{file} names a client key that cannot be read"),
        other => format!("{file} cannot be used: {other}"),
    }
}

fn unusable(origin: &str, error: &kube::Error) -> NoClients {
    NoClients::because(match error {
        kube::Error::Auth(_) => format!("{origin} gives no credentials: {}", fault::credential(error)),
        kube::Error::RustlsTls(_) => {
            format!("{origin} holds certificates or keys that cannot be used: check its client certificate and CA")
        }
        kube::Error::ProxyProtocolUnsupported { .. } | kube::Error::ProxyProtocolDisabled { .. } => {
            format!("{origin} asks for a proxy of a kind that is not supported: use an http:// proxy")
        }
        _ => format!("{origin} cannot be used for a client: check its certificates and addresses"),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::*;

    const TWO_CONTEXTS: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: u, user: {token: s3cret}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: gone, user: u}}]
";

    async fn why(text: &str, context: Option<&str>) -> String {
        let mut file = tempfile::NamedTempFile::new().expect("creates");
        file.write_all(text.as_bytes()).expect("writes");
        let settings = ClusterSettings {
            kubeconfig: Some(file.path().to_owned()),
            context: context.map(str::to_owned),
            ..ClusterSettings::default()
        };
        match configure(&settings).await {
            Ok((_, origin)) => format!("fine: {origin}"),
            Err(error) => error.why,
        }
        .replace(&format!("{:?}", file.path()), "FILE")
    }

    #[tokio::test]
    async fn a_wrong_context_lists_the_ones_there_are() {
        assert_eq!(
            why(TWO_CONTEXTS, Some("prod")).await,
            "the kubeconfig FILE has no context \"prod\"; it has: one, two"
        );
        assert_eq!(
            why(TWO_CONTEXTS, None).await,
            "the kubeconfig FILE has no current context: name one with `context`; it has: one, two"
        );
        assert_eq!(
            why(TWO_CONTEXTS, Some("two")).await,
            "the kubeconfig FILE names the cluster \"gone\", which it does not define"
        );
        assert_eq!(why(TWO_CONTEXTS, Some("one")).await, "fine: context \"one\" of the kubeconfig FILE");
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_an_error_that_shows_nothing_of_it() {
        let said = why("clusters: [}\nusers: s3cret", None).await;
        assert_eq!(
            said,
            "the kubeconfig FILE is not a valid kubeconfig: check it with `kubectl config view`"
        );
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_names_the_file() {
        let settings = ClusterSettings {
            kubeconfig: Some("/nowhere/kubeconfig".into()),
            ..ClusterSettings::default()
        };
        let said = configure(&settings).await.expect_err("not there").why;
        assert!(
            said.starts_with("the kubeconfig \"/nowhere/kubeconfig\" cannot be read: "),
            "{said}"
        );
        assert!(said.ends_with("put it there, or correct `kubeconfig` or KUBECONFIG"), "{said}");
    }

    /// A server that counts requests and answers them all with `code`, or never.
    async fn counting(code: Option<u16>) -> (ClusterSettings, tempfile::NamedTempFile, Arc<AtomicU32>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let answer = move || {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                match code {
                    Some(code) => {
                        let code = http::StatusCode::from_u16(code).expect("valid");
                        (code, [("retry-after", "1")], "{}")
                    }
                    None => std::future::pending().await,
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let server = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        let mut file = tempfile::NamedTempFile::new().expect("creates");
        write!(
            file,
            "{{apiVersion: v1, kind: Config, current-context: x, clusters: [{{name: c, cluster: {{server: '{server}'}}}}], \
             users: [], contexts: [{{name: x, context: {{cluster: c}}}}]}}"
        )
        .expect("writes");
        let settings = ClusterSettings {
            kubeconfig: Some(file.path().to_owned()),
            read_timeout: Duration::from_millis(400),
            flip_timeout: Duration::from_millis(300),
            ..ClusterSettings::default()
        };
        (settings, file, asked)
    }

    fn request(method: &str) -> http::Request<Vec<u8>> {
        let request = http::Request::builder().method(method).uri("/api/v1/namespaces/shop/services/web");
        request.body(b"[]".to_vec()).expect("valid")
    }

    #[tokio::test]
    async fn a_flip_is_sent_once_whatever_the_answer() {
        for code in [429, 503, 504] {
            let (settings, _file, asked) = counting(Some(code)).await;
            let clients = connect(&settings, Duration::from_secs(30)).await.expect("connects");
            // A client that asks again does so within milliseconds at first, and for minutes in all.
            let answer = tokio::time::timeout(Duration::from_secs(2), clients.writes.request_text(request("PATCH"))).await;
            assert_eq!(asked.load(Ordering::Relaxed), 1, "HTTP {code}");
            answer.expect("ended by itself").expect_err("refused");
        }
    }

    #[tokio::test]
    async fn a_read_is_asked_again_a_few_times_and_heeds_no_long_retry_after() {
        let (mut settings, _file, asked) = counting(Some(503)).await;
        settings.read_timeout = Duration::from_secs(20);
        let clients = connect(&settings, Duration::from_secs(30)).await.expect("connects");
        let begun = tokio::time::Instant::now();
        clients.reads.request_text(request("GET")).await.expect_err("refused");
        assert_eq!(asked.load(Ordering::Relaxed), 1 + READ_RETRIES);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let (settings, _file, asked) = counting(None).await;
        let clients = connect(&settings, Duration::from_secs(30)).await.expect("connects");
        for (client, method) in [(&clients.writes, "PATCH"), (&clients.reads, "GET")] {
            let answer = tokio::time::timeout(Duration::from_secs(10), client.request_text(request(method)));
            let error = answer.await.expect("ended by itself").expect_err("no answer");
            assert_eq!(
                crate::cluster::Fault::from(&error).kind,
                crate::cluster::FaultKind::Timeout,
                "{error:?}"
            );
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
