//! Rules of other tools, imported into a running relayd, carry traffic at once.

use std::fs;

use harness::World;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::RELAY;

const REALM: &str =
    "[network]\nuse_udp = true\n[[endpoints]]\nlisten = \"[::]:8388\"\nremote = \"203.0.113.2:80\"\n";
const NFT: &str = "table ip nat {\n  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n    \
    iifname \"uplink\" tcp dport 8389 counter packets 3 bytes 180 dnat to 203.0.113.2:80\n  }\n}\n";
const HAPROXY: &str = "defaults\n  mode tcp\nfrontend web\n  bind *:8390\n  default_backend pool\nbackend pool\n  server a 203.0.113.2:80\n";
const NGINX: &str = "stream {\n  server { listen 8391; proxy_pass 203.0.113.2:80; }\n  server { listen 8391 udp; proxy_pass 203.0.113.2:80; }\n}\n";
const XWPF: &str = "RULE_ID=1\nRULE_ROLE=\"1\"\nSECURITY_LEVEL=\"standard\"\nLISTEN_PORT=\"8392\"\nLISTEN_IP=\"::\"\n\
    REMOTE_HOST=\"203.0.113.2\"\nREMOTE_PORT=\"80\"\nENABLED=\"true\"\n";

#[test]
fn what_was_imported_carries_traffic() {
    let world = World::new();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let daemon = world.start("# empty so far\n");
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, port, udp, content) in [
        ("realm", 8388, true, REALM),
        ("nftables", 8389, false, NFT),
        ("haproxy", 8390, false, HAPROXY),
        ("nginx", 8391, true, NGINX),
        ("xwpf", 8392, true, XWPF),
    ] {
        let path = folder.path().join(kind);
        fs::write(&path, content).expect("a file");
        let said = daemon.ctl.ok(&["import", "auto", path.to_str().expect("a path")]);
        assert!(said.contains(&format!("read as {kind}: 1 rules")), "{kind}: {said}");
        let client = Client::connect(&world.client, (RELAY, port)).expect("connect");
        client.upload(1 << 20).unwrap_or_else(|error| panic!("{kind}: {error}"));
        if udp {
            Datagrams::new(&world.client, (RELAY, port)).echo_patiently(&text(500)).expect("an echo");
        }
    }
    let saved = fs::read_to_string(&daemon.config).expect("config");
    assert!(saved.contains("\n# empty so far\n") && saved.matches("[[rule]]").count() == 5, "{saved}");
}
