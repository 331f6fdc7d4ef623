//! `--trace-packets`: what the programs log about one rule's packets, put into words and into relayd's own log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya_log::EbpfLogger;
use nix::libc::c_uint;
use nix::net::if_::if_indextoname;
use relay_common::counters::DropReason;
use relay_common::net::Protocol;
use relay_common::trace::Decision;

use super::Unavailable;
use super::load::Dataplane;

/// How often the ring of log records is emptied; it holds some thousand.
const OFTEN: Duration = Duration::from_millis(100);

impl Dataplane {
    /// Starts passing the programs' log on. Ends when the task is dropped.
    pub fn start_trace(&mut self) -> Result<impl Future<Output = ()> + use<>, Unavailable> {
        let failed = |error: &dyn std::fmt::Display| Unavailable(format!("cannot trace packets: {error}"));
        let logger =
            EbpfLogger::init_with_logger(&mut self.ebpf, TracingLog).map_err(|error| failed(&error))?;
        Ok(async move {
            let mut logger = logger;
            let mut often = tokio::time::interval(OFTEN);
            loop {
                often.tick().await;
                logger.flush();
            }
        })
    }
}

/// aya-log speaks the `log` crate; relayd speaks `tracing`.
struct TracingLog;

impl log::Log for TracingLog {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let record = record.args().to_string();
        let line = line(&record, |index| if_indextoname(index).ok()?.into_string().ok());
        tracing::info!(target: "relay::packets", "{}", line.unwrap_or(record));
    }

    fn flush(&self) {}
}

/// A record in words; `None` for one that no program of this version wrote.
fn line(record: &str, name: impl Fn(c_uint) -> Option<String>) -> Option<String> {
    let fields: Vec<&str> = record.split(' ').collect();
    let &[
        decision,
        reason,
        protocol,
        source,
        source_port,
        destination,
        destination_port,
        at,
        length,
        segment,
    ] = fields.as_slice()
    else {
        return None;
    };
    let decision = Decision::from_number(decision.parse().ok()?)?;
    let reason = match decision {
        Decision::Refused | Decision::Answered => {
            format!(" ({})", DropReason::from_number(reason.parse().ok()?)?.as_str())
        }
        _ => String::new(),
    };
    let protocol = match protocol.parse().ok()? {
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        number => Protocol::from_number(number)?.to_string(),
    };
    let (from, to) = (socket(source, source_port)?, socket(destination, destination_port)?);
    let segments = if segment == "0" { String::new() } else { format!(" in segments of {segment}") };
    let interface = name(at.parse().ok()?).unwrap_or_else(|| format!("interface {at}"));
    let decision = decision.as_str();
    Some(format!("{protocol} {from} > {to}, {length} bytes{segments} on {interface}: {decision}{reason}"))
}

fn socket(address: &str, port: &str) -> Option<String> {
    let address = address.parse::<IpAddr>().ok()?.to_canonical();
    Some(match port.parse().ok()? {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    })
}

/// IANA's numbers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    fn worded(record: &str) -> Option<String> {
        line(record, |index| (index == 2).then(|| "eth0".to_owned()))
    }

    #[test]
    fn records_are_put_into_words() {
        for (decision, reason, rest, words) in [
            (
                Decision::Refused,
                DropReason::NoRoute,
                "17 ::ffff:198.51.100.2 40000 ::ffff:198.51.100.1 80 2 47 0",
                "udp 198.51.100.2:40000 > 198.51.100.1:80, 47 bytes on eth0: refused (no_route)",
            ),
            (
                Decision::HotPath,
                DropReason::NoRoute,
                "6 2001:db8::2 40000 2001:db8::1 80 3 5000 1448",
                "tcp [2001:db8::2]:40000 > [2001:db8::1]:80, 5000 bytes in segments of 1448 on interface 3: \
                 forwarded on the hot path",
            ),
            (
                Decision::Error,
                DropReason::NoRoute,
                "1 ::ffff:203.0.113.2 0 ::ffff:203.0.113.1 0 2 70 0",
                "icmp 203.0.113.2 > 203.0.113.1, 70 bytes on eth0: forwarded, an error about a flow",
            ),
        ] {
            let record = format!("{} {} {rest}", decision as u32, reason as u32);
            assert_eq!(worded(&record).as_deref(), Some(words));
        }
    }

    #[test]
    fn what_is_no_record_is_not_put_into_words() {
        for record in ["", "0", "99 0 17 1.2.3.4 1 5.6.7.8 2 2 47 0", "0 0 99 1.2.3.4 1 5.6.7.8 2 2 47 0"] {
            assert_eq!(worded(record), None, "{record}");
        }
    }
}
