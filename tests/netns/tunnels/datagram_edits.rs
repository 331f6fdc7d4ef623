//! UDP through tunnels while the rules of either end change.

use std::fs;

use harness::datagrams::Datagrams;
use harness::traffic::udp_server;
use harness::world::{RELAY, folder};
use harness::{Ctl, Daemon, World, within};

use super::datagrams::{THROUGH, with_udp};
use super::{BACKEND, LIMIT, accept, connect, drops, own, rule, start, world};

/// The end of tunnels on the backend's host.
const FAR: &str = "\"203.0.113.2:4433\"";

/// A relayd on the backend's host with a rule `out` at [`FAR`]. `more`: further keys of its leg.
fn far(world: &World, more: &str) -> (tempfile::TempDir, Daemon) {
    let folder = folder();
    for file in ["server.pem", "server.key"] {
        fs::copy(world.folder().join(file), folder.path().join(file)).expect("copy");
    }
    let more = [THROUGH, more].concat();
    let rules = rule("out", 4433, BACKEND, &(accept("wss", &more) + "timeout = { udp = \"6s\" }\n"));
    let daemon = Daemon::start(&world.backend, folder.path(), "hook = \"off\"\n", &with_udp(&rules));
    (folder, daemon)
}

fn active(ctl: &Ctl, rule: &str) -> u64 {
    ctl.counter(rule, "/flows/active")
}

fn client(world: &World) -> Datagrams {
    Datagrams::new(&world.client, (RELAY, 80))
}

/// Whatever an exit does that takes no flows any more: old ones go on, new ones go to another one, and its tunnel ends
/// with the last one there is.
fn new_flows_go_elsewhere(change: &[&str]) {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let (_folder, far) = far(&world, ", token = \"first\"");
    let to = format!("[{FAR}, {}]", own(4430));
    let through = [THROUGH, ", token = \"first\""].concat();
    let more = connect("wss", &through) + "balance = \"first\"\ncheck = { kind = \"passive\", fall = 2 }\n";
    let here = rule("here", 4430, BACKEND, &accept("wss", &through));
    let daemon = start(&world, &with_udp(&[rule("in", 80, &to, &more), here].concat()));
    let old = client(&world);
    old.echo(b"by the first").expect("an echo");
    assert_eq!(active(&daemon.ctl, "here"), 0, "it goes by the other one");
    far.ctl.ok(change);
    let new = client(&world);
    new.echo_patiently(b"by the second").expect("an echo");
    assert!(active(&daemon.ctl, "here") > 0);
    old.echo(b"by the first, still").expect("an echo");
    assert!(active(&far.ctl, "out") > 0, "{}", far.ctl.rule("out"));
    within(LIMIT, "the tunnel ends with its last flow", &mut || active(&far.ctl, "out") == 0);
    old.echo_patiently(b"by the second, too").expect("an echo");
    assert_eq!(active(&far.ctl, "out"), 0);
}

#[test]
fn an_exit_that_drains() {
    new_flows_go_elsewhere(&["drain", "out"]);
}

#[test]
fn an_exit_that_is_disabled() {
    new_flows_go_elsewhere(&["disable", "out"]);
}

#[test]
fn an_exit_with_another_token() {
    new_flows_go_elsewhere(&["set", "out", "accept.token=second"]);
}

/// Nobody but its own end knows of an exit that it lets tunnels in by something else: they begin anew by themselves.
#[test]
fn an_exit_with_another_certificate() {
    let (world, authority) = world();
    let _server = udp_server(&world.backend, 80);
    let (folder, far) = far(&world, "");
    let daemon = start(&world, &with_udp(&rule("in", 80, FAR, &connect("wss", THROUGH))));
    client(&world).echo(b"by the first certificate").expect("an echo");
    authority.issue("server", super::HOST);
    for file in ["server.key", "server.pem"] {
        fs::copy(world.folder().join(file), folder.path().join(file)).expect("copy");
    }
    far.ctl.ok(&["reload"]);
    for _ in 0..10 {
        client(&world).echo_patiently(b"by any").expect("an echo");
    }
    assert_eq!(drops(&daemon.ctl, "in", "backend_tls"), 0, "{}", daemon.ctl.rule("in"));
}

/// A rule in clear gets a tunnel: nobody's datagrams go beside it.
fn nobody_goes_on_in_clear(daemon: &Daemon, world: &World, plane: &str) {
    let (beside, through) = (udp_server(&world.backend, 4433), udp_server(&world.backend, 80));
    let (_folder, _far) = far(world, "");
    let client = client(world);
    client.echo(b"in clear").and_then(|()| client.echo(b"in clear")).expect("echoes");
    assert_eq!((beside.count(), through.count()), (2, 0));
    assert_eq!(daemon.ctl.rule("in")["plane"]["ipv4"]["plane"], plane);
    let text = fs::read_to_string(&daemon.config).expect("config");
    let edited = text.replace("name = \"in\"", &(connect("wss", THROUGH) + "name = \"in\""));
    fs::write(&daemon.config, edited).expect("config");
    daemon.ctl.ok(&["reload"]);
    within(LIMIT, "it goes through the tunnel", &mut || {
        client.echo_patiently(b"anyhow").expect("an echo");
        through.count() > 0
    });
    let before = beside.count();
    for _ in 0..10 {
        client.echo_patiently(b"through the tunnel").expect("an echo");
    }
    assert_eq!(beside.count(), before, "in clear");
}

#[test]
fn sessions_in_clear_end_when_their_rule_gets_a_tunnel() {
    let (world, _authority) = world();
    let daemon = start(&world, &with_udp(&rule("in", 80, FAR, "")));
    nobody_goes_on_in_clear(&daemon, &world, "user");
}

#[test]
fn flows_in_clear_end_when_their_rule_gets_a_tunnel() {
    let (world, _authority) = world();
    let daemon = world.start(&with_udp(&rule("in", 80, FAR, "")));
    nobody_goes_on_in_clear(&daemon, &world, "kernel");
}

/// New clients get a tunnel of their own, as the rule has it now.
#[test]
fn another_way_out_is_another_tunnel() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let (_folder, far) = far(&world, "");
    let daemon = start(&world, &with_udp(&rule("in", 80, FAR, &connect("wss", THROUGH))));
    let ten = || (0..10).for_each(|_| client(&world).echo(b"question").expect("an echo"));
    ten();
    let before = active(&far.ctl, "out");
    daemon.ctl.ok(&["set", "in", &format!("connect.source={RELAY}")]);
    ten();
    assert!(active(&far.ctl, "out") > before + 10, "ten clients, and their tunnel");
}

/// Who goes by a tunnel that is down when its backend is the rule's no more chooses anew.
#[test]
fn a_backend_that_has_gone_for_good() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let (_folder, mut far) = far(&world, "");
    let here = rule("here", 4430, BACKEND, &accept("wss", THROUGH));
    let entry = rule("in", 80, FAR, &(connect("wss", THROUGH) + "on_down = \"reset\"\n"));
    let daemon = start(&world, &with_udp(&[entry, here].concat()));
    let old = client(&world);
    old.echo(b"by the first").expect("an echo");
    far.kill();
    old.echo(b"nowhere").expect_err("it is down");
    daemon.ctl.ok(&["set", "in", &format!("to={RELAY}:4430")]);
    old.echo_patiently(b"by the second").expect("an echo");
}

/// One datagram to each port of a range.
#[test]
fn tunnels_are_bounded() {
    // of so many descriptors, an eighth
    const MOST: u16 = 64;
    let (world, _authority) = world();
    let entry = rule("in", 1, "\"203.0.113.2:40000\"", &connect("ws", THROUGH));
    let entry = with_udp(&entry.replace("\":1\"", "\":20000-21999\""));
    let daemon = world.start_limited(u64::from(MOST) * 8, &entry);
    let sender = Datagrams::new(&world.client, (RELAY, 20_000));
    for port in 20_000..20_000 + 2 * MOST {
        sender.0.send_to(b"?", (RELAY, port)).expect("send");
    }
    let refused = || drops(&daemon.ctl, "in", "descriptors");
    within(LIMIT, "half of them are refused", &mut || refused() == u64::from(MOST));
    assert_eq!(active(&daemon.ctl, "in"), u64::from(MOST));
}
