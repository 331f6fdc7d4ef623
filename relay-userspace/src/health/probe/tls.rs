//! TLS as probes speak it: with the certificate looked at, or not.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::ProbeError;
use crate::health::prober::Probe;

/// What all probes share.
pub(in crate::health) struct Tls {
    verifying: Arc<ClientConfig>,
    trusting: Arc<ClientConfig>,
}

impl Tls {
    /// `roots` are the authorities that certificates must come from.
    pub fn new(roots: RootCertStore) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut verifying = builder()?.with_root_certificates(roots).with_no_client_auth();
        let anybody = Arc::new(Anybody(provider.clone()));
        let mut trusting =
            builder()?.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
        for config in [&mut verifying, &mut trusting] {
            // a probe asks for what a new client would get, and keeps nothing
            config.resumption = rustls::client::Resumption::disabled();
        }
        Ok(Self { verifying: verifying.into(), trusting: trusting.into() })
    }

    /// The authorities that browsers know.
    pub fn public_roots() -> RootCertStore {
        RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
    }

    /// The beginning of a handshake, for a name or the endpoint's address.
    pub(super) fn connection(
        &self,
        probe: &Probe,
        name: Option<&str>,
        verify: bool,
    ) -> Result<Box<ClientConnection>, ProbeError> {
        let config = if verify { &self.verifying } else { &self.trusting };
        let name = match name.or(probe.name.as_deref()) {
            None => ServerName::from(probe.address.ip()),
            // a name may end in the root's dot, a certificate's does not
            Some(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|error| ProbeError::Tls(format!("{name:?}: {error}").into()))?,
        };
        let connection = ClientConnection::new(config.clone(), name);
        connection.map(Box::new).map_err(|error| ProbeError::Tls(error.to_string().into()))
    }
}

/// Takes any certificate, as long as its owner has the key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
