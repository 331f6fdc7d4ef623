//! Looking names up: /etc/hosts first, then the name servers, both families at once.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::time::{sleep, timeout};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// How long a name may take, whatever resolv.conf says: long enough for a second server after a silent first one.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long the other family may take once one has an address. Some name servers never answer for IPv6.
const OTHER_FAMILY: Duration = Duration::from_secs(2);
/// Chosen servers: how long to wait for one of them, and how often to ask again.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);
const SERVER_RETRIES: usize = 1;
/// Entries of one answer that are looked at.
const MOST_ADDRESSES: usize = 32;

/// What a name has resolved to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// As they came; never none.
    pub addresses: Vec<IpAddr>,
    /// How long that holds; `None`: until the file changes that says so.
    pub ttl: Option<Duration>,
    /// A family that could not be asked for, so that its addresses may be others than none.
    pub unheard: Option<Family>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// One family's part of an answer.
type Part = Result<(Vec<IpAddr>, Duration), Failure>;

#[derive(Debug)]
enum Failure {
    /// The name server says so: there is nothing.
    Nothing(&'static str),
    /// Nobody knows.
    Unheard(String),
}

/// Who is asked, as of the files' present state.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    stamps: [Option<Stamp>; 2],
    book: Arc<Book>,
}

/// What changes when a file does.
#[derive(Debug, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Hosts and name servers.
#[derive(Debug)]
pub struct Book {
    hosts: Hosts,
    servers: Result<TokioResolver, String>,
}

impl Resolver {
    /// Asks these servers, or those of resolv.conf if there are none.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        // first: what changes meanwhile is read again
        let stamps = stamps();
        let book = Arc::new(Book::read(&servers));
        Self { servers, stamps, book }
    }

    /// Reads resolv.conf and hosts again if they have changed. Returns whether they have.
    pub fn follow_files(&mut self) -> bool {
        let stamps = stamps();
        let changed = stamps != self.stamps;
        if changed {
            self.stamps = stamps;
            self.book = Arc::new(Book::read(&self.servers));
        }
        changed
    }

    pub fn book(&self) -> Arc<Book> {
        self.book.clone()
    }
}

fn stamps() -> [Option<Stamp>; 2] {
    [RESOLV_CONF, HOSTS].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some(Stamp { inode: file.ino(), size: file.size(), modified: (file.mtime(), file.mtime_nsec()) })
    })
}

impl Book {
    fn read(servers: &[SocketAddr]) -> Self {
        Self { hosts: Hosts::from_system().unwrap_or_default(), servers: resolver(servers) }
    }

    /// All addresses of a name.
    pub async fn look_up(&self, name: &str) -> Result<Answer, String> {
        let name = Name::from_utf8(name).map_err(|error| format!("that is no name: {error}"))?;
        if let Some(addresses) = self.in_hosts(&name) {
            return Ok(Answer { addresses, ttl: None, unheard: None });
        }
        let servers = self.servers.as_ref().map_err(Clone::clone)?;
        let (ipv4, ipv6) =
            both(ask(servers, &name, RecordType::A), ask(servers, &name, RecordType::AAAA)).await;
        joined(ipv4, ipv6)
    }

    /// A name that stands in /etc/hosts is what that says, and nothing else.
    fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
        let addresses: Vec<IpAddr> = found.flat_map(|found| addresses(found.answers())).collect();
        (!addresses.is_empty()).then_some(addresses)
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let (config, mut options) = if servers.is_empty() {
        system_conf::read_system_conf()
            .map_err(|error| format!("{RESOLV_CONF}: {error}; [dns] servers names others"))?
    } else {
        chosen(servers)
    };
    // the caller keeps answers
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = false;
    // hickory's own choice may be a source port that the kernel plane has claimed
    options.os_port_selection = true;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| error.to_string())
}

fn chosen(servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let servers = servers.iter().map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    });
    let mut options = ResolverOpts::default();
    options.timeout = SERVER_PATIENCE;
    options.attempts = SERVER_RETRIES;
    (ResolverConfig::from_parts(None, Vec::new(), servers.collect()), options)
}

/// Waits for both; once one has an address, not long for the other.
async fn both(ipv4: impl Future<Output = Part>, ipv6: impl Future<Output = Part>) -> (Part, Part) {
    let (mut ipv4, mut ipv6) = (std::pin::pin!(ipv4), std::pin::pin!(ipv6));
    let late = || Err(Failure::Unheard("the name server does not answer".into()));
    tokio::select! {
        first = &mut ipv4 => {
            let patience = if first.is_ok() { OTHER_FAMILY } else { PATIENCE };
            let second = timeout(patience, ipv6).await.unwrap_or_else(|_elapsed| late());
            (first, second)
        }
        second = &mut ipv6 => {
            let patience = if second.is_ok() { OTHER_FAMILY } else { PATIENCE };
            let first = timeout(patience, ipv4).await.unwrap_or_else(|_elapsed| late());
            (first, second)
        }
        () = sleep(PATIENCE) => (late(), late()),
    }
}

async fn ask(servers: &TokioResolver, name: &Name, kind: RecordType) -> Part {
    let found = servers.lookup(name.clone(), kind).await.map_err(Failure::from)?;
    let records = found.answers();
    let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
    let addresses = addresses(records);
    if addresses.is_empty() {
        return Err(Failure::Nothing("the name has no address that traffic can go to"));
    }
    Ok((addresses, Duration::from_secs(ttl.into())))
}

/// The addresses among records that something can be sent to.
fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0).to_canonical()),
        _ => None,
    };
    let is_somewhere = |address: &IpAddr| {
        !address.is_unspecified() && !address.is_multicast() && *address != IpAddr::V4(Ipv4Addr::BROADCAST)
    };
    records.iter().filter_map(address).filter(is_somewhere).take(MOST_ADDRESSES).collect()
}

fn joined(ipv4: Part, ipv6: Part) -> Result<Answer, String> {
    let parts = [(Family::Ipv4, ipv4), (Family::Ipv6, ipv6)];
    let mut answer = Answer { addresses: Vec::new(), ttl: None, unheard: None };
    let mut error = None;
    for (family, part) in parts {
        match part {
            Ok((addresses, ttl)) => {
                answer.addresses.extend(addresses);
                answer.ttl = Some(answer.ttl.map_or(ttl, |other| other.min(ttl)));
            }
            Err(Failure::Nothing(why)) => _ = error.get_or_insert(why.to_owned()),
            // what nobody knows says less than what somebody does
            Err(Failure::Unheard(why)) => {
                answer.unheard = Some(family);
                error = Some(why);
            }
        }
    }
    if answer.addresses.is_empty() {
        return Err(error.unwrap_or_default());
    }
    Ok(answer)
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            error if error.is_nx_domain() => Self::Nothing("there is no such name"),
            error if error.is_no_records_found() => Self::Nothing("the name has no address"),
            NetError::Timeout => Self::Unheard("the name server does not answer".into()),
            NetError::Dns(DnsError::ResponseCode(code)) => {
                Self::Unheard(format!("the name server refuses to say: {code}"))
            }
            NetError::Io(error) => Self::Unheard(format!("the name server cannot be reached: {error}")),
            error => Self::Unheard(format!("the name server's answer cannot be used: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(addresses: &[&str], seconds: u64) -> Part {
        let addresses = addresses.iter().map(|address| address.parse().expect("address"));
        Ok((addresses.collect(), Duration::from_secs(seconds)))
    }

    fn unheard() -> Part {
        Err(Failure::Unheard("silence".into()))
    }

    const NOTHING: fn() -> Part = || Err(Failure::Nothing("nothing"));

    #[test]
    fn families_are_joined() {
        let both = joined(part(&["203.0.113.1"], 60), part(&["2001:db8::1"], 20)).expect("both");
        assert_eq!(both.addresses.len(), 2);
        assert_eq!((both.ttl, both.unheard), (Some(Duration::from_secs(20)), None));
        let one = joined(NOTHING(), part(&["2001:db8::1"], 20)).expect("IPv6");
        assert_eq!((one.addresses.len(), one.unheard), (1, None));
        let half = joined(unheard(), part(&["2001:db8::1"], 20)).expect("IPv6");
        assert_eq!(half.unheard, Some(Family::Ipv4));
        assert_eq!(joined(NOTHING(), NOTHING()), Err("nothing".into()));
        assert_eq!(joined(NOTHING(), unheard()), Err("silence".into()), "who knows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_is_not_answered_for_does_not_hold_up_the_other() {
        let start = tokio::time::Instant::now();
        let (ipv4, ipv6) = both(async { part(&["203.0.113.1"], 60) }, std::future::pending()).await;
        assert!(ipv4.is_ok() && matches!(ipv6, Err(Failure::Unheard(_))));
        assert_eq!(start.elapsed(), OTHER_FAMILY);
        let (ipv4, ipv6) = both(std::future::pending(), std::future::pending()).await;
        assert!(ipv4.is_err() && ipv6.is_err());
        assert_eq!(start.elapsed(), OTHER_FAMILY + PATIENCE);
    }
}
