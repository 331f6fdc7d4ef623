//! One request over HTTP/1.1, with TLS and through a proxy if need be. Messages are rare: no connection is kept.

use anyhow::Context as _;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

use super::answer::Answer;
use super::channel::{Proxy, ProxyKind, Web};
use super::render::Post;
use crate::proxy::tunnel::tls;

/// As much of an answer is read; what it says is at its beginning.
const LONGEST: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("relayd/", env!("CARGO_PKG_VERSION")));

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sends a request and reads the answer. The caller limits the time.
///
/// # Errors
///
/// What went wrong on the way. It may name the URL.
pub async fn send(web: &Web, post: Post) -> anyhow::Result<Answer> {
    let place = Place::of(&post.uri).context("the URL has no host")?;
    let stream = connect(web, &place).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ends_with_the_exchange = connection.await;
    });
    let response = sender.send_request(request(post, &place)?).await.context("no answer")?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(ToOwned::to_owned);
    Ok(Answer { status, retry_after, body: beginning(response.into_body()).await? })
}

/// Where a URL leads.
struct Place {
    host: String,
    port: u16,
    is_secure: bool,
}

impl Place {
    fn of(uri: &Uri) -> Option<Self> {
        let is_secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Some(Self { host: uri.host()?.to_owned(), port, is_secure })
    }

    /// With its port, for connectors.
    fn uri(&self) -> anyhow::Result<Uri> {
        Ok(format!("http://{}:{}/", self.host, self.port).parse()?)
    }
}

fn request(post: Post, place: &Place) -> anyhow::Result<Request<Full<bytes::Bytes>>> {
    let path = post.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(post.method).uri(path).body(Full::new(post.body))?;
    let usual = if place.is_secure { 443 } else { 80 };
    let host = match place.port {
        port if port == usual => place.host.clone(),
        port => format!("{}:{port}", place.host),
    };
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&host)?);
    headers.insert(USER_AGENT, AGENT);
    headers.extend(post.headers);
    Ok(request)
}

async fn beginning(mut body: Incoming) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer breaks off")?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > LONGEST {
            bytes.truncate(LONGEST);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn connect(web: &Web, place: &Place) -> anyhow::Result<Box<dyn Stream>> {
    if !place.is_secure {
        return Ok(Box::new(dial(web.proxy.as_ref(), place.uri()?).await?));
    }
    // what is missing here is told whether or not somebody answers there
    let config = tls::trusting(web.ca.as_deref())?;
    let name = tls::server_name(&place.host)?;
    let stream = dial(web.proxy.as_ref(), place.uri()?).await?;
    let stream = TlsConnector::from(config).connect(name, stream).await.context("TLS")?;
    Ok(Box::new(stream))
}

async fn dial(proxy: Option<&Proxy>, to: Uri) -> anyhow::Result<TcpStream> {
    let mut direct = HttpConnector::new();
    direct.set_nodelay(true);
    let Some(proxy) = proxy else { return Ok(direct.call(to).await?.into_inner()) };
    let place = proxy.uri().context("the proxy has no address")?;
    let stream = match proxy.kind {
        ProxyKind::Http => {
            let tunnel = Tunnel::new(place, direct);
            let mut tunnel = match proxy.authorization() {
                Some(authorization) => tunnel.with_auth(authorization),
                None => tunnel,
            };
            tunnel.call(to).await.context("the proxy")?
        }
        ProxyKind::Socks5 => {
            let socks = SocksV5::new(place, direct).local_dns(false);
            let mut socks = match &proxy.login {
                Some((user, password)) => socks.with_auth(user.expose().into(), password.expose().into()),
                None => socks,
            };
            socks.call(to).await.context("the proxy")?
        }
    };
    Ok(stream.into_inner())
}
