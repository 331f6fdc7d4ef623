//! Looking at certificates in other ways than by their authority: the pinned one, or any.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::fingerprint::Fingerprint;

/// Takes a certificate whatever it says, as long as its owner has the key.
#[derive(Debug)]
pub struct Unsigned {
    pin: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Lets another one decide, and keeps what was shown.
#[derive(Debug)]
pub struct Witness {
    judge: Arc<dyn ServerCertVerifier>,
    seen: OnceLock<CertificateDer<'static>>,
}

/// The certificate that came in place of the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is {found}")]
pub(super) struct WrongPin {
    pub found: Fingerprint,
}

impl Unsigned {
    /// Any certificate.
    pub fn any() -> Self {
        Self { pin: None, algorithms: aws_lc_rs::default_provider().signature_verification_algorithms }
    }

    /// The one with this fingerprint, or any with the public key (SubjectPublicKeyInfo) that has it.
    pub fn pinned(pin: Fingerprint) -> Self {
        Self { pin: Some(pin), ..Self::any() }
    }
}

impl ServerCertVerifier for Unsigned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(certificate);
        let is_pinned = match self.pin {
            None => true,
            Some(pin) => found == pin || key_of(certificate)? == pin,
        };
        if is_pinned {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongPin { found }))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Witness {
    pub fn new(judge: Arc<dyn ServerCertVerifier>) -> Self {
        Self { judge, seen: OnceLock::new() }
    }

    /// The first certificate that was shown.
    pub fn seen(&self) -> Option<&CertificateDer<'static>> {
        self.seen.get()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.seen.get_or_init(|| certificate.clone().into_owned());
        self.judge.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    Ok(Fingerprint::of_bytes(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
}
