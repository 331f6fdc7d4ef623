//! Tunnels of every kind.

use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::rule::tunnel::USUAL_PATH;
use crate::rule::{
    AcceptTls, AcceptTunnel, AcceptWs, ConnectTls, ConnectTunnel, ConnectWs, Identity, MaskChoice, Verify,
};

type Header = (Box<str>, Box<str>);

fn files() -> impl Strategy<Value = PathBuf> {
    "/?[^\\p{C}]{1,20}".prop_map(PathBuf::from)
}

fn hosts() -> impl Strategy<Value = Box<str>> {
    let hosts = prop_oneof![
        "[a-z][a-z0-9]{0,9}(\\.[a-z]{1,9}){0,2}",
        Just("192.0.2.1".into()),
        Just("2001:db8::1".into())
    ];
    hosts.prop_map(String::into_boxed_str)
}

fn alpn() -> impl Strategy<Value = Vec<Box<str>>> {
    vec("[!-~]{1,9}".prop_map(String::into_boxed_str), 0..3)
}

fn paths() -> impl Strategy<Value = Box<str>> {
    prop_oneof![Just(USUAL_PATH.to_owned()), "/[!-\"$-~]{0,20}"].prop_map(String::into_boxed_str)
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    vec("[!-~]([ -~]{0,20}[!-~])?", 0..4).prop_map(|values| {
        let header = |(index, value): (usize, String)| (format!("x-{index}").into(), value.into());
        values.into_iter().enumerate().map(header).collect()
    })
}

fn tokens() -> impl Strategy<Value = Option<Box<str>>> {
    option::of("[!-~]{1,40}".prop_map(String::into_boxed_str))
}

prop_compose! {
    fn accept_ws()(host in option::of(hosts()), port in option::of(1..=u16::MAX), path in paths(), headers in headers(), token in tokens()) -> AcceptWs {
        let host = host.map(|host| match port {
            Some(port) if !host.contains(':') => format!("{host}:{port}").into(),
            _ => host,
        });
        AcceptWs { host, path, headers, token }
    }
}

prop_compose! {
    fn accept_tls()(files_of in option::of((files(), files())), name in option::of(hosts()), client_ca in option::of(files()), alpn in alpn()) -> AcceptTls {
        let name = name.unwrap_or_else(|| Identity::USUAL_NAME.into());
        let identity = files_of.map_or(Identity::SelfSigned { name }, |(cert, key)| Identity::Files { cert, key });
        AcceptTls { identity, client_ca, alpn }
    }
}

pub fn accept() -> BoxedStrategy<AcceptTunnel> {
    let both = (accept_tls(), accept_ws()).prop_map(|(mut tls, ws)| {
        if let Identity::SelfSigned { name } = &mut tls.identity {
            // by the same host, without its port
            let host = ws.host.as_deref().unwrap_or(Identity::USUAL_NAME);
            *name =
                if host.matches(':').count() == 1 { host.split(':').next().unwrap_or(host) } else { host }
                    .into();
        }
        AcceptTunnel { tls: Some(tls), ws: Some(ws), udp_over: None }
    });
    let tls = accept_tls().prop_map(|tls| AcceptTunnel { tls: Some(tls), ws: None, udp_over: None });
    let ws = accept_ws().prop_map(|ws| AcceptTunnel { tls: None, ws: Some(ws), udp_over: None });
    prop_oneof![both.boxed(), tls.boxed(), ws.boxed()].boxed()
}

prop_compose! {
    fn connect_ws()(host in option::of(hosts()), path in paths(), headers in headers(), token in tokens(), mask in select(&MaskChoice::ALL[..])) -> ConnectWs {
        ConnectWs { host, path, headers, token, mask }
    }
}

prop_compose! {
    fn connect_tls()(
        sni in option::of(hosts()),
        verify in prop_oneof![Just(Verify::Ca), Just(Verify::Insecure), any::<[u8; 32]>().prop_map(Verify::Pin)],
        ca in option::of(files()),
        identity in option::of((files(), files())),
        alpn in alpn(),
    ) -> ConnectTls {
        ConnectTls { sni, verify, ca: ca.filter(|_| verify == Verify::Ca), identity, alpn }
    }
}

pub fn connect() -> BoxedStrategy<ConnectTunnel> {
    let both = (connect_tls(), connect_ws()).prop_map(|(tls, ws)| (Some(tls), Some(ws)));
    let tls = connect_tls().prop_map(|tls| (Some(tls), None));
    let ws = connect_ws().prop_map(|ws| (None, Some(ws)));
    let layers = prop_oneof![both.boxed(), tls.boxed(), ws.boxed()];
    (layers, any::<bool>())
        .prop_map(|((tls, ws), mux)| ConnectTunnel { tls, ws, udp_over: None, mux })
        .boxed()
}
