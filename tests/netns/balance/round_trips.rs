//! What handshakes tell of the way to clients and to backends.

use harness::World;
use harness::farm::{Farm, Visit, name};
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
