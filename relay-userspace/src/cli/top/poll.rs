//! Asking relayd again and again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::api::client::{Client, ClientError};
use crate::api::view::{RuleView, StatusView};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What relayd has counted at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pub rules: Vec<RuleView>,
    pub status: StatusView,
}

impl Sample {
    pub async fn take(socket: &Path) -> Result<Self, ClientError> {
        Self::ask(&mut Client::connect(socket).await?).await
    }

    async fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let rules = client.get("/v1/rules").await?;
        // at once, since the rates are what was counted between two of these
        let at = Instant::now();
        let status = client.get("/v1/status").await?;
        Ok(Self { at, rules, status })
    }
}

/// Sends what relayd answers, or why it does not, in this pace; over one connection as long as that lasts.
pub async fn poll(
    socket: PathBuf,
    mut pace: watch::Receiver<Duration>,
    answers: mpsc::Sender<Result<Sample, String>>,
) {
    let mut connection: Option<Client> = None;
    loop {
        let interval = *pace.borrow_and_update();
        tokio::select! {
            () = sleep(interval) => {}
            changed = pace.changed() => if changed.is_err() { return },
        }
        let asked = timeout(PATIENCE, async {
            let client = match &mut connection {
                Some(client) => client,
                none => none.insert(Client::connect(&socket).await?),
            };
            Sample::ask(client).await
        });
        let answer = match asked.await {
            Ok(Ok(sample)) => Ok(sample),
            Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
            Err(_late) => Err(format!("relayd has not answered for {} s", PATIENCE.as_secs())),
        };
        if answer.is_err() {
            connection = None;
        }
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}
