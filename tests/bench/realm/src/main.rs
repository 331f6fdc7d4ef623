//! `realm-peer LISTEN TO [LISTEN_TRANSPORT REMOTE_TRANSPORT]`: realm's engine with realm's defaults, TCP and UDP. Transports are
//! written as realm's options are; empty ones are plain.

use std::net::SocketAddr;

use kaminari::mix::{MixAccept, MixClientConf, MixConnect, MixServerConf};
use kaminari::opt;
use realm_core::endpoint::{BindOpts, ConnectOpts, Endpoint, RemoteAddr};
use tokio_rustls::rustls::crypto::aws_lc_rs;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let address = |at: usize| args[at].parse::<SocketAddr>().expect("LISTEN and TO are addresses with ports");
    let option = |at: usize| args.get(at).map_or("", String::as_str);
    let endpoint = Endpoint {
        laddr: address(0),
        raddr: RemoteAddr::SocketAddr(address(1)),
        bind_opts: BindOpts::default(),
        conn_opts: ConnectOpts {
            connect_timeout: 5,
            associate_timeout: 30,
            tcp_keepalive: 15,
            tcp_keepalive_probe: 3,
            transport: transport(option(2), option(3)),
            ..ConnectOpts::default()
        },
        extra_raddrs: Vec::new(),
    };
    let (tcp, udp) =
        tokio::join!(realm_core::tcp::run_tcp(endpoint.clone()), realm_core::udp::run_udp(endpoint));
    tcp.and(udp).expect("realm's engine ended");
}

/// What wraps the two legs; `None` is realm's own way for two plain ones.
fn transport(listen: &str, remote: &str) -> Option<(MixAccept, MixConnect)> {
    if listen.is_empty() && remote.is_empty() {
        return None;
    }
    aws_lc_rs::default_provider().install_default().expect("nobody else installs a provider");
    let accept = MixServerConf { ws: opt::get_ws_conf(listen), tls: opt::get_tls_server_conf(listen) };
    let connect = MixClientConf { ws: opt::get_ws_conf(remote), tls: opt::get_tls_client_conf(remote) };
    Some((MixAccept::new_shared(accept), MixConnect::new_shared(connect)))
}
