//! Where fq is on the way out, what a rate lets through leaves evenly, however it comes in, on either plane.

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use harness::world::{BACKEND, RELAY};
use harness::{Daemon, NetNs, World, eventually};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};

/// Bytes of a datagram's payload on average, and what it is with its headers.
const PAYLOAD: usize = 1222;
const LENGTH: u64 = PAYLOAD as u64 + 28;
/// Bytes per second; a datagram each two milliseconds.
const RATE: u64 = LENGTH * 500;
/// Datagrams that come at once, so often: twice the rate.
const CLUMP: usize = 50;
const EACH: Duration = Duration::from_millis(50);

/// Panics if anything is not as it should be.
pub fn check() {
    for plane in ["kernel", "user"] {
        let world = World::new();
        let daemon = world.start(&format!(
            "[[rule]]\nname = \"dns\"\nlisten = \":5300\"\nprotocol = \"udp\"\nto = \"203.0.113.2:53\"\nplane = \"{plane}\"\n\
             rate = {{ egress = \"{}bps\" }}\n",
            RATE * 8
        ));
        let stream = Stream::start(&world);
        let policed = stream.arrivals(Duration::from_secs(3));
        add_fq(&world.relay, "uplink");
        eventually("relayd sees it", || is_paced(&daemon, "uplink"));
        let paced = stream.arrivals(Duration::from_secs(3));
        stream.end();
        crate::say(&format!("{plane} plane: {} without fq, {} with it", policed.shown(), paced.shown()));
        for (how, arrivals) in [("without fq", &policed), ("with it", &paced)] {
            let of_rate = arrivals.per_second / 500.0;
            assert!((0.93..=1.07).contains(&of_rate), "{plane} {how}: {of_rate} of the rate");
        }
        assert!(policed.clumped > 0.5, "{plane}: they should not have been even without fq");
        assert!(paced.clumped < 0.2, "{plane}: {} follow each other too soon", paced.clumped);
    }
}

fn add_fq(ns: &NetNs, interface: &str) {
    let index = ns.index(interface);
    ns.netlink(async move |mut handle| {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("fq".into()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = handle.request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    });
}

fn is_paced(daemon: &Daemon, interface: &str) -> bool {
    let status = daemon.ctl.json(&["status"]);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    interfaces.iter().any(|facts| facts["name"] == interface && facts["paced"] == true)
}

/// A backend that answers one question with clumps of datagrams until it is told to stop, and the client that asked.
struct Stream {
    client: UdpSocket,
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn start(world: &World) -> Self {
        let server = world.backend.run(|| UdpSocket::bind((BACKEND, 53))).expect("bind");
        let client = world.client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
        client.connect((RELAY, 5300)).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        setsockopt(&client, ReceiveTimestampns, &true).expect("timestamps");
        client.send(b"?").expect("send");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        thread::spawn(move || {
            let (_, asker) = server.recv_from(&mut [0; 16]).expect("a question");
            let mut next = Instant::now();
            while !told.load(Ordering::Relaxed) {
                for index in 0..CLUMP {
                    // each longer than the one before: relayd would send equal ones as one packet, which leaves at once
                    let datagram = vec![7; PAYLOAD - CLUMP / 2 + index];
                    let _full = server.send_to(&datagram, asker);
                }
                next += EACH;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        let mut first = [0; 2048];
        client.recv(&mut first).expect("an answer");
        // so that the flow is proven
        client.send(b"!").expect("send");
        Self { client, stop }
    }

    /// How they come in, once the burst is over.
    fn arrivals(&self, length: Duration) -> Arrivals {
        let settled = Instant::now() + Duration::from_secs(3);
        while Instant::now() < settled {
            self.arrival();
        }
        let mut times = vec![self.arrival()];
        let first = times[0];
        while times.last().is_some_and(|last| *last - first < length) {
            times.push(self.arrival());
        }
        Arrivals::of(&times)
    }

    /// When the kernel got the next one, since the epoch.
    fn arrival(&self) -> Duration {
        let mut bytes = [0; 2048];
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(self.client.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
            .expect("a datagram");
        let time = message.cmsgs().expect("control messages").find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        time.expect("a time")
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Arrivals {
    per_second: f64,
    /// Share of those that follow the one before in less than half the time that one takes.
    clumped: f64,
}

impl Arrivals {
    fn of(times: &[Duration]) -> Self {
        let gaps: Vec<Duration> = times.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
        let soon = gaps.iter().filter(|gap| **gap < Duration::from_millis(1)).count();
        let all: Duration = gaps.iter().sum();
        Self { per_second: gaps.len() as f64 / all.as_secs_f64(), clumped: soon as f64 / gaps.len() as f64 }
    }

    fn shown(&self) -> String {
        format!("{:.0} datagrams a second, {:.0} % in clumps", self.per_second, self.clumped * 100.0)
    }
}
