//! Certificates that `meshwork cert` would not issue: another cluster's name under our authority's signature.

use meshwork_transport::{PemPair, Role};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use std::path::Path;

/// A pair signed by the authority in `directory`, whose URI names `cluster`.
pub(crate) fn pair(directory: &Path, cluster: &str, role: Role, name: &str) -> PemPair {
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).expect("the authority's files");
    let authority = KeyPair::from_pem(&read("ca.key")).expect("the authority's key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), authority).expect("the authority's certificate");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    let uri = format!("meshwork://{cluster}/{role}/{name}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("plain ASCII"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    PemPair { cert: cert.pem(), key: key.serialize_pem() }
}
