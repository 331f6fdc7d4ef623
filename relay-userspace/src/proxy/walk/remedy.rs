//! Which keys of a rule a backend's fault points to.

use rustls::AlertDescription;

use crate::proxy::tunnel::Fault;
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::tls::Cause;
use crate::proxy::tunnel::ws::HandshakeFault;

const TRANSPORT: &[&str] = &["connect.transport"];

/// The keys that may not be what the other end wants; none: it is not about keys.
pub(super) const fn options(fault: &Fault) -> &'static [&'static str] {
    match fault {
        Fault::Tls(fault) => of_tls(&fault.cause),
        Fault::Name(_) => &["connect.sni"],
        Fault::Handshake(fault) => of_upgrade(fault),
        Fault::Datagrams(_) => &["connect.udp_over"],
        Fault::Lost(_) => &["connect.mux"],
        Fault::Frame(_) | Fault::Silent | Fault::Ended | Fault::TooMuch => TRANSPORT,
        Fault::Late => &["connect.transport", "timeout.handshake"],
    }
}

const fn of_tls(cause: &Cause) -> &'static [&'static str] {
    match cause {
        Cause::NotTls | Cause::Closed | Cause::Truncated => TRANSPORT,
        Cause::UnknownCa => &["connect.ca", "connect.verify"],
        Cause::WrongName { .. } | Cause::Alert(AlertDescription::UnrecognisedName) => &["connect.sni"],
        Cause::CertificateExpired
        | Cause::CertificateNotYetValid
        | Cause::WrongPin { .. }
        | Cause::BadCertificate(_) => &["connect.verify"],
        Cause::NoClientCertificate
        | Cause::Alert(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => &["connect.cert", "connect.key"],
        Cause::NoCommonAlpn | Cause::Alert(AlertDescription::NoApplicationProtocol) => &["connect.alpn"],
        _ => &[],
    }
}

const fn of_upgrade(fault: &HandshakeFault) -> &'static [&'static str] {
    match fault {
        HandshakeFault::NotHttp | HandshakeFault::Tls | HandshakeFault::NotWebsocket => TRANSPORT,
        HandshakeFault::Refused { status: 401 | 403 } => &["connect.token"],
        HandshakeFault::Refused { status: 300..=399 } => &["connect.host", "connect.transport"],
        HandshakeFault::Refused { status: 500..=599 } => &[],
        HandshakeFault::Refused { .. } => &["connect.path", "connect.host", "connect.token"],
        // realm's at another host or path, or no WebSocket at all behind TLS
        HandshakeFault::Closed => &["connect.host", "connect.path", "connect.transport"],
        HandshakeFault::Unwilling(Purpose::Datagrams) => &["connect.udp_over"],
        HandshakeFault::Unwilling(Purpose::Session | Purpose::Streams) => &["connect.mux"],
        HandshakeFault::HeadTooLong
        | HandshakeFault::WrongHost { .. }
        | HandshakeFault::WrongPath { .. }
        | HandshakeFault::WrongToken
        | HandshakeFault::WrongAccept
        | HandshakeFault::Extension(_) => &[],
    }
}
