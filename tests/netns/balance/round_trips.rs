//! What handshakes tell of the way to clients and to backends.

use harness::World;
use harness::dns::{NameServer, Says};
use harness::farm::{Farm, Visit, address, name};
use harness::http::Http;

use super::{QUICK, await_up, on_both_planes, planes, to, ways_in};

#[test]
fn round_trips_are_counted_by_backend_and_leg() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 2);
    let config = [
        on_both_planes("two", 8001, &to(&[0, 1]), "check = { kind = \"passive\" }"),
        on_both_planes("one", 8002, &to(&[0]), ""),
        on_both_planes("probed", 8003, &to(&[0, 1]), &format!("check = {{ {QUICK} }}")),
    ];
    let daemon = world.start(&config.concat());
    for rule in planes("probed") {
        await_up(&daemon.ctl, &rule, 2);
    }
    for (rule_name, port, each) in [("two", 8001, 4), ("one", 8002, 8), ("probed", 8003, 4)] {
        for (rule, port) in planes(rule_name).iter().zip([port, port + 1000]) {
            for turn in 0..8 {
                // of each family four
                let to = ways_in(port)[turn / 4];
                let _over = Visit::pay(&world.client, None, to).expect("a connection");
            }
            let shown = daemon.ctl.rule(rule);
            for backend in shown["to"].as_array().expect("backends") {
                for leg in ["client", "backend"] {
                    let known = &backend["rtt"][leg];
                    // one whose packet came twice on a busy machine does not count
                    let count = known["count"].as_u64().expect("a count");
                    assert!((each - 1..=each).contains(&count), "{rule}: {leg}: {shown}");
                    let [p50, p99] =
                        ["/p50_ms", "/p99_ms"].map(|at| known.pointer(at).and_then(|it| it.as_f64()));
                    assert!(p50 > Some(0.0) && p99 >= p50 && p99 < Some(1000.0), "{rule}: {known}");
                    let buckets = known["buckets"].as_array().expect("buckets");
                    assert_eq!(buckets.iter().filter_map(|it| it.as_u64()).sum::<u64>(), count, "{rule}");
                }
            }
            let said = daemon.ctl.ok(&["show", rule]);
            assert!(said.contains("rtt") && said.contains(" ms (p90 "), "{said}");
        }
    }
    let metrics = Http::unix(&daemon.ctl.socket).get("/metrics").body;
    for rule in planes("two") {
        for leg in ["client", "backend"] {
            let labels = format!("rule=\"{rule}\",backend=\"{}\",leg=\"{leg}\"", name(1));
            for series in [
                format!("relay_backend_rtt_seconds_count{{{labels}}} "),
                format!("relay_backend_rtt_seconds_bucket{{le=\"+Inf\",{labels}}} "),
            ] {
                let found = metrics.lines().find_map(|line| line.strip_prefix(&series));
                assert!(found.is_some_and(|count| ["3", "4"].contains(&count)), "{series} in {metrics}");
            }
        }
    }
}

/// Two names that lead to one address are one endpoint to the kernel plane.
#[test]
fn what_backends_share_counts_once() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 1);
    let names = NameServer::start(&world.relay, world.folder());
    for name in ["one.test", "two.test"] {
        names.says(name, Says::Address(address(0)));
    }
    let to = "\"one.test:80\", \"two.test:80\"";
    let check = "check = { kind = \"passive\" }";
    let daemon = world.start(&[crate::answers::QUICK, &on_both_planes("web", 8001, to, check)].concat());
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        harness::eventually("both names are known", || {
            daemon.ctl.rule(rule)["to"]
                .as_array()
                .is_some_and(|to| to.iter().all(|to| !to["resolved"].is_null()))
        });
        let _visits = [(); 4].map(|()| Visit::pay(&world.client, None, ways_in(port)[0]).expect("a visit"));
        let shown = daemon.ctl.rule(rule);
        let sum =
            |part: &str| (0..2).filter_map(|index| shown["to"][index].pointer(part)?.as_u64()).sum::<u64>();
        assert_eq!([sum("/flows/total"), sum("/flows/active")], [4, 4], "{rule}: {shown}");
        // one whose packet came twice on a busy machine does not count
        assert!((3..=4).contains(&sum("/rtt/backend/count")), "{rule}: {shown}");
    }
}
