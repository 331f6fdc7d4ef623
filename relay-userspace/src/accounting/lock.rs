//! One relayd for a state folder: two would each count what both carry.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::sleep;

/// What the file is called in `state_dir`.
const FILE: &str = "relayd.lock";
/// How long one that is stopping gets: its sessions may take five seconds to finish.
const PATIENCE: Duration = Duration::from_secs(8);
const PACE: Duration = Duration::from_millis(50);

/// The folder is ours while this is there, whatever ends us.
#[derive(Debug)]
#[must_use = "the folder is anybody's without it"]
pub struct StateLock {
    _held: Flock<File>,
}

/// Takes a state folder.
///
/// # Errors
///
/// Another relayd has it, or it cannot be written to.
pub async fn take(folder: &Path) -> anyhow::Result<StateLock> {
    take_within(folder, PATIENCE).await
}

async fn take_within(folder: &Path, patience: Duration) -> anyhow::Result<StateLock> {
    let path = folder.join(FILE);
    let open = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = open.with_context(|| format!("cannot write to {}", path.display()))?;
    let began = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(StateLock { _held: held }),
            Err((back, Errno::EWOULDBLOCK)) if began.elapsed() < patience => file = back,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another relayd has the state folder {}; stop it, or set another state_dir",
                folder.display()
            ),
            Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
        }
        sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_one_relayds() {
        let folder = tempfile::tempdir().expect("folder");
        let first = take_within(folder.path(), Duration::ZERO).await.expect("free");
        let refused = take_within(folder.path(), Duration::ZERO).await.expect_err("taken").to_string();
        assert!(refused.contains("another relayd has the state folder"), "{refused}");
        drop(first);
        take_within(folder.path(), Duration::ZERO).await.map(drop).expect("free again");
    }
}
