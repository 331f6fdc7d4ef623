//! Asking the host's resolver for the addresses of a name.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a name may take. The resolver turns to its second server after five seconds, and gives up on a single one
/// after ten.
const PATIENCE: Duration = Duration::from_secs(12);

/// All addresses of a name, the best first; never none.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    let answers: Vec<IpAddr> = match timeout(PATIENCE, lookup_host((name, 0))).await {
        Err(_elapsed) => return Err("the name server does not answer".into()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(answers)) => answers.map(|answer| answer.ip()).collect(),
    };
    if answers.is_empty() { Err("the name has no address".into()) } else { Ok(answers) }
}
