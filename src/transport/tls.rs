//! TLS 1.3 for links: mutual certificates, checked by chain, cluster and role; host names do not matter.
//!
//! Both sides verify the other's chain against their authorities first, then read cluster and role from the URI name.
//! Only nodes are dialled; who may dial is the endpoint's choice. Key exchange is X25519MLKEM768 first; `Required`
//! offers and accepts nothing else. No resumption and no 0-RTT: every link is judged by the certificates of its day,
//! and reloaded authorities apply to the next one. The crypto provider is passed in, the process default is not used.

use crate::{
    identity::{Identity, PeerIdentity, Role, system_time},
    refusal::{RefusalReason, TlsRefusal, rfc3339},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// The application protocol both sides must name.
pub const ALPN: &[u8] = b"meshwork/1";

/// Whether a link may do with less than a post-quantum key exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostQuantum {
    /// X25519MLKEM768 where both can, X25519 otherwise.
    #[default]
    Preferred,
    /// X25519MLKEM768 or no link.
    Required,
}

impl PostQuantum {
    pub(crate) fn groups(self) -> Vec<&'static dyn SupportedKxGroup> {
        match self {
            Self::Preferred => vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            Self::Required => vec![aws_lc_rs::kx_group::X25519MLKEM768],
        }
    }
}

/// AES-128-GCM first: the cheapest on every machine with AES instructions.
fn provider(groups: Vec<&'static dyn SupportedKxGroup>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    })
}

/// The dialling side: expects a node of the own cluster.
pub(crate) fn client_config(
    identity: &Identity,
    groups: Vec<&'static dyn SupportedKxGroup>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = provider(groups);
    let verifier = NodeVerifier {
        roots: identity.roots(),
        expected: Expected { cluster: identity.own().cluster.clone(), roles: vec![Role::Node] },
        provider: provider.clone(),
    };
    let (chain, key) = identity.chain_and_key();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The accepting side: expects a certificate of the own cluster with one of `roles`.
pub(crate) fn server_config(
    identity: &Identity,
    groups: Vec<&'static dyn SupportedKxGroup>,
    roles: &[Role],
) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = provider(groups);
    let chain_verifier = WebPkiClientVerifier::builder_with_provider(identity.roots(), provider.clone())
        .clear_root_hint_subjects()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let verifier = DiallerVerifier {
        chain: chain_verifier,
        expected: Expected { cluster: identity.own().cluster.clone(), roles: roles.to_vec() },
    };
    let (chain, key) = identity.chain_and_key();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// What a peer's name must say.
#[derive(Debug)]
struct Expected {
    cluster: String,
    roles: Vec<Role>,
}

impl Expected {
    /// Judges the names of a certificate whose chain is good.
    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let refuse = |reason, text: String| Err(TlsRefusal::new(reason, text).into_rustls());
        let Some(peer) = PeerIdentity::of(certificate) else {
            let text = "the certificate has no URI name meshwork://CLUSTER/ROLE/NAME".to_owned();
            return refuse(RefusalReason::NoName, text);
        };
        if peer.cluster != self.cluster {
            let text = format!("the certificate is of cluster \"{}\", expected \"{}\"", peer.cluster, self.cluster);
            return refuse(RefusalReason::WrongCluster, text);
        }
        if !self.roles.contains(&peer.role) {
            return refuse(RefusalReason::WrongRole, self.wrong_role(&peer));
        }
        Ok(())
    }

    fn wrong_role(&self, peer: &PeerIdentity) -> String {
        let roles: Vec<_> = self.roles.iter().map(|role| role.as_str()).collect();
        format!("the certificate of \"{}\" has the role {}, expected {}", peer.name, peer.role, roles.join(" or "))
    }

    /// Puts a failed chain check into words. The name is read unverified, only to say whose certificate it was.
    fn explain(&self, error: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
        let claimed = PeerIdentity::of(certificate);
        let whose = claimed.as_ref().map_or_else(|| "a certificate without a name".to_owned(), ToString::to_string);
        let rustls::Error::InvalidCertificate(cause) = &error else { return error };
        let (reason, text) = match cause {
            CertificateError::ExpiredContext { not_after, .. } => (
                RefusalReason::Expired,
                format!("the certificate {whose} expired at {}", rfc3339(system_time(*not_after))),
            ),
            CertificateError::Expired => (RefusalReason::Expired, format!("the certificate {whose} has expired")),
            CertificateError::NotValidYetContext { not_before, .. } => (
                RefusalReason::NotYetValid,
                format!(
                    "the certificate {whose} is valid only from {}; compare the clocks",
                    rfc3339(system_time(*not_before))
                ),
            ),
            CertificateError::NotValidYet => {
                (RefusalReason::NotYetValid, format!("the certificate {whose} is not valid yet; compare the clocks"))
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                RefusalReason::UnknownAuthority,
                format!("wrong CA: the certificate, which claims to be {whose}, is signed by an unknown authority"),
            ),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                let text = claimed.map_or_else(|| cause.to_string(), |peer| self.wrong_role(&peer));
                (RefusalReason::WrongRole, text)
            }
            _ => (RefusalReason::Other, format!("the certificate {whose}: {cause}")),
        };
        TlsRefusal::new(reason, text).into_rustls()
    }
}

/// Judges the node that was dialled.
#[derive(Debug)]
struct NodeVerifier {
    roots: Arc<RootCertStore>,
    expected: Expected,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
            .map_err(|error| self.expected.explain(error, end_entity))?;
        self.expected.judge(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Judges whoever dials: rustls' verifier for chain and signatures, then ours for the names.
#[derive(Debug)]
struct DiallerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    expected: Expected,
}

impl ClientCertVerifier for DiallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.expected.explain(error, end_entity))?;
        self.expected.judge(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
