//! TLS as probes speak it: with the certificate looked at, or not.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore};

use super::ProbeError;
use crate::health::prober::Probe;
use crate::proxy::tunnel::tls::verify::Unsigned;

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
        let any = Arc::new(Unsigned::any());
        let mut trusting = builder()?.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
        for config in [&mut verifying, &mut trusting] {
            // a probe asks for what a new client would get, and keeps nothing
            config.resumption = rustls::client::Resumption::disabled();
        }
        Ok(Self { verifying: verifying.into(), trusting: trusting.into() })
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
