//! An authority, and the certificates that it gives out.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// Who signs certificates. Its own is `NAME.pem` in the folder.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: std::path::PathBuf,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("an authority");
        fs::write(folder.join(format!("{name}.pem")), issuer.pem()).expect("certificate");
        Self { issuer, folder: folder.to_owned() }
    }

    /// A certificate for a host, `FILE.pem` and `FILE.key`. Its subject is the file's name.
    pub fn issue(&self, file: &str, host: &str) {
        self.sign(file, CertificateParams::new([host.to_owned()]).expect("a host"));
    }

    /// The same; its time is over.
    pub fn issue_expired(&self, file: &str, host: &str) {
        let mut params = CertificateParams::new([host.to_owned()]).expect("a host");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign(file, params);
    }

    fn sign(&self, file: &str, mut params: CertificateParams) {
        params.distinguished_name.push(DnType::CommonName, file);
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.put(&format!("{file}.key"), &key.serialize_pem());
        self.put(&format!("{file}.pem"), &certificate.pem());
    }

    /// At once, as renewals do: nobody reads half a file.
    fn put(&self, name: &str, text: &str) {
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text).and_then(|()| fs::rename(new, self.folder.join(name))).expect(name);
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
