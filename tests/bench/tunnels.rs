//! Tunnels: Relay at both ends beside realm's engine at both ends, by each transport.

mod pair;

use std::thread;
use std::time::Duration;

use self::pair::{Family, Pair, cpu_seconds};
use crate::bulk::{self, Way};
use crate::figures::{Figures, Options, in_turns};
use crate::load::{WARM_UP, connects, exchange};
use crate::peer::resident_kib;
use crate::user::{CONNECTIONS, another_process, idle_clients};

const TRANSPORTS: [&str; 3] = ["tls", "ws", "wss"];
const IDLE: usize = 2_000;
const ENDS: [&str; 2] = ["entry", "exit"];

pub fn run(options: &Options) {
    let families = chosen(options, &Family::ALL, |family| family.name());
    for transport in chosen(options, &TRANSPORTS, |transport| transport) {
        let pairs: Vec<_> =
            families.iter().map(|&family| (family.name(), Pair::new(family, transport))).collect();
        in_turns(options.rounds, &pairs, &["realm"], |pair| carried(pair, transport));
        drop(pairs);
        // memory that was used before is used again: each begins anew
        let families: Vec<_> = families.iter().map(|&family| (family.name(), family)).collect();
        in_turns(1, &families, &["realm"], |&family| idle(&Pair::new(family, transport), transport));
    }
}

/// Those that the options name, or all if they name none.
fn chosen<T: Copy>(options: &Options, all: &[T], name: impl Fn(T) -> &'static str) -> Vec<T> {
    let is_named = |&it: &T| options.only.iter().any(|only| only == name(it));
    let named: Vec<T> = all.iter().copied().filter(is_named).collect();
    if named.is_empty() { all.to_vec() } else { named }
}

fn carried(pair: &Pair, transport: &str) -> Figures {
    let (pids, mut figures) = (pair.pids(), Figures::new());
    for (way, streams) in [(Way::Up, 1), (Way::Up, 16), (Way::Down, 1), (Way::Down, 16)] {
        let (gigabits, cpu) =
            bulk::measure_by(&pair.world, pair.target, streams, way, || pids.map(cpu_seconds));
        let to = if way == Way::Up { "to the backend" } else { "to the client" };
        let title = format!("{transport}: bulk {to}, {streams} streams");
        figures.push((format!("{title}: Gbit/s"), gigabits));
        for (end, cpu) in ENDS.iter().zip(cpu) {
            figures.push((format!("{title}, {end}: CPU-seconds per GB"), cpu));
        }
    }
    let both = || pids.map(cpu_seconds).iter().sum();
    let seen = exchange::measure(&pair.world, pair.target, CONNECTIONS, both);
    let title = format!("{transport}: 64 B request and response, {CONNECTIONS} connections");
    figures.push((format!("{title}: per second"), seen.per_second));
    figures.push((format!("{title}, both ends: CPU-microseconds each"), seen.cost));
    figures.push((format!("{title}, p50: microseconds"), seen.p50));
    figures.push((format!("{title}, p99: microseconds"), seen.p99));
    let seen = connects::measure(&pair.world, pair.target, WARM_UP, both);
    let title = format!("{transport}: connect, request, close");
    figures.push((format!("{title}: per second"), seen.per_second));
    figures.push((format!("{title}, both ends: CPU-microseconds each"), seen.cost));
    figures.push((format!("{title}: broken"), seen.failed as f64));
    figures
}

/// What each end keeps for a connection that has said something and is silent.
fn idle(pair: &Pair, transport: &str) -> Figures {
    let _server = another_process(&pair.world.backend);
    let resident = || pair.pids().map(|pid| resident_kib(pid) as f64);
    // what the first ones leave behind is not theirs alone
    drop(idle_clients(&pair.world.client, pair.target, 50));
    thread::sleep(Duration::from_secs(1));
    let before = resident();
    let _clients = idle_clients(&pair.world.client, pair.target, IDLE);
    thread::sleep(Duration::from_secs(1));
    let used = resident().into_iter().zip(before);
    let title = |end| format!("{transport}: {IDLE} idle connections, {end}: KiB each");
    ENDS.into_iter()
        .zip(used)
        .map(|(end, (now, before))| (title(end), (now - before) / IDLE as f64))
        .collect()
}
