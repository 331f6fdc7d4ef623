//! Certificates and keys out of files: PEM, or DER.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, RootCertStore};

use super::files::ConfigFault;

const PEM: &[u8] = b"-----BEGIN";

/// A chain and the key of its first certificate.
pub struct Pair {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Pair {
    /// Both may be in one file.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, ConfigFault> {
        Ok(Self { chain: certificates(cert)?, key: private_key(key)? })
    }
}

/// What rustls has against a pair from these files.
pub fn refused(error: Error, cert: &Path, key: &Path) -> ConfigFault {
    match error {
        Error::InconsistentKeys(_) => ConfigFault::Mismatch { cert: cert.into(), key: key.into() },
        Error::General(why) => ConfigFault::Malformed { path: key.into(), why: why.into() },
        error => ConfigFault::Malformed { path: cert.into(), why: error.to_string().into() },
    }
}

/// The authorities in a file.
pub fn roots(path: &Path) -> Result<RootCertStore, ConfigFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| malformed(path, &error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigFault> {
    let bytes = read(path)?;
    if !is_pem(&bytes) && !bytes.is_empty() {
        return Ok(vec![bytes.into()]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(path, &error))?;
    if found.is_empty() { Err(ConfigFault::NoCertificate(path.into())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigFault> {
    let bytes = read(path)?;
    let key = if is_pem(&bytes) {
        PrivateKeyDer::from_pem_slice(&bytes).ok()
    } else {
        PrivateKeyDer::try_from(bytes).ok()
    };
    key.ok_or_else(|| ConfigFault::NoKey(path.into()))
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(PEM.len()).any(|window| window == PEM)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigFault> {
    fs::read(path).map_err(|error| ConfigFault::Read { path: path.into(), why: error.to_string().into() })
}

fn malformed(path: &Path, error: &impl ToString) -> ConfigFault {
    ConfigFault::Malformed { path: path.into(), why: error.to_string().into() }
}
