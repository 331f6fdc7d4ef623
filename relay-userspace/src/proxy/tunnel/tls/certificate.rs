//! What people want to know of a certificate: whose it is, and when.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use super::fingerprint::Fingerprint;

/// A certificate, as far as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    pub subject: Box<str>,
    pub begins: SystemTime,
    pub ends: SystemTime,
    /// The day of that, as 2027-01-03.
    pub last_day: Box<str>,
    pub fingerprint: Fingerprint,
}

impl Certificate {
    /// `None` for what is none.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string().into(),
            begins: moment(validity.not_before.timestamp()),
            ends: moment(validity.not_after.timestamp()),
            last_day: validity.not_after.to_datetime().date().to_string().into(),
            fingerprint: Fingerprint::of(der),
        })
    }
}

/// Certificates of authorities may be older than Unix.
fn moment(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, last_day, fingerprint, .. } = self;
        let subject = if subject.is_empty() { "no subject" } else { subject };
        write!(f, "certificate {subject}, valid until {last_day}, {fingerprint}")
    }
}
