//! The tunnel on a connection: TLS, WebSocket within it, and what the other end shows of itself.

use std::sync::Arc;
use std::time::Instant;

use rustls::ProtocolVersion;
use tokio::time::timeout;

use super::payload::Line;
use super::remedy::options;
use super::{Stage, Step, Way};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::tls::{Agreed, Certificate, Witness, witnessed};
use crate::proxy::tunnel::ws::HandshakeFault;
use crate::proxy::tunnel::{Alone, Connector, Fault, Opening, part};
use crate::rule::ConnectTunnel;

/// Opens the tunnel for a purpose. `None`: it does not open, and the last step says why.
pub(super) async fn wrap(
    way: Way<'_>,
    (tunnel, purpose): (&Arc<ConnectTunnel>, Purpose),
    leg: Leg,
    header: &[u8],
    steps: &mut Vec<Step>,
) -> Option<Line> {
    let (config, witness) = match tunnel.tls.as_ref().map(witnessed).transpose() {
        Ok(made) => made.unzip(),
        Err(fault) => {
            let options = &["connect.ca", "connect.cert", "connect.key"];
            steps.push(Step::failed(Stage::Tls, "tls_configuration", options, fault.to_string()));
            return None;
        }
    };
    let connector = Connector::new(config, tunnel.clone());
    let begun = Instant::now();
    let mut secured = None;
    let is_shared = tunnel.mux && purpose == Purpose::Session;
    let purpose = if is_shared { Purpose::Streams } else { purpose };
    let opening = connector.connect_telling(purpose, &leg, way.host, header, |agreed| {
        secured = Some((Instant::now(), agreed.clone()));
    });
    let opened = timeout(way.timeouts.handshake, opening).await.unwrap_or(Err(Fault::Late));
    let mut since = begun;
    if let Some((at, agreed)) = &secured {
        let text = stands(agreed, tunnel, witness.as_deref());
        steps.push(Step { took: Some(*at - begun), ..Step::passed(Stage::Tls, text) });
        since = *at;
    }
    match opened {
        Ok(opening) => {
            if let Some(ws) = &tunnel.ws {
                let text = format!("open, path {}", ws.path);
                steps.push(Step::passed(Stage::Websocket, text).since(since));
            }
            if is_shared { share(way, leg, opening, steps).await } else { Some(Line::wrapped(leg, opening)) }
        }
        Err(fault) => {
            let is_within = secured.is_some() || tunnel.tls.is_none();
            let stage = match &fault {
                Fault::Handshake(HandshakeFault::Unwilling(Purpose::Datagrams)) => Stage::Udp,
                _ if is_within => Stage::Websocket,
                _ => Stage::Tls,
            };
            let shown = witness.filter(|_| !is_within).and_then(|witness| shown(&witness));
            let shown = shown.map(|shown| format!(" ({shown})")).unwrap_or_default();
            let text = match (&fault, stage) {
                (Fault::Silent | Fault::Ended, Stage::Tls) => {
                    format!("{fault}: does it speak TLS on this port (connect.transport)?")
                }
                _ => format!("{fault}{shown}"),
            };
            steps.push(Step::failed(stage, fault.as_str(), options(&fault), text).since(since));
            part(leg).await;
            None
        }
    }
}

/// Opens a stream in a tunnel that is for many.
async fn share(way: Way<'_>, leg: Leg, opening: Opening, steps: &mut Vec<Step>) -> Option<Line> {
    let begun = Instant::now();
    let shared =
        timeout(way.timeouts.handshake, Alone::begin(leg, opening)).await.unwrap_or(Err(Fault::Late));
    match shared {
        Ok(stream) => {
            let text = "the other end takes streams of many clients";
            steps.push(Step::passed(Stage::Mux, text).since(begun));
            Some(Line::Stream(Box::new(stream)))
        }
        Err(fault) => {
            let step = Step::failed(Stage::Mux, fault.as_str(), options(&fault), fault.to_string());
            steps.push(step.since(begun));
            None
        }
    }
}

fn shown(witness: &Witness) -> Option<String> {
    witness.seen().and_then(Certificate::read).map(|certificate| certificate.to_string())
}

/// What the two ends have agreed on.
fn stands(agreed: &Agreed, tunnel: &ConnectTunnel, witness: Option<&Witness>) -> String {
    let version = match agreed.version {
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        _ => "TLS",
    };
    let suite = agreed.suite.suite();
    let mut text = format!("{version}, {}", suite.as_str().unwrap_or("an unnamed cipher suite"));
    if let Some(tls) = &tunnel.tls {
        match &agreed.alpn {
            Some(protocol) => text += &format!(", ALPN {protocol}"),
            None if !tls.alpn.is_empty() => text += ", none of connect.alpn",
            None => {}
        }
        text += &format!(", verify {}", tls.verify);
    }
    if let Some(shown) = witness.and_then(shown) {
        text += &format!(", {shown}");
    }
    text
}
