//! What it costs to ask ten thousand endpoints every four seconds: processor time of the prober's thread, and memory.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use harness::NetNs;
use relay::health::{News, Probe, ProbeId, Prober, State};
use relay::rule::{Check, Connect};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::figures::{Options, Series, say};
use crate::peer;

const ENDPOINTS: u32 = 10_000;
/// Long enough for several turns of each, at the default interval.
const MEASURED: Duration = Duration::from_secs(20);
const SETTLES: Duration = Duration::from_secs(6);
/// Of a `stat` file's clock.
const TICKS_PER_SECOND: f64 = 100.0;

pub fn run(options: &Options) {
    peer::allow_descriptors();
    say(&format!("\n## {ENDPOINTS} endpoints asked by TCP every 4 s\n"));
    say("| endpoints | share of a core | goal | memory, MB | goal | probes a second |");
    say("|---|---|---|---|---|---|");
    let namespace = NetNs::new("asking");
    // what one round has taken the next one finds free: all are held against what there was in the beginning
    let before = memory_kib();
    for (name, host) in [
        ("answering", Host::answering as fn() -> Host),
        ("refusing", Host::refusing),
        ("silent", Host::silent),
    ] {
        let mut figures = Figures::default();
        for _ in 0..options.rounds {
            namespace.run(|| measure(&host(), before, &mut figures));
        }
        let Figures { share, memory, probes } = figures;
        let (share, memory, probes) = (100.0 * share.median(), memory.median(), probes.median());
        say(&format!("| {name} | {share:.1} % | 10 % | {memory:.1} | 60 | {probes:.0} |"));
    }
}

/// Who is asked: ten thousand addresses of the loopback network, and what listens there.
struct Host {
    port: u16,
    /// They are not used, and last as long as this.
    sockets: Vec<Socket>,
}

#[derive(Default)]
struct Figures {
    share: Series,
    memory: Series,
    probes: Series,
}

impl Host {
    fn listening(backlog: i32) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).expect("bind");
        listener.listen(backlog).expect("listen");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("address");
        Self { port: address.port(), sockets: vec![listener] }
    }

    fn answering() -> Self {
        Self::listening(4096)
    }

    fn refusing() -> Self {
        Self { port: 1, sockets: Vec::new() }
    }

    /// Nobody accepts, and the queue is full.
    fn silent() -> Self {
        let mut host = Self::listening(0);
        for _ in 0..4 {
            let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("socket");
            _ = client.connect(&host.address(0).into());
            host.sockets.push(client);
        }
        host
    }

    fn address(&self, index: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + index), self.port).into()
    }
}

fn measure(host: &Host, before: u64, figures: &mut Figures) {
    let (sender, news) = unbounded_channel();
    let prober = Prober::start(sender).expect("prober");
    let (check, connect) = (Arc::new(Check::default()), Arc::new(Connect::default()));
    for index in 0..ENDPOINTS {
        let (check, connect) = (check.clone(), connect.clone());
        let probe = Probe { address: host.address(index), name: None, check, connect, connector: None };
        prober.set(ProbeId(index.into()), probe, None);
    }
    thread::sleep(SETTLES);
    let (start, cpu, asked) = (Instant::now(), processor_ticks(), outcomes(&prober));
    thread::sleep(MEASURED);
    let took = start.elapsed().as_secs_f64();
    figures.share.0.push((processor_ticks() - cpu) / TICKS_PER_SECOND / took);
    figures.probes.0.push((outcomes(&prober) - asked) as f64 / took);
    figures.memory.0.push((memory_kib().saturating_sub(before)) as f64 / 1024.0);
    tell(news);
}

/// How many probes are over.
fn outcomes(prober: &Prober) -> u64 {
    prober.standings().values().map(|standing| standing.totals.successes + standing.totals.failures).sum()
}

/// Says what of the endpoints became, if that is not all the same.
fn tell(mut news: UnboundedReceiver<Vec<News>>) {
    let (mut up, mut other) = (0_u32, 0_u32);
    while let Ok(news) = news.try_recv() {
        for news in news {
            *if news.change.to == State::Up { &mut up } else { &mut other } += 1;
        }
    }
    if up.min(other) > 0 {
        say(&format!("(up {up} times, not up {other} times)"));
    }
}

/// Processor time of the prober's thread, in user and kernel mode. What the loopback interface does for the other end of
/// each connection is in it.
fn processor_ticks() -> f64 {
    for task in fs::read_dir("/proc/self/task").expect("tasks").flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() == "prober" {
            let stat = read("stat");
            let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
            return fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum();
        }
    }
    panic!("there is no prober");
}

fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
}
