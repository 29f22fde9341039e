//! The TLS configuration of the client.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{ConfigError, ServerConfig};

/// The PEM texts of a TLS configuration, which may rotate.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Pems {
    pub(super) ca: Option<Vec<u8>>,
    /// Certificate chain and key.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pems {
    /// Read the configured files.
    pub(super) fn read(config: &ServerConfig) -> Result<Self, ConfigError> {
        let identity = match &config.identity {
            Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
            None => None,
        };
        let ca = config.ca.as_ref().map(super::Material::read).transpose()?;
        Ok(Self { ca, identity })
    }
}

/// Build the configuration. Without a CA, the system's certificates are trusted.
pub(super) fn client_config(pems: &Pems, insecure: bool) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| tls("TLS", &e))?;
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(pems.ca.as_deref())?)
    };
    let mut config = match &pems.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain).map_err(|e| tls("client-certificate", &e))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| tls("client-key", &e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| tls("client-certificate and client-key", &e))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            let what = "certificate-authority";
            for certificate in certificates(pem).map_err(|e| tls(what, &e))? {
                roots.add(certificate).map_err(|e| tls(what, &e))?;
            }
            if roots.is_empty() {
                return Err(tls(what, &"contains no certificate"));
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn tls(what: &str, reason: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Tls {
        what: what.into(),
        reason: reason.to_string(),
    }
}

/// `insecure-skip-tls-verify`: accepts any certificate; signatures are still verified.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
