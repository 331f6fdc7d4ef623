//! A certificate that nobody has signed, for those who pin it: made once, and kept.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::ServerName;

use super::files::ConfigFault;
use crate::config::save::save_secret;

/// The folder for them, in the state folder.
const FOLDER: &str = "tls";
/// The most that X.509 lets a common name have.
const LONGEST_COMMON_NAME: usize = 64;
const PEM_LINE: usize = 64;

/// The file with the certificate for `name` and its key, which is made if it is not there.
pub fn file(state_dir: &Path, name: &str) -> Result<PathBuf, ConfigFault> {
    // nor is there a path in what is a name
    ServerName::try_from(name).map_err(|_form| ConfigFault::Name(name.into()))?;
    let folder = state_dir.join(FOLDER);
    let path = folder.join(format!("{name}.pem"));
    let cannot = |error: io::Error| ConfigFault::Write { path: path.clone(), why: error.to_string().into() };
    if !fs::exists(&path).map_err(cannot)? {
        let text = make(name).map_err(|error| ConfigFault::Other(error.to_string().into()))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(cannot)?;
        save_secret(&path, &text).map_err(cannot)?;
    }
    Ok(path)
}

fn make(name: &str) -> Result<String, rcgen::Error> {
    let mut parameters = CertificateParams::new([name.to_owned()])?;
    parameters.distinguished_name = DistinguishedName::new();
    if name.len() <= LONGEST_COMMON_NAME {
        parameters.distinguished_name.push(DnType::CommonName, name);
    }
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // ECDSA with P-256; valid for as long as dates go, since pins do not expire
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok(pem("PRIVATE KEY", &key.serialize_der()) + &pem("CERTIFICATE", certificate.der()))
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = behind;
    }
    pem + &format!("-----END {label}-----\n")
}
