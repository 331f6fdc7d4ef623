//! Tunnels back to the keys of their legs.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::rule::tunnel::USUAL_PATH;
use crate::rule::{AcceptTunnel, ConnectTunnel, Identity, MaskChoice, Transport, Verify};

type Keys = Map<String, Json>;

pub fn accept(tunnel: &AcceptTunnel, map: &mut Keys) {
    transport(tunnel.transport(), map);
    put(map, "udp_over", tunnel.udp_over.map(|over| json!(over.as_str())));
    if let Some(ws) = &tunnel.ws {
        put(map, "host", ws.host.as_deref().map(Json::from));
        websocket(&ws.path, &ws.headers, ws.token.as_deref(), map);
    }
    let Some(tls) = &tunnel.tls else { return };
    match &tls.identity {
        Identity::Files { cert, key } => certificate(cert, key, map),
        // a WebSocket's host is the name
        Identity::SelfSigned { name } if tunnel.ws.is_none() && **name != *Identity::USUAL_NAME => {
            map.insert("host".into(), json!(name));
        }
        Identity::SelfSigned { .. } => {}
    }
    put(map, "client_ca", tls.client_ca.as_deref().map(file));
    alpn(&tls.alpn, map);
}

pub fn connect(tunnel: &ConnectTunnel, map: &mut Keys) {
    transport(tunnel.transport(), map);
    put(map, "udp_over", tunnel.udp_over.map(|over| json!(over.as_str())));
    put(map, "mux", tunnel.mux.then_some(json!(true)));
    if let Some(ws) = &tunnel.ws {
        put(map, "host", ws.host.as_deref().map(Json::from));
        websocket(&ws.path, &ws.headers, ws.token.as_deref(), map);
        put(map, "mask", (ws.mask != MaskChoice::default()).then(|| json!(ws.mask.as_str())));
    }
    let Some(tls) = &tunnel.tls else { return };
    put(map, "sni", tls.sni.as_deref().map(Json::from));
    put(map, "verify", (tls.verify != Verify::default()).then(|| json!(tls.verify.to_string())));
    put(map, "ca", tls.ca.as_deref().map(file));
    if let Some((cert, key)) = &tls.identity {
        certificate(cert, key, map);
    }
    alpn(&tls.alpn, map);
}

fn put(map: &mut Keys, key: &str, value: Option<Json>) {
    map.extend(value.map(|value| (key.to_owned(), value)));
}

fn transport(transport: Transport, map: &mut Keys) {
    map.insert("transport".into(), json!(transport.as_str()));
}

fn websocket(path: &str, headers: &[(Box<str>, Box<str>)], token: Option<&str>, map: &mut Keys) {
    put(map, "path", (path != USUAL_PATH).then(|| json!(path)));
    put(map, "token", token.map(Json::from));
    let headers: Keys = headers.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    put(map, "headers", (!headers.is_empty()).then_some(Json::Object(headers)));
}

/// It was read from a text, so nothing is lost.
fn file(path: &Path) -> Json {
    json!(path.to_string_lossy())
}

fn certificate(cert: &Path, key: &Path, map: &mut Keys) {
    map.insert("cert".into(), file(cert));
    map.insert("key".into(), file(key));
}

fn alpn(protocols: &[Box<str>], map: &mut Keys) {
    put(map, "alpn", (!protocols.is_empty()).then(|| json!(protocols)));
}
