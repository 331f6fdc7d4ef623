//! Why a TLS session was refused or broken off: a reason to count, a sentence with the remedy.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, Side};

use super::fingerprint::Fingerprint;
use super::verify::WrongPin;

/// What went wrong, and on which side of it we were: as a client towards a backend, as a server towards a client.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFault {
    pub side: Side,
    pub cause: Cause,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cause {
    /// What came is no TLS: plain HTTP, for instance.
    NotTls,
    /// The stream ended before the handshake did.
    Closed,
    /// The stream ended in the middle of a record.
    Truncated,
    NoCommonVersion,
    NoCommonCipher,
    NoCommonAlpn,
    CertificateExpired,
    CertificateNotYetValid,
    UnknownCa,
    WrongName {
        /// The names in the peer's certificate.
        presented: Box<str>,
    },
    WrongPin {
        found: Fingerprint,
    },
    BadCertificate(Box<str>),
    NoClientCertificate,
    /// The peer broke off, and said why.
    Alert(AlertDescription),
    /// A record that was not sealed with the session's keys, or changed on its way.
    BadRecord,
    TooLongRecord,
    TooLongHandshake,
    /// A message that has no place where it came.
    Unexpected,
    /// A message of a form that it may not have.
    Malformed,
    /// Something else that peers do not do, in rustls' words.
    Misbehaved(Box<str>),
    /// The most that may be sealed with one key was sealed; TLS 1.2 cannot change it.
    Exhausted,
    /// Payload before the handshake was over.
    Handshaking,
    /// Our own doing.
    Internal(Box<str>),
}

impl Cause {
    pub(super) const fn is_no_common_alpn(&self) -> bool {
        matches!(self, Self::NoCommonAlpn | Self::Alert(AlertDescription::NoApplicationProtocol))
    }

    /// Whether a peer has said that it does not take our certificate, or wants one.
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Alert(
                AlertDescription::CertificateRequired
                    | AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied
                    | AlertDescription::DecryptError
            )
        )
    }

    /// What the peer is told, if anything.
    pub(super) const fn alert(&self) -> Option<AlertDescription> {
        Some(match self {
            Self::BadRecord => AlertDescription::BadRecordMac,
            Self::TooLongRecord => AlertDescription::RecordOverflow,
            Self::Unexpected | Self::Misbehaved(_) => AlertDescription::UnexpectedMessage,
            Self::NotTls | Self::TooLongHandshake | Self::Malformed => AlertDescription::DecodeError,
            Self::Internal(_) => AlertDescription::InternalError,
            _ => return None,
        })
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::NotTls => "tls_not_tls",
            Self::Closed => "tls_closed",
            Self::Truncated => "tls_truncated",
            Self::NoCommonVersion | Self::Alert(AlertDescription::ProtocolVersion) => "tls_no_common_version",
            Self::NoCommonCipher => "tls_no_common_cipher",
            Self::NoCommonAlpn | Self::Alert(AlertDescription::NoApplicationProtocol) => "tls_no_common_alpn",
            Self::CertificateExpired => "tls_certificate_expired",
            Self::CertificateNotYetValid => "tls_certificate_not_yet_valid",
            Self::UnknownCa => "tls_unknown_ca",
            Self::WrongName { .. } => "tls_wrong_name",
            Self::WrongPin { .. } => "tls_wrong_pin",
            Self::BadCertificate(_) => "tls_bad_certificate",
            Self::NoClientCertificate | Self::Alert(AlertDescription::CertificateRequired) => {
                "tls_no_client_certificate"
            }
            Self::Alert(_) => "tls_alert",
            Self::BadRecord => "tls_bad_record",
            Self::TooLongRecord => "tls_too_long_record",
            Self::TooLongHandshake => "tls_too_long_handshake",
            Self::Unexpected | Self::Malformed | Self::Misbehaved(_) => "tls_misbehaved",
            Self::Exhausted => "tls_exhausted",
            Self::Handshaking => "tls_handshaking",
            Self::Internal(_) => "tls_internal",
        }
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => certificate(error),
            Error::NoCertificatesPresented => Self::NoClientCertificate,
            Error::NoApplicationProtocol => Self::NoCommonAlpn,
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::DecryptError => Self::BadRecord,
            Error::PeerSentOversizedRecord => Self::TooLongRecord,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => Self::TooLongHandshake,
            Error::PeerIncompatible(why) => incompatible(&why),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Self::Unexpected
            }
            error @ (Error::InvalidMessage(_) | Error::PeerMisbehaved(_)) => {
                Self::Misbehaved(error.to_string().into())
            }
            error => Self::Internal(error.to_string().into()),
        }
    }
}

fn incompatible(why: &PeerIncompatible) -> Cause {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        // which versions before TLS 1.2 do not know
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => Cause::NoCommonVersion,
        _ => Cause::NoCommonCipher,
    }
}

fn certificate(error: CertificateError) -> Cause {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Cause::CertificateExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Cause::CertificateNotYetValid
        }
        // another authority of the same name has signed it
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::UnknownCa,
        CertificateError::NotValidForName => Cause::WrongName { presented: Box::default() },
        CertificateError::NotValidForNameContext { presented, .. } => {
            Cause::WrongName { presented: presented.join(", ").into() }
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(WrongPin { found }) => Cause::WrongPin { found: *found },
            None => Cause::BadCertificate(other.to_string().into()),
        },
        error => Cause::BadCertificate(error.to_string().into()),
    }
}

impl TlsFault {
    /// A word to count it under; it stays what it is.
    pub const fn as_str(&self) -> &'static str {
        self.cause.as_str()
    }

    /// Whether one end has offered protocols, and the other knows none of them.
    pub const fn is_no_common_alpn(&self) -> bool {
        self.cause.is_no_common_alpn()
    }
}

impl std::error::Error for TlsFault {}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Client => towards_backend(&self.cause, f),
            Side::Server => towards_client(&self.cause, f),
        }
    }
}

fn towards_backend(cause: &Cause, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match cause {
        Cause::NotTls => {
            f.write_str("the backend speaks no TLS: connect.transport is not what its side accepts, or the port is wrong")
        }
        Cause::Closed => f.write_str(
            "the backend closed the connection during the TLS handshake: does it speak TLS on this port (connect.transport)?",
        ),
        Cause::NoCommonVersion | Cause::Alert(AlertDescription::ProtocolVersion) => {
            f.write_str("the backend speaks neither TLS 1.2 nor 1.3: enable one of them there")
        }
        Cause::NoCommonCipher | Cause::Alert(AlertDescription::HandshakeFailure) => f.write_str(
            "the backend has no cipher suite, group or signature in common with us: allow AES-GCM or ChaCha20 with ECDHE there",
        ),
        Cause::NoCommonAlpn | Cause::Alert(AlertDescription::NoApplicationProtocol) => {
            f.write_str("the backend speaks none of the protocols that connect.alpn offers")
        }
        Cause::CertificateExpired => f.write_str(
            "the backend's certificate has expired: renew it there (or is this host's clock wrong?), or pin it with connect.verify",
        ),
        Cause::CertificateNotYetValid => {
            f.write_str("the backend's certificate is not valid yet: is this host's clock wrong?")
        }
        Cause::UnknownCa => f.write_str(
            "the backend's certificate comes from an authority that is not trusted: name its file in connect.ca, or pin the certificate with connect.verify",
        ),
        Cause::WrongName { presented } => write!(
            f,
            "the backend's certificate is for another name{}: set connect.sni to a name that it has",
            Presented(presented)
        ),
        Cause::WrongPin { found } => write!(
            f,
            "the backend's certificate is not the pinned one but {found}: if that is right, connect.verify = \"pin:{found}\""
        ),
        Cause::BadCertificate(why) => write!(f, "the backend's certificate cannot be used: {why}"),
        Cause::NoClientCertificate | Cause::Alert(AlertDescription::CertificateRequired) => {
            f.write_str("the backend wants a certificate of ours: set connect.cert and connect.key")
        }
        Cause::Alert(AlertDescription::UnrecognisedName) => {
            f.write_str("the backend does not know the name that it was asked for: see connect.sni")
        }
        Cause::Alert(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied),
        ) => write!(f, "the backend does not accept connect.cert ({alert:?}): its client authority has to know it"),
        Cause::Alert(alert) => write!(f, "the backend broke off the TLS session: {alert:?}; its log says why"),
        other => either(other, "the backend", f),
    }
}

fn towards_client(cause: &Cause, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match cause {
        Cause::NotTls => f.write_str(
            "the client speaks no TLS: its transport is not what accept.transport says (plain HTTP? another tunnel?)",
        ),
        Cause::Closed => f.write_str("the client closed the connection during the TLS handshake"),
        Cause::NoCommonVersion | Cause::Alert(AlertDescription::ProtocolVersion) => {
            f.write_str("the client speaks neither TLS 1.2 nor 1.3: enable one of them there")
        }
        Cause::NoCommonCipher | Cause::Alert(AlertDescription::HandshakeFailure) => {
            f.write_str("the client has no cipher suite, group or signature in common with us or with accept.cert's key")
        }
        Cause::NoCommonAlpn | Cause::Alert(AlertDescription::NoApplicationProtocol) => {
            f.write_str("the client offers none of the protocols in accept.alpn")
        }
        Cause::CertificateExpired => f.write_str("the client's certificate has expired: renew it there"),
        Cause::CertificateNotYetValid => {
            f.write_str("the client's certificate is not valid yet: is this host's clock wrong?")
        }
        Cause::UnknownCa => {
            f.write_str("the client's certificate does not come from an authority in accept.client_ca")
        }
        Cause::BadCertificate(why) => write!(f, "the client's certificate cannot be used: {why}"),
        Cause::NoClientCertificate => f.write_str(
            "the client has no certificate, and accept.client_ca wants one: give it one (connect.cert and connect.key, if it is a Relay)",
        ),
        Cause::Alert(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown),
        ) => write!(
            f,
            "the client does not accept our certificate ({alert:?}): it has to trust accept.cert's authority and ask for a name in it, or to pin it"
        ),
        Cause::Alert(alert) => write!(f, "the client broke off the TLS session: {alert:?}"),
        other => either(other, "the client", f),
    }
}

/// What reads the same of both.
fn either(cause: &Cause, who: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match cause {
        Cause::BadRecord => write!(f, "a TLS record from {who} was changed on its way, or is none"),
        Cause::Truncated => {
            write!(
                f,
                "{who} ended the connection in the middle of a TLS record: it, or something between, broke down"
            )
        }
        Cause::TooLongRecord => write!(f, "{who} sent a longer TLS record than there may be"),
        Cause::TooLongHandshake => {
            write!(f, "{who} sent a longer handshake than is read: fewer certificates in its chain?")
        }
        Cause::Unexpected => write!(f, "{who} sent a TLS message that has no place there"),
        Cause::Malformed => write!(f, "{who} sent a malformed TLS message"),
        Cause::Misbehaved(why) => write!(f, "{who} does not keep to TLS: {why}"),
        Cause::Exhausted => {
            write!(
                f,
                "the TLS 1.2 session with {who} has sent as much as one key may protect: TLS 1.3 has no such end"
            )
        }
        Cause::Handshaking => write!(f, "the TLS handshake with {who} is not over"),
        Cause::Internal(why) => write!(f, "TLS with {who} failed on our side: {why}"),
        other => write!(f, "the TLS session with {who} failed: {}", other.as_str()),
    }
}

/// Names in a certificate, if they are known.
struct Presented<'a>(&'a str);

impl fmt::Display for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}
