//! Figures, for those who ask: `cargo test --release -p relay-userspace --lib tls::tests::measure -- --ignored --nocapture`.

#![expect(clippy::print_stdout, reason = "figures are to be seen")]

use std::time::Instant;

use super::*;

const BYTES: usize = 64 * 1024;
const ROUNDS: u32 = 20_000;

#[test]
#[ignore = "takes seconds, and means something in a release build only"]
fn bulk() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    for (server, suite) in every_suite(&authority) {
        let mut pair = Pair::new(&client, &server, "relay.test");
        pair.shake().expect("handshake");
        let payload = vec![7; BYTES];
        let (mut sealing, mut opening) = (0.0, 0.0);
        let (mut sealed, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            sealed.clear();
            pair.client.tls.seal(&payload, &mut sealed).expect("seal");
            let middle = Instant::now();
            let received = pair.server.tls.receive(&mut sealed, &mut answers).expect("receive");
            opening += middle.elapsed().as_secs_f64();
            sealing += (middle - begin).as_secs_f64();
            assert_eq!(received.payload, BYTES);
        }
        let gigabytes = BYTES as f64 * f64::from(ROUNDS) / 1e9;
        println!("{suite:?}: seal {:.2} GB/s, receive {:.2} GB/s", gigabytes / sealing, gigabytes / opening);
    }
}

#[test]
#[ignore = "takes seconds, and means something in a release build only"]
fn handshakes_and_memory() {
    let authority = Authority::new();
    for (server, suite) in every_suite(&authority) {
        let tickets = client(&trust(&authority));
        let mut strange = ClientConfig::clone(&tickets);
        strange.resumption = rustls::client::Resumption::disabled();
        for (client, is_resumed) in [(Arc::new(strange), false), (tickets, true)] {
            let mut pairs = Vec::with_capacity(1000);
            let before = heap();
            let begin = Instant::now();
            for _ in 0..1000 {
                let mut pair = Pair::new(&client, &server, "relay.test");
                pair.shake().expect("handshake");
                let (client, server) = (pair.client.tls, pair.server.tls);
                pairs.push((client, server));
            }
            let each = begin.elapsed() / 1000;
            let both = (heap() - before) / 1000;
            let servers: Vec<_> = pairs.into_iter().map(|(_client, server)| server).collect();
            let server_only = (heap() - before) / 1000;
            println!("{suite:?} resumed {is_resumed}: {each:?}, heap {both} B both, {server_only} B server");
            drop(servers);
        }
    }
}

/// Bytes on the heap, after glibc.
fn heap() -> usize {
    // SAFETY: it reads counters
    unsafe { nix::libc::mallinfo2() }.uordblks
}
