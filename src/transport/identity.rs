//! Who a node or client is: certificate authorities, own certificate chain, key, and the name inside the certificate.
//!
//! A certificate names its holder in one URI subject alternative name, `meshwork://CLUSTER/ROLE/NAME` (INTERFACES §3).
//! Loading checks everything that can be checked before the first handshake (readable, PEM, key fits, signed by one of
//! the authorities, in its validity period, named), so that a wrong file fails at start and not at the first peer.
//! Not here: issuing (`certificate.rs`), judging a peer (`tls.rs`), watching files (`reload.rs`).

use crate::refusal::rfc3339;
use meshwork_core::id::ClusterId;
use rustls::{RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use webpki::{EndEntityCert, KeyUsage};

/// Longest cluster, node or client name in a certificate, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A member of the mesh: may be dialled, may dial, sends peer messages.
    Node,
    /// A user of the data.
    Client,
    /// An operator: a client that may also change the cluster.
    Admin,
}

impl Role {
    /// The word for this role in a certificate's URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name inside a certificate. `Display` is the URI, `FromStr` its inverse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// Name of the cluster.
    pub cluster: String,
    /// What the holder may do.
    pub role: Role,
    /// Name of the holder; for nodes `*` stands for any name.
    pub name: String,
}

/// Why a text is not the URI of an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not meshwork://CLUSTER/ROLE/NAME with role node, client or admin and names of 1 to 64 letters, digits, '.', '-', '_' (a node's name may be '*')"
)]
pub struct BadName(pub String);

impl PeerIdentity {
    /// Puts the parts together; `BadName` when one could not be read back.
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Self, BadName> {
        format!("meshwork://{cluster}/{role}/{name}").parse()
    }

    /// Whether a node that calls itself `name` may use this certificate.
    pub fn covers(&self, name: &str) -> bool {
        self.name == name || (self.role == Role::Node && self.name == "*")
    }

    /// The identity named by a certificate: `None` unless it has exactly one meshwork URI and that one is well formed.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let mut names = parsed.valid_uri_names().filter(|name| name.starts_with("meshwork://"));
        let first = names.next()?.parse().ok()?;
        names.next().is_none().then_some(first)
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "meshwork://{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl FromStr for PeerIdentity {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        // What is shown of a hostile text is bounded and printable: it ends in log lines.
        let bad = || BadName(text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect());
        let mut parts = text.strip_prefix("meshwork://").ok_or_else(bad)?.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let role = match role {
            "node" => Role::Node,
            "client" => Role::Client,
            "admin" => Role::Admin,
            _ => return Err(bad()),
        };
        let plain = |part: &str| {
            (1..=NAME_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !plain(cluster) || !(plain(name) || (role == Role::Node && name == "*")) {
            return Err(bad());
        }
        Ok(Self { cluster: cluster.to_owned(), role, name: name.to_owned() })
    }
}

/// Where the PEM files of an identity lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities; the first one's public key is part of the cluster id.
    pub ca: PathBuf,
    /// Own certificate, then intermediates if there are any.
    pub cert: PathBuf,
    /// Own private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The three files.
    pub fn new(ca: impl Into<PathBuf>, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), cert: cert.into(), key: key.into() }
    }
}

/// Why an identity cannot be used. Nothing has changed; the files are at fault; retry after mending them.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or may not be read.
    #[error("cannot read {}: {source}; check the path and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds nothing of what it should.
    #[error("{} holds no {what} in PEM form; `meshwork cert` writes such files", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("{}: {reason}; issue it anew with `meshwork cert`", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are of different pairs.
    #[error("the key in {} does not belong to the certificate in {}; use the pair that was issued together", key.display(), cert.display())]
    KeyMismatch {
        /// File of the certificate.
        cert: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// The certificate is signed by nobody in the authorities' file.
    #[error("the certificate in {} is signed by no authority in {}; use the CA file it was issued with", cert.display(), ca.display())]
    UnknownAuthority {
        /// File of the certificate.
        cert: PathBuf,
        /// File of the authorities.
        ca: PathBuf,
    },
    /// The certificate's time is over.
    #[error("the certificate in {} expired at {}; issue a new one with `meshwork cert`", path.display(), rfc3339(*at))]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it expired.
        at: SystemTime,
    },
    /// The certificate's time has not begun.
    #[error("the certificate in {} is valid only from {}; check this machine's clock", path.display(), rfc3339(*from))]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it becomes valid.
        from: SystemTime,
    },
    /// The certificate has no usable meshwork name.
    #[error("the certificate in {} has no URI name meshwork://CLUSTER/ROLE/NAME (exactly one is needed); issue it with `meshwork cert`", path.display())]
    NoName {
        /// The file.
        path: PathBuf,
    },
}

/// A checked identity: authorities, chain, key and name. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Loaded>);

struct Loaded {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    own: PeerIdentity,
    cluster: ClusterId,
    expires_at: SystemTime,
}

impl Identity {
    /// Reads and checks the files, as of now.
    pub fn load(files: &TlsFiles) -> Result<Self, IdentityError> {
        Self::load_at(files, SystemTime::now())
    }

    /// Reads the files and checks them as of `now`.
    pub fn load_at(files: &TlsFiles, now: SystemTime) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })
        };
        Self::from_pem(files, &read(&files.ca)?, &read(&files.cert)?, &read(&files.key)?, now)
    }

    /// Checks PEM texts as of `now`; `names` only says what errors call them.
    pub fn from_pem(
        names: &TlsFiles,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let authorities = certificates(&names.ca, ca)?;
        let chain = certificates(&names.cert, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| IdentityError::NotPem { path: names.key.clone(), what: "private key" })?;
        let unusable = |path: &Path, reason: String| IdentityError::Unusable { path: path.to_owned(), reason };

        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|e| unusable(&names.ca, e.to_string()))?;
        }
        let first_authority =
            EndEntityCert::try_from(&authorities[0]).map_err(|e| unusable(&names.ca, e.to_string()))?;

        let provider = aws_lc_rs::default_provider();
        let signer =
            provider.key_provider.load_private_key(key.clone_key()).map_err(|e| unusable(&names.key, e.to_string()))?;
        let certified = rustls::sign::CertifiedKey::new(chain.clone(), signer);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(IdentityError::KeyMismatch { cert: names.cert.clone(), key: names.key.clone() });
            }
            Err(e) => return Err(unusable(&names.cert, e.to_string())),
        }

        let own = PeerIdentity::of(&chain[0]).ok_or_else(|| IdentityError::NoName { path: names.cert.clone() })?;
        let leaf = EndEntityCert::try_from(&chain[0]).map_err(|e| unusable(&names.cert, e.to_string()))?;
        let verify = |at: SystemTime, usage: KeyUsage| {
            let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
            let algorithms = provider.signature_verification_algorithms.all;
            leaf.verify_for_usage(algorithms, &roots.roots, &chain[1..], at, usage, None, None).map(drop)
        };
        verify(now, KeyUsage::client_auth()).map_err(|e| judged(names, e))?;
        if own.role == Role::Node {
            verify(now, KeyUsage::server_auth()).map_err(|e| judged(names, e))?;
        }
        // A certificate's end is only told by failing after it; validity is checked before the chain is built.
        let expires_at = match verify(UNIX_EPOCH + FAR_FUTURE, KeyUsage::client_auth()) {
            Err(webpki::Error::CertExpired { not_after, .. }) => system_time(not_after),
            Ok(()) | Err(_) => UNIX_EPOCH + FAR_FUTURE,
        };

        let cluster = ClusterId::derive(&own.cluster, &first_authority.subject_public_key_info());
        Ok(Self(Arc::new(Loaded { roots: Arc::new(roots), chain, key, own, cluster, expires_at })))
    }

    /// The name in the own certificate.
    pub fn own(&self) -> &PeerIdentity {
        &self.0.own
    }

    /// The cluster: derived from its name and the first authority's public key.
    pub fn cluster_id(&self) -> ClusterId {
        self.0.cluster
    }

    /// End of the own certificate's validity.
    pub fn expires_at(&self) -> SystemTime {
        self.0.expires_at
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.0.roots.clone()
    }

    pub(crate) fn chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.0.chain.clone(), self.0.key.clone_key())
    }
}

impl fmt::Debug for Identity {
    /// The name only: a key must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.own)
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let none = || IdentityError::NotPem { path: path.to_owned(), what: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn judged(names: &TlsFiles, error: webpki::Error) -> IdentityError {
    let path = names.cert.clone();
    match error {
        webpki::Error::CertExpired { not_after, .. } => IdentityError::Expired { path, at: system_time(not_after) },
        webpki::Error::CertNotValidYet { not_before, .. } => {
            IdentityError::NotYetValid { path, from: system_time(not_before) }
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            IdentityError::UnknownAuthority { cert: path, ca: names.ca.clone() }
        }
        other => IdentityError::Unusable { path, reason: other.to_string() },
    }
}

pub(crate) fn system_time(at: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.as_secs())
}

/// Past every date a certificate can hold (year 9999) and within what the system's clock type can hold.
const FAR_FUTURE: Duration = Duration::from_secs(300_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        let name = PeerIdentity::new("prod", Role::Node, "*").unwrap();
        assert_eq!(name.to_string(), "meshwork://prod/node/*");
        assert_eq!(name.to_string().parse::<PeerIdentity>().unwrap(), name);
        assert!(name.covers("mesh-0"));
        assert!(!PeerIdentity::new("prod", Role::Node, "mesh-1").unwrap().covers("mesh-0"));
    }

    #[test]
    fn names_that_could_be_misread_are_refused() {
        let long = format!("meshwork://{}/node/x", "a".repeat(65));
        for bad in [
            "",
            "meshwork://",
            "meshwork://a/node",
            "meshwork://a/node/x/y",
            "meshwork://a/root/x",
            "meshwork://a/Node/x",
            "meshwork:///node/x",
            "meshwork://a/client/*",
            "meshwork://*/node/x",
            "meshwork://a/node/x y",
            "meshwork://a/node/x%2fy",
            "https://a/node/x",
            &long,
        ] {
            assert!(bad.parse::<PeerIdentity>().is_err(), "{bad}");
        }
    }
}
