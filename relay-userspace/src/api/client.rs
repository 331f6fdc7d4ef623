//! Asking relayd over its Unix socket.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::problem::ApiProblem;

/// A connection to relayd.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

/// Why relayd gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("relayd is not reachable at {path}: {cause}; {remedy}")]
    Unreachable { path: String, cause: io::Error, remedy: &'static str },
    #[error("{}", .0.detail)]
    Refused(ApiProblem),
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

fn unreachable(socket: &Path, cause: io::Error) -> ClientError {
    let remedy = match cause.kind() {
        io::ErrorKind::PermissionDenied => "run relayctl as root, or look on as a member of the group relay",
        io::ErrorKind::ConnectionRefused => "it has ended without cleaning up; start it again",
        _ => "start it (systemctl start relayd), or name its socket with --socket",
    };
    ClientError::Unreachable { path: socket.display().to_string(), cause, remedy }
}

impl Client {
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|cause| unreachable(socket, cause))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("relayd does not speak HTTP")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ends_with_the_client = connection.await;
        });
        Ok(Self { sender, _connection: tasks })
    }

    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, String::new()).await
    }

    /// Sends a request and reads the answer.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await.context("relayd broke off its answer")?.to_bytes();
        if status.is_success() {
            return Ok(serde_json::from_slice(&bytes)
                .context("relayd's answer is not understood; is it another version?")?);
        }
        Err(refusal(status, &bytes)?)
    }

    /// Asks for server-sent events.
    pub async fn follow(&mut self, path: &str) -> Result<Events, ClientError> {
        let response = self.send(Method::GET, path, String::new()).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Events { body: response.into_body(), text: Vec::new() });
        }
        let bytes = response.into_body().collect().await.context("relayd broke off its answer")?.to_bytes();
        Err(refusal(status, &bytes)?)
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "relay")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("that is no request")?;
        Ok(self.sender.send_request(request).await.context("relayd closed the connection")?)
    }
}

/// What an answer says that is no success.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Result<ClientError> {
    let problem = serde_json::from_slice(body)
        .with_context(|| format!("relayd answered {status}: {}", String::from_utf8_lossy(body)))?;
    Ok(ClientError::Refused(problem))
}

/// Events as they come (the event stream format of HTML, as far as relayd writes it).
pub struct Events {
    body: Incoming,
    /// What has come and is not read.
    text: Vec<u8>,
}

impl Events {
    /// The data of the next one; `None`: there are no more.
    pub async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            while let Some(block) = self.block() {
                let data: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                if !data.is_empty() {
                    let event = serde_json::from_str(&data.join("\n"));
                    return event
                        .map(Some)
                        .context("relayd's event is not understood; is it another version?");
                }
            }
            // an end that is broken off is one
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            self.text.extend(frame.into_data().unwrap_or_default());
        }
    }

    /// What stands before the next empty line.
    fn block(&mut self) -> Option<String> {
        let end = self.text.windows(2).position(|two| two == b"\n\n")?;
        let rest = self.text.split_off(end + 2);
        let block = std::mem::replace(&mut self.text, rest);
        Some(String::from_utf8_lossy(&block).into_owned())
    }
}
