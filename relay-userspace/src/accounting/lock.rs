//! One relayd for a state folder: two would each count what both carry.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::sleep;

/// How long one that is stopping gets: its sessions may take five seconds to finish.
const PATIENCE: Duration = Duration::from_secs(8);
const PACE: Duration = Duration::from_millis(50);

/// The folder is ours while this is there, whatever ends us.
#[derive(Debug)]
#[must_use = "the folder is anybody's without it"]
pub struct StateLock {
    /// `None` where the file system has no locks.
    _held: Option<Flock<File>>,
}

/// Takes a state folder.
///
/// # Errors
///
/// Another relayd has it.
pub async fn take(folder: &Path) -> anyhow::Result<StateLock> {
    take_within(folder, PATIENCE).await
}

async fn take_within(folder: &Path, patience: Duration) -> anyhow::Result<StateLock> {
    let began = Instant::now();
    // the folder itself: a file in it would need room on its disk
    let mut file = match File::open(folder) {
        Ok(file) => file,
        Err(error) => return Ok(without(folder, &error)),
    };
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(StateLock { _held: Some(held) }),
            Err((back, Errno::EWOULDBLOCK)) if began.elapsed() < patience => file = back,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another relayd has the state folder {}; stop it, or set another state_dir",
                folder.display()
            ),
            Err((_, error)) => return Ok(without(folder, &error)),
        }
        sleep(PACE).await;
    }
}

/// To forward matters more.
fn without(folder: &Path, error: &dyn std::error::Error) -> StateLock {
    tracing::warn!("{} cannot be locked ({error}); see that no other relayd uses it", folder.display());
    StateLock { _held: None }
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
