//! Who may use a rule: networks such as `198.51.100.0/24` and single addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network, or a single address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Network(IpNet);

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NetworkError {
    #[error("that is neither an address nor a network")]
    Form,
    #[error("it has bits set behind its prefix; the network is {0}")]
    HostBits(Network),
}

impl Network {
    /// What a network may look like, for error texts.
    pub const FORMS: &str = r#""198.51.100.0/24", "2001:db8::/32" or "203.0.113.7""#;

    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_unclear: ipnet::AddrParseError| NetworkError::Form)?,
        };
        let network = plain(network);
        if network.trunc() != network {
            return Err(NetworkError::HostBits(Self(network.trunc())));
        }
        Ok(Self(network))
    }
}

/// IPv4 in IPv6 notation (RFC 4291 section 2.5.5.2) is IPv4.
fn plain(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let inner = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED));
    inner.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

/// As one would write it: a single address without its length.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// Networks whose clients are let in.
#[derive(Clone, Debug)]
pub struct AllowList {
    written: Vec<Network>,
    /// In order, none within another.
    ipv4: Vec<Ipv4Net>,
    ipv6: Vec<Ipv6Net>,
}

impl PartialEq for AllowList {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for AllowList {}

impl AllowList {
    /// The longest list that a rule may have.
    pub const MOST: usize = 32_768;

    pub fn new(written: Vec<Network>) -> Self {
        let v4: Vec<Ipv4Net> = written.iter().filter_map(|network| v4(network.0)).collect();
        let v6: Vec<Ipv6Net> = written.iter().filter_map(|network| v6(network.0)).collect();
        Self { written, ipv4: Ipv4Net::aggregate(&v4), ipv6: Ipv6Net::aggregate(&v6) }
    }

    /// The list as it was written.
    pub fn networks(&self) -> &[Network] {
        &self.written
    }

    /// The least networks that make up the IPv4 part: where each begins, and its length.
    pub fn ipv4(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, u8)> + '_ {
        self.ipv4.iter().map(|network| (network.network(), network.prefix_len()))
    }

    /// And the IPv6 part.
    pub fn ipv6(&self) -> impl ExactSizeIterator<Item = (Ipv6Addr, u8)> + '_ {
        self.ipv6.iter().map(|network| (network.network(), network.prefix_len()))
    }

    /// How many networks those are.
    pub const fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn allows(&self, client: IpAddr) -> bool {
        match client.to_canonical() {
            IpAddr::V4(client) => self.allows_v4(client),
            IpAddr::V6(client) => self.allows_v6(client),
        }
    }

    fn allows_v4(&self, client: Ipv4Addr) -> bool {
        let behind = self.ipv4.partition_point(|network| network.network() <= client);
        behind > 0 && self.ipv4[behind - 1].contains(&client)
    }

    fn allows_v6(&self, client: Ipv6Addr) -> bool {
        let behind = self.ipv6.partition_point(|network| network.network() <= client);
        behind > 0 && self.ipv6[behind - 1].contains(&client)
    }
}

const fn v4(network: IpNet) -> Option<Ipv4Net> {
    match network {
        IpNet::V4(network) => Some(network),
        IpNet::V6(_) => None,
    }
}

const fn v6(network: IpNet) -> Option<Ipv6Net> {
    match network {
        IpNet::V4(_) => None,
        IpNet::V6(network) => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(networks: &[&str]) -> AllowList {
        AllowList::new(networks.iter().map(|text| Network::parse(text).expect(text)).collect())
    }

    #[test]
    fn networks_read_and_print() {
        for (text, printed) in [
            ("198.51.100.0/24", "198.51.100.0/24"),
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(Network::parse(text).expect(text).to_string(), printed);
        }
    }

    #[test]
    fn others_are_refused_with_the_right_one() {
        for (text, right) in [
            ("198.51.100.7/24", "198.51.100.0/24"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
        ] {
            let error = Network::parse(text).expect_err(text).to_string();
            assert!(error.ends_with(&format!("the network is {right}")), "{error}");
        }
        for text in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "::/129",
            "example.com",
            "1.2.3.4/24/24",
            " 1.2.3.4",
            "1.2.3.0-9",
        ] {
            assert_eq!(Network::parse(text), Err(NetworkError::Form), "{text}");
        }
    }

    #[test]
    fn clients_of_a_network_are_let_in_and_no_others() {
        let list =
            list(&["198.51.100.0/24", "198.51.100.128/25", "203.0.113.7", "2001:db8::/32", "10.0.0.0/8"]);
        for client in ["198.51.100.0", "198.51.100.255", "203.0.113.7", "10.255.0.1", "2001:db8:ffff::1"] {
            assert!(list.allows(client.parse().expect(client)), "{client}");
        }
        for client in
            ["198.51.99.255", "198.51.101.0", "203.0.113.6", "11.0.0.0", "2001:db9::", "::", "0.0.0.0"]
        {
            assert!(!list.allows(client.parse().expect(client)), "{client}");
        }
        assert!(list.allows("::ffff:203.0.113.7".parse().expect("mapped")));
        assert_eq!(list.ipv4().len(), 3, "one lies within another");
        let everybody = self::list(&["0.0.0.0/0"]);
        assert!(
            everybody.allows(Ipv4Addr::BROADCAST.into()) && !everybody.allows(Ipv6Addr::LOCALHOST.into())
        );
    }

    proptest::proptest! {
        /// Against asking every network.
        #[test]
        fn agrees_with_a_plain_search(
            networks in proptest::collection::vec((0..64_u32, 26..=32_u8), 0..20),
            client in 0..64_u32,
        ) {
            let networks: Vec<Ipv4Net> = networks
                .into_iter()
                .map(|(bits, length)| Ipv4Net::new(Ipv4Addr::from(bits), length).expect("net").trunc())
                .collect();
            let client = Ipv4Addr::from(client);
            let plain = networks.iter().any(|network| network.contains(&client));
            let list = AllowList::new(networks.into_iter().map(|network| Network(network.into())).collect());
            proptest::prop_assert_eq!(list.allows(client.into()), plain);
        }
    }
}
