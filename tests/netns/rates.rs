//! Rates: whichever plane carries a rule, its traffic keeps to them, and TCP makes the most of them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use harness::traffic::Client;
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_V6};
use harness::{Daemon, NetNs, World, eventually};

/// Which way data goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Ingress,
    Egress,
}

const WAYS: [Way; 2] = [Way::Ingress, Way::Egress];

fn rule(plane: &str, rate: &str) -> String {
    format!(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nplane = \"{plane}\"\nrate = {rate}\n"
    )
}

/// A backend that takes everything and sends everything it can.
fn backend(ns: &NetNs) {
    let listener = ns.run(|| TcpListener::bind((BACKEND, 80))).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
}

fn serve(mut stream: TcpStream) {
    let mut way = [0];
    // the client says which way it wants
    if stream.read_exact(&mut way).is_ok() && way[0] == b'd' {
        while stream.write_all(&[7; 64 * 1024]).is_ok() {}
    }
    _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Payload and IP bytes per second that one connection gets one way, after its first seconds.
fn goodput(world: &World, daemon: &Daemon, relay: IpAddr, way: Way, length: Duration) -> [f64; 2] {
    let mut stream =
        world.client.run(|| TcpStream::connect(SocketAddr::from((relay, 8080)))).expect("connect");
    let stop = stream.try_clone().expect("a descriptor");
    let direction = if way == Way::Ingress { "/ingress/bytes" } else { "/egress/bytes" };
    stream.write_all(if way == Way::Ingress { b"u" } else { b"d" }).expect("write");
    let worker = thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        let begin = Instant::now();
        let mut moved: Vec<(Instant, u64)> = vec![(begin, 0)];
        let mut all = 0;
        loop {
            let step = if way == Way::Ingress { stream.write(&buffer) } else { stream.read(&mut buffer) };
            match step {
                Ok(length) if length > 0 => all += length as u64,
                _ => return moved,
            }
            moved.push((Instant::now(), all));
        }
    });
    thread::sleep(SETTLING);
    // an answer may take a while, and tells of its end
    let count = || (daemon.ctl.counter("web", direction), Instant::now());
    let (before, begin) = count();
    thread::sleep(length);
    let (after, end) = count();
    _ = stop.shutdown(Shutdown::Both);
    let moved = worker.join().expect("moved");
    let by = |at: Instant| moved.iter().take_while(|(when, _)| *when <= at).last().map_or(0, |(_, all)| *all);
    let seconds = end.duration_since(begin).as_secs_f64();
    [(by(end) - by(begin)) as f64 / seconds, (after - before) as f64 / seconds]
}

/// Until a burst is over.
const SETTLING: Duration = Duration::from_secs(2);

/// What one connection gets of a rate, by plane, rate, family and direction.
#[test]
#[ignore = "takes minutes; run it for the figures"]
#[expect(clippy::print_stdout, reason = "they are what it is for")]
fn figures_of_rates() {
    for plane in ["kernel", "user"] {
        for megabits in [10, 100, 1000] {
            let world = World::new();
            backend(&world.backend);
            let rate = format!("{{ ingress = \"{megabits}Mbps\", egress = \"{megabits}Mbps\" }}");
            let daemon = world.start(&rule(plane, &rate));
            for relay in [IpAddr::V4(RELAY), IpAddr::V6(RELAY_V6)] {
                for way in WAYS {
                    let [payload, bytes] = goodput(&world, &daemon, relay, way, Duration::from_secs(10));
                    let of_rate = |bytes: f64| bytes * 8.0 / (f64::from(megabits) * 1e6);
                    println!(
                        "{plane} {megabits} Mbit/s {relay} {way:?}: rate {:.3}, goodput {:.3}",
                        of_rate(bytes),
                        of_rate(payload)
                    );
                }
            }
        }
    }
}

/// A client that takes all that it can get; how much is counted.
fn download(world: &World) -> TcpStream {
    let mut stream =
        world.client.run(|| TcpStream::connect(SocketAddr::from((RELAY, 8080)))).expect("connect");
    stream.write_all(b"d").expect("write");
    let mut reader = stream.try_clone().expect("a descriptor");
    thread::spawn(move || _ = std::io::copy(&mut reader, &mut std::io::sink()));
    stream
}

/// Bytes that leave for the client in so many seconds, at most; the host may be slow.
fn sent(world: &World, length: Duration) -> f64 {
    let (before, begin) = (world.relay.traffic("uplink").tx_bytes, Instant::now());
    thread::sleep(length);
    let after = world.relay.traffic("uplink").tx_bytes;
    (after - before) as f64 / begin.elapsed().as_secs_f64()
}

/// Of a rate that is this many times lower than what a connection gets without one.
#[test]
fn a_live_connection_keeps_to_the_rate_of_the_moment_and_so_it_does_without_relayd() {
    const RATE: f64 = 2_500_000.0;
    for plane in ["kernel", "user"] {
        let world = World::new();
        backend(&world.backend);
        let mut daemon = world.start(&rule(plane, "{ egress = \"20Mbps\" }"));
        assert_eq!(daemon.ctl.rule("web")["rate"]["egress"], "20Mbps");
        assert!(daemon.ctl.ok(&["explain", "web"]).contains("at most 20Mbps to clients"));
        let stream = download(&world);
        // headers of frames are not in it
        let most = RATE * 1.1 + 0.25 * RATE;
        let (got, refused) =
            (sent(&world, Duration::from_secs(2)), || daemon.ctl.counter("web", "/drops/rate"));
        assert!(got < most, "{plane}: {got} bytes a second");
        assert!(refused() > 0, "{plane}");
        daemon.ctl.ok(&["set", "web", "rate.egress="]);
        eventually("it gets what there is", || sent(&world, Duration::from_millis(500)) > 8.0 * RATE);
        daemon.ctl.ok(&["set", "web", "rate.egress=20Mbps"]);
        eventually("it keeps to the rate again", || sent(&world, Duration::from_secs(1)) < most);
        if plane == "kernel" {
            daemon.kill();
            let got = sent(&world, Duration::from_secs(2));
            assert!(got < most && got > RATE / 10.0, "{got} bytes a second");
            daemon.start_again(&world.relay);
            let got = sent(&world, Duration::from_secs(2));
            assert!(got < most && got > RATE / 10.0, "{got} bytes a second");
        }
        _ = stream.shutdown(Shutdown::Both);
    }
}

/// Two connections of one client share its rate, and somebody else has as much alone, on either plane, for connections that live.
#[test]
fn each_client_has_a_rate_of_its_own() {
    const RATE: f64 = 2_500_000.0;
    const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
    for plane in ["kernel", "user"] {
        let world = World::new();
        world.client.add_address("client", OTHER, 24);
        backend(&world.backend);
        let daemon = world.start(&rule(plane, "{ per_client = \"1Gbps\" }"));
        let takers = [CLIENT, CLIENT, OTHER].map(|client| Taker::start(&world, client));
        daemon.ctl.ok(&["set", "web", "rate.per_client=20Mbps"]);
        assert!(
            daemon.ctl.ok(&["explain", "web"]).contains("at most 20Mbps from and as much to each client")
        );
        thread::sleep(Duration::from_secs(1));
        let (before, begin) = (takers.each_ref().map(Taker::taken), Instant::now());
        thread::sleep(Duration::from_secs(3));
        let [first, second, other] = takers.each_ref().map(Taker::taken);
        let rate = |bytes| bytes as f64 / begin.elapsed().as_secs_f64();
        let of_one = rate(first + second - before[0] - before[1]);
        let of_other = rate(other - before[2]);
        for (who, got) in [("one client", of_one), ("the other", of_other)] {
            assert!(got > 0.75 * RATE && got < 1.1 * RATE, "{plane}: {got} bytes a second for {who}");
        }
        assert!(daemon.ctl.counter("web", "/drops/rate_per_client") > 0, "{plane}");
        for taker in takers {
            _ = taker.stream.shutdown(Shutdown::Both);
        }
    }
}

/// A client that takes all that it can get.
struct Taker {
    stream: TcpStream,
    taken: Arc<AtomicU64>,
}

impl Taker {
    fn start(world: &World, client: Ipv4Addr) -> Self {
        let Client(mut stream) = Client::connect_as(&world.client, client, (RELAY, 8080)).expect("connect");
        stream.write_all(b"d").expect("write");
        let (mut reader, taken) = (stream.try_clone().expect("a descriptor"), Arc::new(AtomicU64::new(0)));
        let counted = taken.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                counted.fetch_add(length as u64, Relaxed);
            }
        });
        Self { stream, taken }
    }

    fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}
