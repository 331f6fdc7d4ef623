//! How a rule takes its clients in.

use std::net::IpAddr;
use std::sync::Arc;

use super::{AcceptTunnel, AllowList, Transport, UdpOver};

/// The client leg.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Accept {
    /// Every TCP connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Who may send one; `None`: whoever has an address that is not of the Internet.
    pub trusted: Option<AllowList>,
    /// Who is let in, by the address that such a header names where there is one; `None`: everybody.
    pub allow: Option<Arc<AllowList>>,
    /// Multipath TCP from clients that speak it.
    pub mptcp: bool,
    /// What clients wrap their connections in; `None`: nothing.
    pub tunnel: Option<Arc<AcceptTunnel>>,
}

impl Accept {
    pub fn transport(&self) -> Transport {
        self.tunnel.as_ref().map_or(Transport::Plain, |tunnel| tunnel.transport())
    }

    /// Whether UDP clients come in tunnels, from another Relay.
    pub fn takes_datagrams(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.udp_over == Some(UdpOver::Tunnel))
    }

    /// Whether a PROXY protocol header from this address is believed.
    pub fn trusts(&self, proxy: IpAddr) -> bool {
        let proxy = proxy.to_canonical();
        self.trusted.as_ref().map_or_else(|| is_internal(proxy), |trusted| trusted.allows(proxy))
    }

    /// Why relayd itself must take TCP clients in, if it must.
    pub fn needs_relayd(&self) -> Option<&'static str> {
        match self.transport() {
            Transport::Plain => {}
            Transport::Tls => return Some("relayd unwraps TLS (accept.transport = \"tls\")"),
            Transport::Ws => return Some("relayd unwraps WebSocket (accept.transport = \"ws\")"),
            Transport::Wss => return Some("relayd unwraps WebSocket in TLS (accept.transport = \"wss\")"),
        }
        if self.proxy_protocol {
            return Some("relayd reads the PROXY protocol header (accept.proxy_protocol)");
        }
        if self.mptcp {
            return Some("relayd speaks Multipath TCP (accept.mptcp)");
        }
        None
    }
}

/// Nobody on the Internet has such an address: RFC 1918, 3927, 4193, 6598, loopback, link-local.
fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let is_shared = a == 100 && b & 0xc0 == 64;
            address.is_private() || address.is_loopback() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Network;

    #[test]
    fn without_a_list_only_internal_proxies_are_believed() {
        let trusts = |text: &str| Accept::default().trusts(text.parse().expect(text));
        for proxy in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.9",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(trusts(proxy), "{proxy}");
        }
        for proxy in
            ["198.51.100.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"]
        {
            assert!(!trusts(proxy), "{proxy}");
        }
    }

    #[test]
    fn a_list_is_all_there_is() {
        let list = AllowList::new(vec![Network::parse("198.51.100.0/24").expect("network")]);
        let accept = Accept { trusted: Some(list), ..Accept::default() };
        for (proxy, is_trusted) in
            [("198.51.100.9", true), ("::ffff:198.51.100.9", true), ("10.0.0.1", false)]
        {
            assert_eq!(accept.trusts(proxy.parse().expect(proxy)), is_trusted, "{proxy}");
        }
    }
}
