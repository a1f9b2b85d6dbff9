//! A certificate authority for one test cluster, and what it signs.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use super::process::Folder;

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    pub ca: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key, PKCS 8.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one that is written to `folder`.
    #[must_use]
    pub fn new(folder: &Folder) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "flipback-test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("ring makes keys")).expect("sound parameters");
        let ca = folder.write("pki/ca.crt", issuer.pem());
        Self { issuer, ca }
    }

    /// Signs a server certificate for loopback.
    #[must_use]
    pub fn server(&self, folder: &Folder, name: &str) -> Pair {
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(folder, name, params)
    }

    /// Signs a client certificate: the user's name, and a group where there is one.
    #[must_use]
    pub fn client(&self, folder: &Folder, user: &str, group: Option<&str>) -> Pair {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        self.sign(folder, &user.replace(':', "-"), params)
    }

    fn sign(&self, folder: &Folder, file: &str, mut params: CertificateParams) -> Pair {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("sound parameters");
        Pair {
            certificate: folder.write(&format!("pki/{file}.crt"), certificate.pem()),
            key: folder.write(&format!("pki/{file}.key"), key.serialize_pem()),
        }
    }
}

/// A key pair that signs service accounts' tokens: the private key's file and the public one's.
#[must_use]
pub fn token_keys(folder: &Folder) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("ring makes keys");
    (
        folder.write("pki/tokens.key", key.serialize_pem()),
        folder.write("pki/tokens.pub", key.public_key_pem()),
    )
}
