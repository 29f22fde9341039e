//! Certificates, generated at startup.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// A CA and the server's certificate.
pub(crate) struct Certificates {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    server: (String, String),
}

impl Certificates {
    pub(crate) fn generate(address: IpAddr, more: &[IpAddr]) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "sim-ca");
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        let ca = Issuer::new(params, key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let addresses = [&[address], more].concat();
        let names = addresses.into_iter().map(SanType::IpAddress);
        params.subject_alt_names.extend(names);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = signed(&params, &ca)?;
        Ok(Self { ca, ca_pem, server })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(crate) fn client_pem(&self, name: &str) -> anyhow::Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        signed(&params, &self.ca)
    }

    pub(crate) fn acceptor(&self, client_certificate: bool) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = &self.server;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let config = builder
            .with_single_cert(chain, key)
            .context("server certificate")?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn signed(
    params: &CertificateParams,
    ca: &Issuer<'static, KeyPair>,
) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
