//! Serving the API: on the Unix socket with everything, on TCP with metrics and health alone.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Group, geteuid};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::routes;
use crate::config::Settings;
use crate::supervisor::Shared;

/// How long open requests may take once relayd stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running servers.
pub struct Servers {
    tasks: JoinSet<io::Result<()>>,
    stop: watch::Sender<bool>,
    socket: PathBuf,
}

/// Who is at the other end of the Unix socket.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Root and relayd's own user may change things; the group may look.
    pub may_write: bool,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let uid = stream.io().peer_cred().ok().map(|peer| peer.uid());
        Self { may_write: uid.is_some_and(|uid| uid == 0 || uid == geteuid().as_raw()) }
    }
}

/// Starts listening. Fails if another relayd has the socket.
pub async fn start(settings: &Settings, shared: &Arc<Shared>) -> anyhow::Result<Servers> {
    let unix = bind_unix(&settings.socket).await?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let app = routes::all(shared.clone()).into_make_service_with_connect_info::<Peer>();
    tasks.spawn(serve_unix(unix, app, stopped.clone()));
    if let Some(address) = settings.metrics {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("[metrics] listen: cannot listen on {address}"))?;
        tasks.spawn(serve_tcp(listener, routes::metrics_only(shared.clone()), stopped));
    }
    Ok(Servers { tasks, stop, socket: settings.socket.clone() })
}

type App = axum::extract::connect_info::IntoMakeServiceWithConnectInfo<Router, Peer>;

async fn serve_unix(listener: UnixListener, app: App, stopped: watch::Receiver<bool>) -> io::Result<()> {
    axum::serve(listener, app).with_graceful_shutdown(until(stopped)).await
}

async fn serve_tcp(listener: TcpListener, app: Router, stopped: watch::Receiver<bool>) -> io::Result<()> {
    axum::serve(listener, app).with_graceful_shutdown(until(stopped)).await
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _sender_gone = stopped.wait_for(|stopped| *stopped).await;
}

impl Servers {
    /// Lets requests finish, for a moment, and goes.
    pub async fn shutdown(&mut self) {
        let _nobody_listens = self.stop.send(true);
        let _event_streams_never_end =
            timeout(PATIENCE, async { while self.tasks.join_next().await.is_some() {} }).await;
        self.tasks.abort_all();
        let _already_gone = fs::remove_file(&self.socket);
    }
}

async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder of the socket {shown}"))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another relayd is running: something answers on {shown}");
    }
    // left by a relayd that was killed
    let _not_there = fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if geteuid().is_root()
        && let Ok(Some(group)) = Group::from_name("relay")
    {
        chown(path, None, Some(group.gid.as_raw()))?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;
    use crate::api::client::{Client, ClientError};
    use crate::api::problem::{ApiProblem, Code};
    use crate::api::view::StatusView;
    use crate::supervisor::shared::Snapshot;

    /// A relayd that listens and has not come further.
    async fn starting() -> (TempDir, Arc<Shared>, Servers) {
        let folder = tempfile::tempdir().expect("folder");
        let settings = Settings { socket: folder.path().join("sock"), ..Settings::default() };
        let shared = Arc::new(Shared::new(mpsc::channel(1).0));
        let servers = start(&settings, &shared).await.expect("servers");
        (folder, shared, servers)
    }

    #[tokio::test]
    async fn what_is_asked_too_early_waits_for_the_answer() {
        let (_folder, shared, servers) = starting().await;
        let mut client = Client::connect(&servers.socket).await.expect("connect");
        let publish = async {
            sleep(Duration::from_millis(100)).await;
            shared.publish(Snapshot { config: Some("there now".into()), ..Snapshot::default() });
        };
        let (status, ()) = tokio::join!(client.get::<StatusView>("/v1/status"), publish);
        assert_eq!(status.expect("status").config.as_deref(), Some("there now"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_takes_too_long_is_said_to_be_one() {
        let (_folder, _shared, servers) = starting().await;
        for path in ["/v1/rules", "/v1/status", "/metrics", "/healthz"] {
            let mut client = Client::connect(&servers.socket).await.expect("connect");
            let answer = client.get::<Value>(path).await.expect_err(path);
            let ClientError::Refused(ApiProblem { status, code, detail }) = answer else {
                panic!("{path}: {answer}")
            };
            assert_eq!((status, code), (503, Code::Starting), "{path}");
            assert!(detail.contains("ask again"), "{detail}");
        }
    }
}
