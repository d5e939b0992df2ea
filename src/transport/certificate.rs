//! Issues certificates: a cluster's own authority, and the pairs it signs for nodes, clients and operators.
//!
//! Keys are ECDSA P-256. A pair carries one URI name, `meshwork://CLUSTER/ROLE/NAME`; nodes may serve and dial, others
//! only dial. An authority lives in a directory as `ca.pem` and `ca.key`. Keys are written with mode 0600 and nothing is
//! overwritten: a lost authority key cannot be made again. Not a PKI: no revocation, short validity and reload serve.

use crate::identity::{BadName, PeerIdentity, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long an authority is valid: ten years.
pub const AUTHORITY_DAYS: i64 = 3650;

/// New certificates begin an hour early, so that machines with clocks behind ours take them at once.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Why a certificate could not be issued, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CertificateIssueError {
    /// A name that does not fit a certificate.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is there already.
    #[error("{} exists already; it is not overwritten: choose another directory or remove it yourself", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What lies there is not an authority of ours.
    #[error("{}: {reason}; make an authority with `meshwork cert init`", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refused.
    #[error("cannot make a certificate: {0}")]
    Library(#[from] rcgen::Error),
}

/// A certificate and its key, as PEM texts.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub cert: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl PemPair {
    /// Writes `NAME.pem` and `NAME.key` into `directory` and returns both paths. Refuses to overwrite.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), CertificateIssueError> {
        let (cert, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        // The key first: a certificate without its key helps nobody.
        write_new(&key, &self.key, 0o600)?;
        write_new(&cert, &self.cert, 0o644)?;
        Ok((cert, key))
    }
}

/// A cluster's certificate authority.
pub struct Authority {
    cluster: String,
    pem: PemPair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority for the cluster called `cluster`, valid for ten years.
    pub fn new(cluster: &str) -> Result<Self, CertificateIssueError> {
        PeerIdentity::new(cluster, Role::Node, "*")?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        set_validity(&mut params, AUTHORITY_DAYS);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{COMMON_NAME}{cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key)?;
        let pem = PemPair { cert: cert.pem(), key: key.serialize_pem() };
        Ok(Self { cluster: cluster.to_owned(), pem, issuer: Issuer::new(params, key) })
    }

    /// Reads the authority from `ca.pem` and `ca.key` in `directory`.
    pub fn load(directory: &Path) -> Result<Self, CertificateIssueError> {
        let (cert_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| CertificateIssueError::File { path: path.to_owned(), source })
        };
        let pem = PemPair { cert: read(&cert_path)?, key: read(&key_path)? };
        let not = |path: &Path, reason: String| CertificateIssueError::NotAnAuthority { path: path.to_owned(), reason };
        let key = KeyPair::from_pem(&pem.key).map_err(|e| not(&key_path, e.to_string()))?;
        let public = rcgen::PublicKeyData::subject_public_key_info(&key);
        let der = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
            pem.cert.as_bytes(),
        )
        .map_err(|_| not(&cert_path, "no certificate in PEM form".to_owned()))?;
        let parsed = webpki::EndEntityCert::try_from(&der).map_err(|e| not(&cert_path, e.to_string()))?;
        if parsed.subject_public_key_info().as_ref() != public.as_slice() {
            return Err(not(&key_path, "the key does not belong to ca.pem".to_owned()));
        }
        // The cluster's name stands in the common name; it is searched in the raw subject, where it is plain text.
        let subject = String::from_utf8_lossy(parsed.subject()).into_owned();
        let cluster: String = subject
            .split_once(COMMON_NAME)
            .map(|(_, rest)| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).collect())
            .unwrap_or_default();
        PeerIdentity::new(&cluster, Role::Node, "*")
            .map_err(|_| not(&cert_path, format!("its common name does not begin with \"{COMMON_NAME}\"")))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| not(&cert_path, e.to_string()))?;
        Ok(Self { cluster, pem, issuer })
    }

    /// Writes `ca.pem` and `ca.key` into `directory`. Refuses to overwrite.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, PathBuf), CertificateIssueError> {
        self.pem.write(directory, "ca")
    }

    /// The cluster this authority is for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate: what nodes and clients get as their CA file.
    pub fn pem(&self) -> &str {
        &self.pem.cert
    }

    /// Issues a pair for `name` in `role`, valid from an hour ago for `days`. Zero or negative `days` make a
    /// certificate that has expired already, for tests.
    pub fn issue(&self, role: Role, name: &str, days: i64) -> Result<PemPair, CertificateIssueError> {
        self.issue_for(&self.cluster, role, name, days)
    }

    pub(crate) fn issue_for(
        &self,
        cluster: &str,
        role: Role,
        name: &str,
        days: i64,
    ) -> Result<PemPair, CertificateIssueError> {
        let identity = PeerIdentity::new(cluster, role, name)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        set_validity(&mut params, days);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = match role {
            Role::Node => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Client | Role::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(PemPair { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// How an authority's common name begins; the cluster's name follows.
const COMMON_NAME: &str = "meshwork ";

/// Begin and end in seconds since 1970: from an hour ago to `days` from now. With `days` ≤ 0 the whole period of 30
/// days lies in the past and ends that many days ago.
fn validity(days: i64) -> (Duration, Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let span = Duration::from_secs(days.unsigned_abs().min(1_000_000) * 86_400);
    if days > 0 {
        return (now.saturating_sub(BACKDATED), now + span);
    }
    let end = now.saturating_sub(span + Duration::from_secs(1));
    (end.saturating_sub(Duration::from_secs(30 * 86_400)), end)
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let (begin, end) = validity(days);
    params.not_before = epoch + begin;
    params.not_after = epoch + end;
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertificateIssueError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => CertificateIssueError::Exists { path: path.to_owned() },
        _ => CertificateIssueError::File { path: path.to_owned(), source },
    })
}
