//! Who we say we are, and that nobody reads it anywhere else.

use std::io::Write as _;

use http::header::AUTHORIZATION;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::model::settings::Secret;
use crate::observe::plan::tests::guard;

fn value(text: &str) -> Secret {
    Secret::Value(SecretString::from(text.to_owned()))
}

fn sent(stub: &Stub) -> String {
    let asked = stub.asked();
    let headers = &asked.last().expect("asked").headers;
    headers
        .get(AUTHORIZATION)
        .map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn credentials_and_headers_are_sent_and_a_rotated_file_is_read_again() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let mut token = tempfile::NamedTempFile::new().expect("a file");
    writeln!(token, "first").expect("written");
    let observer = observer(
        &[guard("web")],
        PrometheusSettings {
            bearer: Some(Secret::File(token.path().to_owned())),
            headers: BTreeMap::from([("X-Scope-OrgID".to_owned(), value("tenant"))]),
            ..settings(&stub.url())
        },
    );
    look(&observer).await;
    assert_eq!(sent(&stub), "Bearer first");
    assert_eq!(stub.asked()[0].headers["x-scope-orgid"], "tenant");
    std::fs::write(token.path(), "second\n").expect("written");
    look(&observer).await;
    assert_eq!(sent(&stub), "Bearer second");
}

#[tokio::test]
async fn basic_credentials_come_from_the_settings_or_the_url_and_a_path_prefix_is_kept() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let given = PrometheusSettings {
        basic: Some(("us:er".to_owned(), value("pass"))),
        ..settings(&format!("{}/prom/", stub.url()))
    };
    look(&observer(&[guard("web")], given)).await;
    assert_eq!(sent(&stub), "Basic dXM6ZXI6cGFzcw==");
    assert!(stub.asked().iter().all(|asked| asked.path == "/prom/api/v1/query"));
    let in_url = settings(&format!("http://user:p%40ss+1@{}/?x=1", stub.address));
    look(&observer(&[guard("web")], in_url)).await;
    assert_eq!(sent(&stub), "Basic dXNlcjpwQHNzKzE=");
}

#[tokio::test]
async fn no_failure_shows_a_credential() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");
    let stub = Stub::start(|_| (StatusCode::UNAUTHORIZED, "no").into_response()).await;
    let rude = Stub::start(|asked| {
        let error = format!(
            "check who you are: {:?}",
            asked.headers.get(AUTHORIZATION).map(|value| value.to_str())
        );
        json(
            422,
            serde_json::json!({"status": "error", "errorType": "bad_data", "error": error}).to_string(),
        )
    })
    .await;
    let missing = Secret::File("/nonexistent/token".into());
    let said = [
        settings(&format!("http://bob:hunter2@{dead}/?token=hunter2")),
        settings(&format!("http://bob:hunter2@{}/", stub.address)),
        settings("http://bob:hunter2@no-such-host.invalid/"),
        PrometheusSettings {
            bearer: Some(value("hunter2")),
            ..settings(&rude.url())
        },
        PrometheusSettings {
            bearer: Some(value("hunter2\nhunter2")),
            ..settings(&stub.url())
        },
        PrometheusSettings {
            bearer: Some(missing),
            ..settings(&stub.url())
        },
    ];
    for prometheus in said {
        let guard = guard("web");
        let observer = observer(std::slice::from_ref(&guard), prometheus);
        let readings = look(&observer).await;
        let Reading::Absent(Absence::Error(why)) = pick(&readings, &guard, "blue", "error_rate") else {
            panic!("{readings:?}");
        };
        let reports = observer.inspect(&guard.id, now()).await;
        let reports = serde_json::to_string(&reports).expect("JSON");
        let ranged = observer.range(&guard.id, now(), now(), Duration::from_secs(5)).await;
        let everything = format!("{why} {reports} {ranged:?} {observer:?}");
        assert!(!everything.contains("hunter2"), "{everything}");
        assert!(
            why.contains("check") || why.contains("cannot be read") || why.contains("may hold") || why.contains("left out"),
            "{why}"
        );
    }
}

/// A TLS server that demands a client certificate of `authority` and answers one vector without samples.
async fn tls_server(authority: &rcgen::Certificate, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, issuer))
        .expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into())
        .build()
        .expect("a verifier");
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a private key");
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut seen = [0; 65536];
            let _ = stream.read(&mut seen).await;
            let body = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn a_private_authority_and_a_client_certificate_are_used_and_their_lack_is_explained() {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca_params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = ca_params.self_signed(&ca_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(ca_params, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["flipback".to_owned()]).expect("parameters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let ca_file = file("ca.pem", &authority.pem());
    let pair = (file("tls.crt", &certificate.pem()), file("tls.key", &key.serialize_pem()));
    let url = format!("https://{}", tls_server(&authority, &issuer).await);
    let told = |settings: PrometheusSettings| async {
        let guard = guard("web");
        let readings = look(&observer(std::slice::from_ref(&guard), settings)).await;
        pick(&readings, &guard, "blue", "error_rate").clone()
    };
    let both = PrometheusSettings {
        ca_file: Some(ca_file.clone()),
        client_certificate: Some(pair),
        ..settings(&url)
    };
    assert_eq!(told(both).await, Reading::Absent(Absence::Empty), "an answer came");
    let Reading::Absent(Absence::Error(why)) = told(settings(&url)).await else {
        panic!("trusted a stranger");
    };
    assert!(why.contains("TLS with https://127.0.0.1") && why.contains("`ca_file`"), "{why}");
    let nobody = PrometheusSettings {
        ca_file: Some(ca_file),
        ..settings(&url)
    };
    assert!(matches!(told(nobody).await, Reading::Absent(Absence::Error(_))));
    let rubbish = PrometheusSettings {
        ca_file: Some(file("rubbish.pem", "rubbish")),
        ..settings(&url)
    };
    let Reading::Absent(Absence::Error(why)) = told(rubbish).await else {
        panic!("trusted rubbish");
    };
    assert!(why.contains("holds no PEM certificate"), "{why}");
}
