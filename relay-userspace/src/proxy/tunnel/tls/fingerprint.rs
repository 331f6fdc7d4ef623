//! A certificate's fingerprint, as it is shown and pinned.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;

/// The SHA-256 of a certificate, or of its public key. Shown as `sha256/BASE64`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// A certificate's own.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self::of_bytes(certificate)
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64.encode(&self.0))
    }
}
