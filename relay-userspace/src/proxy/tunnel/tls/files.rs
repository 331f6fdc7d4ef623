//! What is made of files, and made again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a configuration of TLS cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigFault {
    #[error("cannot read {}: {why}", path.display())]
    Read { path: PathBuf, why: Box<str> },
    #[error("cannot keep a certificate in {}: {why}", path.display())]
    Write { path: PathBuf, why: Box<str> },
    #[error("{} has no certificate: PEM with BEGIN CERTIFICATE is expected", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} has no key: PEM with BEGIN PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY is expected", .0.display())]
    NoKey(PathBuf),
    #[error("{}: {why}", path.display())]
    Malformed { path: PathBuf, why: Box<str> },
    #[error("the key in {} does not belong to the first certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{0:?} is neither a DNS name nor an address")]
    Name(Box<str>),
    #[error("TLS cannot be set up: {0}")]
    Other(Box<str>),
}

impl From<rustls::Error> for ConfigFault {
    fn from(error: rustls::Error) -> Self {
        Self::Other(error.to_string().into())
    }
}

/// Something made of files.
pub struct Made<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, ConfigFault> + Send + Sync>,
    latest: Mutex<Latest<T>>,
}

struct Latest<T> {
    value: T,
    stamps: Vec<Option<Stamp>>,
    /// What was wrong with the files at the last look, and has been said.
    fault: Option<ConfigFault>,
}

/// What changes with a file.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: Clone> Made<T> {
    pub fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, ConfigFault> + Send + Sync + 'static,
    ) -> Result<Self, ConfigFault> {
        // looked at before they are read: what changes in between is seen as a change
        let stamps = stamps(&paths);
        let value = make()?;
        Ok(Self { paths, make: Box::new(make), latest: Mutex::new(Latest { value, stamps, fault: None }) })
    }

    pub fn latest(&self) -> T {
        self.lock().value.clone()
    }

    /// Looks at the files. Whether there is something new; what is wrong with them is said once, and the old stays.
    pub fn refresh(&self) -> Result<bool, ConfigFault> {
        let stamps = stamps(&self.paths);
        {
            let latest = self.lock();
            // what could not be read is tried again, even if it looks the same
            if latest.stamps == stamps && latest.fault.is_none() {
                return Ok(false);
            }
        }
        let made = (self.make)();
        let mut latest = self.lock();
        latest.stamps = stamps;
        match made {
            Ok(value) => {
                latest.value = value;
                latest.fault = None;
                Ok(true)
            }
            Err(fault) if latest.fault.as_ref() == Some(&fault) => Ok(false),
            Err(fault) => {
                latest.fault = Some(fault.clone());
                Err(fault)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Latest<T>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` for what cannot be looked at.
fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: file.ino(),
        size: file.size(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}
