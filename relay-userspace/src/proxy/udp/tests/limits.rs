//! More clients than there is room for. Each test runs in a process of its own, which may open 64 descriptors.

use std::fs::File;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::proxy::counters::Refusal;

const DESCRIPTORS: u64 = 64;
/// One listener's clients: half of the descriptors.
const MOST: u8 = 32;

/// True in the process that is to do the test; in the first one, starts that.
fn in_child(name: &str) -> bool {
    const MARK: &str = "RELAY_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard).unwrap();
        return true;
    }
    let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}{errors}");
    false
}

/// Every address it sends to makes it another client, without a descriptor of its own.
struct Crowd<'a> {
    rig: &'a Rig,
    socket: UdpSocket,
}

impl Crowd<'_> {
    fn send(&self, number: u8) {
        self.socket.send_to(&[number], loopback(number, self.rig.address.port())).unwrap();
    }

    /// The backend's view of a client that gets an answer.
    fn echo(&self, number: u8) -> SocketAddr {
        self.send(number);
        let (payload, from) = self.rig.take();
        assert_eq!(payload, [number]);
        self.rig.backend.send_to(&payload, from).unwrap();
        assert_eq!(get(&self.socket), [number]);
        from
    }
}

#[test]
fn a_flood_takes_the_room_of_who_never_got_an_answer() {
    if !in_child("a_flood_takes_the_room_of_who_never_got_an_answer") {
        return;
    }
    let rig = Rig::new("0.0.0.0:0", V4);
    let crowd = Crowd { rig: &rig, socket: socket(V4) };
    let counters = &rig.service.counters;
    let known = crowd.echo(1);
    for number in 2..=200 {
        crowd.send(number);
        assert_eq!(rig.take().0, [number]);
        assert!(counters.active() <= u64::from(MOST));
    }
    assert_eq!((counters.active(), counters.total()), (u64::from(MOST), 200));
    assert_eq!(crowd.echo(1), known, "the one that had an answer was thrown out");
    // All of them get answers: then nobody has to go, and new ones are refused.
    for number in 2..=MOST {
        crowd.echo(number);
    }
    assert_eq!(counters.refused(Refusal::TableFull), 0);
    crowd.send(100);
    wait("counted", || counters.refused(Refusal::TableFull) == 1);
    assert_eq!(crowd.echo(1), known);
    rig.end();
}

#[test]
fn a_flood_in_one_batch_mixes_nobody_up() {
    const FLOOD: u8 = 100;
    if !in_child("a_flood_in_one_batch_mixes_nobody_up") {
        return;
    }
    let mut rig = Rig::stopped("0.0.0.0:0", V4, |_| {});
    let waiting = listener(rig.address);
    let flood = socket(V4);
    for number in 1..=FLOOD {
        flood.send_to(&[number], loopback(number, rig.address.port())).unwrap();
    }
    rig.work(waiting);
    let counters = &rig.service.counters;
    wait("all of them counted", || {
        counters.ingress.packets() + counters.refused(Refusal::TableFull) == u64::from(FLOOD)
    });
    assert_eq!(counters.ingress.packets(), u64::from(MOST));
    // Who is left gets its own answer, from the address that it asked.
    for _ in 0..MOST {
        let (payload, from) = rig.take();
        rig.backend.send_to(&payload, from).unwrap();
        let mut buffer = [0; 10];
        let (length, from) = flood.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], payload);
        assert_eq!(from, loopback(payload[0], rig.address.port()));
    }
    rig.end();
}

#[test]
fn without_descriptors_the_known_go_on() {
    if !in_child("without_descriptors_the_known_go_on") {
        return;
    }
    let rig = Rig::new("0.0.0.0:0", V4);
    let crowd = Crowd { rig: &rig, socket: socket(V4) };
    let counters = &rig.service.counters;
    let known: Vec<_> = (1..=3).map(|number| crowd.echo(number)).collect();
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for count in 1..=3 {
        crowd.send(4);
        wait("counted", || counters.refused(Refusal::Descriptors) == count);
    }
    let still: Vec<_> = (1..=3).map(|number| crowd.echo(number)).collect();
    assert_eq!(still, known);
    drop(files);
    crowd.echo(4);
    assert_eq!((counters.active(), counters.total()), (4, 4));
    rig.end();
}

#[test]
fn a_listener_waits_for_its_descriptor() {
    if !in_child("a_listener_waits_for_its_descriptor") {
        return;
    }
    let mut rig = Rig::stopped(V4, V4, |_| {});
    let (client, listener) = (rig.client(), listener(rig.address));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let session = serve(listener, Arc::clone(&rig.service), rig.phase.subscribe());
    rig.workers.push(std::thread::spawn(move || runtime.block_on(session)));
    wait("counted", || rig.service.counters.refused(Refusal::Descriptors) > 0);
    drop(files);
    rig.echo(&client, b"late");
    rig.end();
}
