//! A datagram to a backend, and its answer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Stage, Step};
use crate::proxy::{descriptors, outgoing};
use crate::rule::Connect;

/// The longest answer that is looked into.
const LONGEST: usize = 2048;

/// What is asked, and what has to be in the answer.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub send: &'a [u8],
    pub expect: Option<&'a [u8]>,
    pub limit: Duration,
}

/// Asks a backend over UDP.
pub async fn ask(address: SocketAddr, connect: &Connect, question: Question<'_>) -> Step {
    let begun = Instant::now();
    let failed = |code, text: String| Step::failed(Stage::Udp, code, &["to", "check.send"], text);
    let step = match timeout(question.limit, exchange(address, connect, question.send)).await {
        Err(_late) => failed("udp_timeout", "no answer within check.timeout".into()),
        Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => {
            failed("udp_refused", "refused (ICMP): nothing listens on that port there".into())
        }
        Ok(Err(error)) => failed("udp_unreachable", error.to_string()),
        Ok(Ok(answer)) if question.expect.is_none_or(|wanted| contains(&answer, wanted)) => {
            Step::passed(Stage::Udp, format!("an answer of {} bytes", answer.len()))
        }
        Ok(Ok(answer)) => {
            let text = format!("an answer of {} bytes, without what check.expect says", answer.len());
            Step::failed(Stage::Udp, "udp_answer", &["check.expect"], text)
        }
    };
    step.since(begun)
}

async fn exchange(address: SocketAddr, connect: &Connect, send: &[u8]) -> io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    descriptors::check(&socket)?;
    outgoing::bind(&socket, connect)?;
    socket.connect(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(send).await?;
    let mut answer = vec![0; LONGEST];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
