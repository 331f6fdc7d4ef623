//! `relayctl observe` and `GET /v1/observe`: what is printed in each form, what may be asked, and how it ends.

use std::process::{Command, Stdio};
use std::thread;

use harness::daemon::{Said, binary};
use harness::http::Http;
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Ctl, World, eventually};
use serde_json::{Value, json};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n";

/// What it prints, and how it ends, once somebody has come by and gone.
fn observed(world: &World, ctl: &Ctl, args: &[&str]) -> Said {
    let mut command = Command::new(binary("relayctl"));
    command.arg("--socket").arg(&ctl.socket).arg("observe").args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("relayctl");
    let waits = thread::spawn(move || child.wait_with_output().expect("output"));
    eventually("it is watched", || ctl.json(&["status"])["observers"] == 1);
    Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("an answer");
    let said = Said::from(waits.join().expect("thread"));
    eventually("nobody watches", || ctl.json(&["status"])["observers"] == 0);
    said
}

#[test]
fn every_form_says_the_same() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let ctl = &daemon.ctl;
    let said = observed(&world, ctl, &["web", "-n", "3"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!((said.code, lines.len()), (0, 4), "{said:?}");
    let words: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(words, ["TIME", "(UTC)", "EVENT", "RULE", "PLANE", "PROTO", "WHO", "AND", "WHY"]);
    for (line, event) in lines[1..].iter().zip(["opened", "proven", "closed"]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..5], [event, "web", "kernel", "tcp"], "{line}");
        assert!(words[5].starts_with("198.51.100.2:") && line.contains(" to 203.0.113.2:80"), "{line}");
        assert_eq!(words[0].len(), "14:05:09.123".len(), "{line}");
    }
    assert!(lines[3].contains(": closed after ") && lines[3].ends_with(" out"), "{}", lines[3]);
    let wide = observed(&world, ctl, &["-n", "1", "-o", "wide"]);
    assert!(wide.out.contains(" by 198.51.100.1:80 to 203.0.113.2:80\n"), "{wide:?}");
    for (form, by) in [("tsv", '\t'), ("csv", ',')] {
        let said = observed(&world, ctl, &["--kind", "closed", "-n", "1", "-o", form]);
        let cells: Vec<Vec<&str>> = said.out.lines().map(|line| line.split(by).collect()).collect();
        assert_eq!((said.code, cells.len(), cells[0].len()), (0, 2, 16), "{said:?}");
        assert_eq!((cells[0][1], cells[1][1], cells[1].len()), ("event", "closed", 16), "{said:?}");
    }
    let said = observed(&world, ctl, &["--flows", "-n", "2", "-o", "json"]);
    let lines: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!((said.code, lines.len()), (0, 2), "{said:?}");
    let fields = ["event", "rule", "plane", "protocol", "listen", "backend"].map(|key| &lines[0][key]);
    assert_eq!(json!(fields), json!(["opened", "web", "kernel", "tcp", "198.51.100.1:80", "203.0.113.2:80"]));
    assert!(said.err.is_empty(), "{said:?}");
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let world = World::new();
    let daemon = world.start(WEB);
    let ctl = &daemon.ctl;
    for (args, code, words) in [
        (&["nosuch"][..], 1, "there is no rule \"nosuch\""),
        (&["a b"], 2, "a name is 1 to 64"),
        (&["--client", "somebody"], 2, "an address or a network such as"),
        (&["--kind", "gone"], 2, "possible values: opened, proven, closed, refused, dropped"),
        (&["--kind", "closed", "--drops"], 2, "cannot be used with"),
        (&["--protocol", "icmp"], 2, "possible values: tcp, udp"),
        (&["--plane", "auto"], 2, "possible values: kernel, user"),
        (&["-n", "0"], 2, "0 is not in 1.."),
    ] {
        let said = ctl.fails(code, &[&["observe"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let help = ctl.ok(&["observe", "--help"]);
    for words in
        ["opened, proven, closed, refused, dropped", "--drops", "--client <NET>", "relayctl observe web"]
    {
        assert!(help.contains(words), "{words}: {help}");
    }
    let nobody = Ctl::new(world.folder().join("nosuch.sock"), world.folder());
    assert!(nobody.fails(3, &["observe"]).contains("relayd is not reachable"));
}

#[test]
fn the_api_tells_in_events_and_takes_so_many() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let mut all: Vec<Http> = Vec::new();
    for _ in 0..64 {
        let mut http = Http::unix(&daemon.ctl.socket);
        http.send("GET", "/v1/observe?rule=web&kind=opened,closed", b"");
        let head = http.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        all.push(http);
    }
    let answer = Http::unix(&daemon.ctl.socket).get("/v1/observe");
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("not_possible")), "{answer:?}");
    Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("an answer");
    for http in &mut all {
        for kind in ["opened", "closed"] {
            while http.line() != format!("event: {kind}") {}
            let data = http.line();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            assert_eq!((&data["event"], &data["rule"]), (&json!(kind), &json!("web")), "{data}");
        }
    }
    // one that goes makes room
    all.pop();
    eventually("it is noticed", || daemon.ctl.json(&["status"])["observers"] == 63);
    let said = daemon.ctl.ok(&["status"]);
    assert!(said.contains("observers") && said.contains("63"), "{said}");
}
