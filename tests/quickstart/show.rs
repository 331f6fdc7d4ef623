//! What is shown as root: a rule is added, traffic goes through it, relayd dies and comes back, all is counted.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::traffic::{Client, Datagrams, Digest, Noise, Server, tcp_server, udp_server};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE, RELAY_V6};
use harness::{Ctl, Daemon, Load, World};

use crate::{say, stage};

const PORT: u16 = 8388;
/// Bytes of TCP in each direction.
const BULK: u64 = 256 << 20;
const DATAGRAMS: u64 = 10_000;
/// The largest UDP payload that a full Ethernet frame holds with an IPv6 header. A larger answer costs an IPv6 client a first
/// datagram, until the backend has learnt what fits.
const LARGEST_DATAGRAM: usize = 1452;
/// Connections that are open while relayd is dead.
const OPEN: usize = 8;
/// Rounds of traffic before, during and after that.
const ROUNDS: u64 = 1500;

pub fn run() -> ExitCode {
    introduce();
    show();
    say_what_is_next();
    ExitCode::SUCCESS
}

/// The world is gone when this returns.
fn show() {
    let world = World::new();
    // `set` fails only if it has been set, and this is the one place that does
    let _first = stage::LOG.set(world.folder().join("relayd.log"));
    let mut relayd = world.start("");
    need_kernel_plane(&relayd.ctl);
    let servers = (tcp_server(&world.backend, PORT), udp_server(&world.backend, PORT));
    add_rule(&relayd.ctl);
    forward(&world);
    die_and_come_back(&world, &mut relayd);
    count(&world, &relayd.ctl, &servers);
}

fn introduce() {
    say::line(&format!(
        "A client, a relay and a backend, each in a network namespace of its own:\n\n  \
         client {CLIENT} ---- {RELAY} relay {RELAY_INSIDE} ---- {BACKEND} backend\n"
    ));
}

/// Without it nothing of what follows would be true.
fn need_kernel_plane(ctl: &Ctl) {
    let status = ctl.json(&["status"]);
    if status["kernel"]["available"] == true {
        return;
    }
    let reason = status["kernel"]["reason"].as_str().unwrap_or("relayd does not say why");
    stage::fail(&format!(
        "relayd runs, but cannot use the kernel: {reason}\n\
         It takes Linux 5.10 or later, and root on the host itself or in a privileged container."
    ));
}

fn add_rule(ctl: &Ctl) {
    let args = ["add", "8388", "203.0.113.2", "--name", "demo"];
    say::line("relayd runs on the relay. One rule sends its port 8388 to the backend:\n");
    say::command(&format!("relayctl {}", args.join(" ")), &ctl.ok(&args));
}

fn forward(world: &World) {
    say::line("The client talks to the relay, the backend answers:\n");
    let ipv4 = SocketAddr::from((RELAY, PORT));
    talk(world, ipv4);
    let seen = Client::connect(&world.client, ipv4).and_then(Client::seen_as);
    let forwarding = world.relay.read_sysctl("net/ipv4/ip_forward");
    say::line(&format!(
        "\nThe backend sees {}. The kernel did this, with ip_forward = {forwarding} and without netfilter.\n",
        seen.expect("the address that the backend sees").ip()
    ));
    say::line("The same rule takes IPv6 clients, whom the kernel translates for the IPv4 backend:\n");
    talk(world, SocketAddr::from((RELAY_V6, PORT)));
    say::line("");
}

/// Every byte and datagram is checked by the one who gets it.
pub fn talk(world: &World, listener: SocketAddr) {
    let expected = Digest::of_noise(BULK, BULK);
    let connect = || Client::connect(&world.client, listener).expect("a TCP connection through the relay");
    let start = Instant::now();
    connect().upload(BULK).expect("the upload");
    connect().download_expecting(expected).expect("the download");
    let rate = say::rate(2 * BULK, start.elapsed());
    let size = BULK >> 20;
    say::line(&format!("  TCP  {size} MiB to the backend and {size} MiB back, same hashes, {rate}"));

    let came_back = echo_datagrams(world, listener);
    say::line(&format!(
        "  UDP  {} datagrams sent, {} came back unchanged",
        say::number(DATAGRAMS),
        say::number(came_back)
    ));
    if came_back != DATAGRAMS {
        stage::fail("datagrams were lost, on links that lose none");
    }
}

/// Datagrams of all sizes, one after the other; returns how many came back.
fn echo_datagrams(world: &World, listener: SocketAddr) -> u64 {
    let socket = Datagrams::new(&world.client, listener);
    let mut noise = Noise::new(DATAGRAMS);
    let mut payload = vec![0; LARGEST_DATAGRAM];
    noise.fill(&mut payload);
    let mut came_back = 0;
    let mut patience = 3;
    for _ in 0..DATAGRAMS {
        let size = 1 + noise.next_u64() as usize % LARGEST_DATAGRAM;
        if socket.echo(&payload[..size]).is_ok() {
            came_back += 1;
        } else {
            patience -= 1;
            if patience == 0 {
                break;
            }
        }
    }
    came_back
}

fn die_and_come_back(world: &World, relayd: &mut Daemon) {
    say::line(&format!("kill -9 of relayd, with {OPEN} connections open in the kernel:\n"));
    let listener = (RELAY, PORT);
    let load = Load::new()
        .with_connections(&world.client, listener, OPEN)
        .with_newcomers(&world.client, listener)
        .with_datagrams(&world.client, listener);
    load.run_on(ROUNDS);
    relayd.kill();
    let (start, before) = (Instant::now(), load.tally());
    load.run_on(ROUNDS);
    let (time, after) = (start.elapsed(), load.tally());
    relayd.start_again(&world.relay);
    load.run_on(ROUNDS);
    load.finish();
    let adopted = relayd.ctl.json(&["status"])["kernel"]["adopted"] == true;
    if !adopted {
        stage::fail("relayd came back, and did not take over what it had left in the kernel");
    }
    say::line(&format!(
        "  dead for {}: {} echoes on them, {} new connections, {} datagrams; nothing was lost",
        seconds(time),
        say::number(after.echoes - before.echoes),
        say::number(after.connections - before.connections),
        say::number(after.datagrams - before.datagrams)
    ));
    say::line("  started again: it took over its rules, flows and counters\n");
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn count(world: &World, ctl: &Ctl, (tcp, udp): &(Server, Server)) {
    say::line(&format!(
        "The backend served {} connections and {} datagrams. relayctl counted:\n",
        say::number(tcp.count()),
        say::number(udp.count())
    ));
    say::command("relayctl list", &ctl.ok(&["list"]));
    let rule = ctl.rule("demo");
    match rule["counters"]["drops"].as_object() {
        Some(drops) if !drops.is_empty() => {
            for (reason, count) in drops {
                say::line(&format!("  dropped: {count} packets, {reason}"));
            }
            stage::fail("Relay dropped packets on links that lose none");
        }
        _ => say::line("No packet was dropped, and no checksum was wrong on any of the three."),
    }
    assert_eq!(world.checksum_errors(), 0, "packets with bad checksums arrived");
}

fn say_what_is_next() {
    say::line(
        "\nAll of it is gone now. On a real relay host:\n\n  \
         cargo xtask install                          relayd, relayctl, unit, manual, completion\n  \
         sudo systemctl enable --now relayd\n  \
         sudo relayctl add 8388 203.0.113.10:8388     the first rule; relayctl explain 8388 says more\n\n\
         README.md tells the rest.",
    );
}
