//! What a rule's clients meet: its certificate, and which certificates they need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::files::{ConfigFault, Made};
use super::fingerprint::Fingerprint;
use super::identity::{self, Pair};
use super::self_signed;
use crate::rule::tunnel::{AcceptTls, Identity};

/// TLS of a rule's listeners.
pub struct ServerTls {
    made: Made<Served>,
}

#[derive(Clone)]
struct Served {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

impl ServerTls {
    /// Reads the files; makes a certificate in the state folder, where the rule wants one that is self-signed.
    pub fn open(settings: &AcceptTls, state_dir: &Path) -> Result<Self, ConfigFault> {
        let (cert, key) = match &settings.identity {
            Identity::Files { cert, key } => (cert.clone(), key.clone()),
            Identity::SelfSigned { name } => {
                let file = self_signed::file(state_dir, name)?;
                (file.clone(), file)
            }
        };
        let paths = [Some(&cert), Some(&key), settings.client_ca.as_ref()];
        let paths = paths.into_iter().flatten().cloned().collect();
        let (client_ca, alpn) = (settings.client_ca.clone(), settings.alpn.clone());
        let made = Made::new(paths, move || serve(&cert, &key, client_ca.as_ref(), &alpn))?;
        Ok(Self { made })
    }

    /// What new sessions get.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.made.latest().config
    }

    /// The certificate's, as clients may pin it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate())
    }

    /// The certificate that clients are shown.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.made.latest().leaf
    }

    /// Looks whether the files have changed, and reads them if so. Whether new sessions get something new; an error is
    /// returned once, and what was there stays.
    pub fn refresh(&self) -> Result<bool, ConfigFault> {
        self.made.refresh()
    }
}

fn serve(
    cert: &Path,
    key: &Path,
    client_ca: Option<&PathBuf>,
    alpn: &[Box<str>],
) -> Result<Served, ConfigFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(identity::roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| ConfigFault::Malformed {
                path: path.clone(),
                why: error.to_string().into(),
            })?)
        }
    };
    let Pair { chain, key: private } = Pair::read(cert, key)?;
    let leaf = chain.first().cloned().ok_or_else(|| ConfigFault::NoCertificate(cert.into()))?;
    let mut config =
        builder.with_single_cert(chain, private).map_err(|error| identity::refused(error, cert, key))?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    // tickets only: nothing is kept here for clients that may never come back. They end with the configuration, so that
    // nobody comes back under another authority than the one that let it in
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    config.enable_secret_extraction = true;
    Ok(Served { config: config.into(), leaf })
}
