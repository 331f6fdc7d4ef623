//! What a rule's backends have to be, and what they get to see of us.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::files::{ConfigFault, Made};
use super::fingerprint::Fingerprint;
use super::identity::{self, Pair};
use super::provider::provider;
use super::tickets::Tickets;
use super::verify::{Unsigned, Witness};
use crate::rule::tunnel::{ConnectTls, Verify};

/// TLS towards a rule's backends.
pub struct ClientTls {
    made: Made<Arc<ClientConfig>>,
}

impl ClientTls {
    pub fn open(settings: &ConnectTls) -> Result<Self, ConfigFault> {
        // where certificates are looked at otherwise, there are no authorities
        let ca = settings.ca.clone().filter(|_path| settings.verify == Verify::Ca);
        let mut paths: Vec<PathBuf> = ca.iter().cloned().collect();
        if let Some((cert, key)) = &settings.identity {
            paths.extend([cert.clone(), key.clone()]);
        }
        let settings = settings.clone();
        Ok(Self { made: Made::new(paths, move || connect(&settings, ca.as_deref()))? })
    }

    /// What new sessions get.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.made.latest()
    }

    /// Looks whether the files have changed, and reads them if so. Whether new sessions get something new; an error is
    /// returned once, and what was there stays.
    pub fn refresh(&self) -> Result<bool, ConfigFault> {
        self.made.refresh()
    }
}

/// The name or address that a backend's certificate has to be for. An address is not sent as the name that is asked for.
pub fn server_name(host: &str) -> Result<ServerName<'static>, ConfigFault> {
    let name = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    // a name may end in the root's dot, a certificate's does not
    let name = name.strip_suffix('.').unwrap_or(name).to_owned();
    ServerName::try_from(name).map_err(|_form| ConfigFault::Name(host.into()))
}

/// A configuration like those of sessions for one handshake in full, and who sees the certificate that comes, also one that
/// is refused.
pub fn witnessed(settings: &ConnectTls) -> Result<(Arc<ClientConfig>, Arc<Witness>), ConfigFault> {
    let witness = Arc::new(Witness::new(verifier(settings, settings.ca.as_deref())?));
    let mut config = configured(settings, witness.clone())?;
    config.resumption = Resumption::disabled();
    Ok((config.into(), witness))
}

fn connect(settings: &ConnectTls, ca: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigFault> {
    configured(settings, verifier(settings, ca)?).map(Arc::new)
}

/// Who looks at the other end's certificate.
fn verifier(settings: &ConnectTls, ca: Option<&Path>) -> Result<Arc<dyn ServerCertVerifier>, ConfigFault> {
    Ok(match settings.verify {
        Verify::Insecure => Arc::new(Unsigned::any()),
        Verify::Pin(pin) => Arc::new(Unsigned::pinned(Fingerprint(pin))),
        Verify::Ca => {
            let roots = ca.map_or_else(|| Ok(public_roots()), identity::roots)?;
            let provider = provider();
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
            verifier.map_err(|error| ConfigFault::Other(error.to_string().into()))?
        }
    })
}

fn configured(
    settings: &ConnectTls,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, ConfigFault> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let pair = Pair::read(cert, key)?;
            let config = builder.with_client_auth_cert(pair.chain, pair.key);
            config.map_err(|error| identity::refused(error, cert, key))?
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::store(Arc::new(Tickets::new()));
    config.enable_secret_extraction = true;
    Ok(config)
}

/// TLS towards servers that are no backends: known by the authorities in a file, or by those that browsers know.
pub fn trusting(ca: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigFault> {
    let roots = ca.map_or_else(|| Ok(public_roots()), identity::roots)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth().into())
}

/// The authorities that browsers know.
pub fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
