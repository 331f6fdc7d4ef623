//! Services that take messages, as small as they can be: one of HTTP, one of mail, and proxies on the way to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::netns::NetNs;

/// A request that has come.
#[derive(Clone, Debug)]
pub struct Taken {
    pub at: Instant,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Taken {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// What has come so far. The thread behind it ends with the test's process.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// The usual answer.
pub const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Sink {
    /// Listens on every address of a namespace. `answer`: what to say to a request, which is the n-th; `None`: nothing, ever.
    pub fn start(
        ns: &NetNs,
        port: u16,
        answer: impl Fn(usize, &Taken) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let sink = Self::default();
        let (answer, own) = (Arc::new(answer), sink.clone());
        serve(ns, port, move |stream| {
            let (answer, sink) = (answer.clone(), own.clone());
            thread::spawn(move || {
                let Some(taken) = request(&stream) else { return };
                let number = sink.keep(taken.clone());
                match answer(number, &taken) {
                    Some(text) => drop((&stream).write_all(text.as_bytes())),
                    None => thread::sleep(Duration::from_secs(600)),
                }
            });
        });
        sink
    }

    /// One that is glad of everything.
    pub fn glad(ns: &NetNs, port: u16) -> Self {
        Self::start(ns, port, |_, _| Some(FINE.into()))
    }

    /// A mail server that wants a password: each mail is kept as a request whose path is its envelope.
    pub fn mail(ns: &NetNs, port: u16, auth: &'static str) -> Self {
        let sink = Self::default();
        let own = sink.clone();
        serve(ns, port, move |stream| {
            let sink = own.clone();
            thread::spawn(move || sink.take_mail(&stream, auth));
        });
        sink
    }

    fn keep(&self, taken: Taken) -> usize {
        let mut all = self.taken.lock().expect("lock");
        all.push(taken);
        all.len() - 1
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("lock").clone()
    }

    /// The texts of all that has come.
    pub fn bodies(&self) -> String {
        self.taken().into_iter().map(|taken| taken.body + "\n").collect()
    }

    /// The dialogue of RFC 5321 as far as somebody who behaves gets. `auth`: what AUTH PLAIN has to say.
    fn take_mail(&self, stream: &TcpStream, auth: &str) -> Option<()> {
        let mut lines = BufReader::new(stream);
        let say = |text: &str| (&*stream).write_all(format!("{text}\r\n").as_bytes()).ok();
        say("220 mail.test ESMTP")?;
        let (mut envelope, mut is_known) = (Vec::new(), false);
        loop {
            let line = line(&mut lines)?;
            match line.split(' ').next()? {
                "EHLO" => say("250-mail.test\r\n250-8BITMIME\r\n250 AUTH PLAIN")?,
                "AUTH" if line == format!("AUTH PLAIN {auth}") => {
                    is_known = true;
                    say("235 welcome")?;
                }
                "AUTH" => say("535 5.7.8 who are you?")?,
                "MAIL" | "RCPT" if is_known => {
                    envelope.push(line);
                    say("250 ok")?;
                }
                "DATA" if envelope.len() > 1 => {
                    say("354 go on")?;
                    let body = data(&mut lines)?;
                    let path = std::mem::take(&mut envelope).join("\n");
                    let method = "MAIL".to_owned();
                    self.keep(Taken { at: Instant::now(), method, path, headers: Vec::new(), body });
                    say("250 taken")?;
                }
                "QUIT" => return say("221 bye"),
                _ => say("503 5.5.1 not now")?,
            }
        }
    }
}

/// A proxy: what is asked for by CONNECT, or by SOCKS 5 without a password, is connected to. What comes back: what has been asked for.
pub fn proxy(ns: &NetNs, port: u16) -> Arc<Mutex<Vec<String>>> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let own = asked.clone();
    serve(ns, port, move |stream| {
        let asked = own.clone();
        thread::spawn(move || {
            let to = destination(&stream)?;
            asked.lock().expect("lock").push(to.clone());
            let onward = TcpStream::connect(&to).ok()?;
            let (mut there, mut back) = (stream.try_clone().ok()?, onward.try_clone().ok()?);
            thread::spawn(move || std::io::copy(&mut there, &mut { onward }));
            std::io::copy(&mut back, &mut { stream }).ok()
        });
    });
    asked
}

/// Where somebody wants to go; he has been told that he is there.
fn destination(mut stream: &TcpStream) -> Option<String> {
    let mut first = [0];
    stream.peek(&mut first).ok()?;
    if first != [5] {
        let (place, mut lines) = (None::<String>, BufReader::new(stream));
        let place = std::iter::from_fn(|| line(&mut lines)).take_while(|line| !line.is_empty()).fold(
            place,
            |place, line| {
                place.or_else(|| line.strip_prefix("CONNECT ")?.split(' ').next().map(ToOwned::to_owned))
            },
        );
        stream.write_all(b"HTTP/1.1 200 fine\r\n\r\n").ok()?;
        return place;
    }
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    stream.read_exact(&mut vec![0; head[1].into()]).ok()?;
    stream.write_all(&[5, 0]).ok()?;
    // connect, to an IPv4 address
    let mut request = [0; 10];
    stream.read_exact(&mut request).ok()?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else { return None };
    Some(format!("{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

fn serve(ns: &NetNs, port: u16, mut with: impl FnMut(TcpStream) + Send + 'static) {
    ns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
        // threads are in the namespace that they are made in
        thread::spawn(move || listener.incoming().flatten().for_each(&mut with));
    });
}

fn request(stream: &TcpStream) -> Option<Taken> {
    let mut lines = BufReader::new(stream);
    let first = line(&mut lines)?;
    let mut words = first.split(' ').map(ToOwned::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line(&mut lines)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.and_then(|(_, length)| length.parse().ok()).unwrap_or(0)];
    lines.read_exact(&mut body).ok()?;
    Some(Taken { at: Instant::now(), method, path, headers, body: String::from_utf8(body).ok()? })
}

/// Up to the line that is a dot.
fn data(lines: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut body = String::new();
    loop {
        match line(lines)?.as_str() {
            "." => return Some(body),
            line => body = body + line + "\n",
        }
    }
}

fn line(lines: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut line = String::new();
    let length = lines.read_line(&mut line).ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}
