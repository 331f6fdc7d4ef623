//! An authority of our own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::super::self_signed::pem;

pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = named("authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("authority");
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("ca.pem"), pem("CERTIFICATE", issuer.as_ref().der())).expect("write");
        Self { folder, issuer }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// A certificate for `name` and its key, in files.
    pub fn issue(&self, name: &str, adjust: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        let mut parameters = named(name);
        adjust(&mut parameters);
        let key = KeyPair::generate().expect("key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("certificate");
        let (cert_file, key_file) =
            (self.folder().join(format!("{name}.pem")), self.folder().join(format!("{name}.key")));
        fs::write(&cert_file, pem("CERTIFICATE", certificate.der())).expect("write");
        fs::write(&key_file, pem("PRIVATE KEY", &key.serialize_der())).expect("write");
        (cert_file, key_file)
    }

    /// What [`Self::issue`] has written.
    pub fn pair(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let at = |ending| self.folder().join(format!("{name}.{ending}"));
        let certificate = CertificateDer::from_pem_file(at("pem")).expect("certificate");
        (vec![certificate], PrivateKeyDer::from_pem_file(at("key")).expect("key"))
    }
}

fn named(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new([name.to_owned()]).expect("parameters");
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}
