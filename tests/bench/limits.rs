//! What limits cost that are never reached, and how exactly a quota ends what runs at full speed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use harness::lab::Attached;
use harness::world::{BACKEND, RELAY};
use harness::{World, eventually};

use crate::contender::{Contender, Kind, RULE};
use crate::cost::compare;
use crate::figures::{Figures, Options, Series, in_turns, table};
use crate::packets::measure;

/// Bytes of the quota.
const QUOTA: u64 = 2_000_000_000;

pub fn run(options: &Options) {
    unused(options);
    overshoot(options);
}

/// Packets per second where nothing is asked of them, and where limits are that they do not reach.
fn unused(options: &Options) {
    let sets = [
        ("no limit", ""),
        ("rate", "rate = { ingress = \"100Gbps\", egress = \"100Gbps\" }\n"),
        (
            "rate and quota",
            "rate = { ingress = \"100Gbps\", egress = \"100Gbps\" }\n\
             quota = { limit = \"1000TB\", reset = \"never\" }\n",
        ),
        ("rate for each client", "rate = { per_client = \"100Gbps\" }\n"),
    ];
    let rules = sets.map(|(name, terms)| (name, format!("{RULE}{terms}")));
    compare(options, &rules, &[("UDP, live flow", "tc"), ("TCP, live flow", "tc")]);
    for flows in &options.flows {
        let contenders: Vec<(Contender, Attached)> = rules
            .iter()
            .map(|(_, rules)| {
                let contender = Contender::with_rules(Kind::RelayTc, rules);
                let counter = Attached::xdp(&contender.world.backend, "backend", "lab_count");
                (contender, counter)
            })
            .collect();
        let mut rows: Vec<(String, Series)> =
            rules.iter().map(|(name, _)| ((*name).to_owned(), Series::default())).collect();
        for _ in 0..options.rounds {
            for ((contender, counter), (_, series)) in contenders.iter().zip(&mut rows) {
                series.0.push(measure(contender, counter, *flows) / 1e6);
            }
        }
        let title = format!("limits that are not reached: 64-byte UDP at tc, {flows} flows");
        table(&title, "million packets/s", &rows, &["no limit"]);
    }
}

/// What passes beyond a quota, of four downloads at full speed.
fn overshoot(options: &Options) {
    let planes = [("kernel plane", "kernel"), ("user plane", "user")];
    in_turns(options.rounds, &planes, &[], |plane| -> Figures {
        let world = World::new();
        serve(&world);
        let daemon = world.start(&format!(
            "{RULE}plane = \"{plane}\"\nquota = {{ limit = \"{QUOTA}B\", count = \"both\", reset = \"never\" }}\n"
        ));
        let readers: Vec<_> = (0..4).map(|_| download(&world)).collect();
        let carried =
            || daemon.ctl.counter("bench", "/ingress/bytes") + daemon.ctl.counter("bench", "/egress/bytes");
        eventually("it is blocked", || daemon.ctl.rule("bench")["state"] == "blocked");
        readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
        thread::sleep(Duration::from_millis(200));
        let beyond = carried().cast_signed() - QUOTA.cast_signed();
        vec![("beyond a quota of 2 GB: KiB".into(), beyond as f64 / 1024.0)]
    });
}

fn serve(world: &World) {
    let listener = world.backend.run(|| TcpListener::bind((BACKEND, 80))).expect("bind");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || while stream.write_all(&[7; 256 * 1024]).is_ok() {});
        }
    });
}

fn download(world: &World) -> thread::JoinHandle<()> {
    let mut stream = world.client.run(|| TcpStream::connect((RELAY, 8080))).expect("connect");
    // a flow that is dropped without a word ends here
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    })
}
