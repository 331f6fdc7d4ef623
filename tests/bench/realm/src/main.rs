//! `realm-peer LISTEN TO`: realm's engine with realm's defaults, TCP and UDP.

use std::net::SocketAddr;

use realm_core::endpoint::{BindOpts, ConnectOpts, Endpoint, RemoteAddr};

#[tokio::main]
async fn main() {
    let mut args =
        std::env::args().skip(1).map(|arg| arg.parse::<SocketAddr>().expect("an address with a port"));
    let endpoint = Endpoint {
        laddr: args.next().expect("LISTEN"),
        raddr: RemoteAddr::SocketAddr(args.next().expect("TO")),
        bind_opts: BindOpts::default(),
        conn_opts: ConnectOpts {
            connect_timeout: 5,
            associate_timeout: 30,
            tcp_keepalive: 15,
            tcp_keepalive_probe: 3,
            ..ConnectOpts::default()
        },
        extra_raddrs: Vec::new(),
    };
    let (tcp, udp) =
        tokio::join!(realm_core::tcp::run_tcp(endpoint.clone()), realm_core::udp::run_udp(endpoint));
    tcp.and(udp).expect("realm's engine ended");
}
