//! A name server in a test's hand: it answers, lies, says that there is no such name, or keeps a question to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::netns::NetNs;

/// What the server does about a name. About any other it says that there is no such name.
#[derive(Clone, Debug)]
pub enum Says {
    Address(Ipv4Addr),
    /// Those of the family that is asked for, in this order.
    Addresses(Vec<IpAddr>),
    /// Another name, and nothing about that.
    Alias(&'static str),
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// An answer that ends in the middle.
    Garbage,
    /// This address, but not to this question.
    Forged(Ipv4Addr),
    /// Nothing, until it is told otherwise.
    Nothing,
}

/// A server for the programs that this thread starts, for as long as it lives.
pub struct NameServer {
    socket: Arc<UdpSocket>,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    says: BTreeMap<String, Says>,
    ttl: u32,
    /// Numbers of the questions for an IPv4 address so far. One that is repeated keeps its number.
    asked: BTreeMap<String, BTreeSet<u16>>,
    unanswered: Vec<(Question, SocketAddr)>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const HEADER: usize = 12;
/// What answers hold for, if nobody says otherwise.
const TTL: u32 = 60;

struct Question {
    /// Header and question as they came.
    bytes: Vec<u8>,
    name: String,
    kind: u16,
}

impl NameServer {
    /// Listens in a namespace, as the one of its resolv.conf. Mounts must be this thread's own: see
    /// [`crate::world::private_mounts`].
    pub fn start(ns: &NetNs, folder: &Path) -> Self {
        point_to(folder, Ipv4Addr::LOCALHOST);
        put_in_place(folder, "hosts", "127.0.0.1 localhost\n");
        Self::start_at(ns, (Ipv4Addr::LOCALHOST, 53))
    }

    /// Listens elsewhere, where only those ask who have been told.
    pub fn start_at(ns: &NetNs, address: (Ipv4Addr, u16)) -> Self {
        let socket = Arc::new(ns.run(|| UdpSocket::bind(address)).expect("the name server's port"));
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let book = Book { ttl: TTL, ..Book::default() };
        let server = Self { socket, book: Arc::new(Mutex::new(book)) };
        let (socket, book) = (Arc::downgrade(&server.socket), server.book.clone());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Some(socket) = socket.upgrade() {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Some(question) = Question::read(&buffer[..length]) else { continue };
                let mut book = lock(&book);
                if question.kind == A {
                    let number = u16::from_be_bytes([question.bytes[0], question.bytes[1]]);
                    book.asked.entry(question.name.clone()).or_default().insert(number);
                }
                book.unanswered.push((question, from));
                book.answer(&socket);
            }
        });
        server
    }

    /// From now on, and to who is waiting.
    pub fn says(&self, name: &str, says: Says) {
        let mut book = lock(&self.book);
        book.says.insert(name.into(), says);
        book.answer(&self.socket);
    }

    /// How many seconds answers hold from now on.
    pub fn holds_for(&self, seconds: u32) {
        lock(&self.book).ttl = seconds;
    }

    /// How often somebody has wanted the address of a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.book).asked.get(name).map_or(0, BTreeSet::len)
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has resolv.conf name a server. Resolvers ask it patiently, so that nothing depends on their own limits.
pub fn point_to(folder: &Path, server: Ipv4Addr) {
    let resolv = format!("nameserver {server}\noptions timeout:30 attempts:5\n");
    put_in_place(folder, "resolv.conf", &resolv);
}

/// Has a file of ours stand for one in /etc; its text may be changed later.
pub fn put_in_place(folder: &Path, name: &str, text: &str) {
    let own = folder.join(name);
    let is_there = own.exists();
    fs::write(&own, text).expect("file");
    if is_there {
        return;
    }
    let place = Path::new("/etc").join(name);
    mount(Some(&own), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("{}: {error}", place.display()));
}

impl Book {
    fn answer(&mut self, socket: &UdpSocket) {
        for (question, from) in std::mem::take(&mut self.unanswered) {
            let says = self.says.get(&question.name).unwrap_or(&Says::NoSuchName);
            match question.answer(says, self.ttl) {
                Some(answer) => {
                    let _asker_gone = socket.send_to(&answer, from);
                }
                None => self.unanswered.push((question, from)),
            }
        }
    }
}

impl Question {
    /// RFC 1035, section 4.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
        Some(Self { bytes: bytes.get(..at + 4)?.to_vec(), name: labels.join("."), kind })
    }

    fn answer(&self, says: &Says, ttl: u32) -> Option<Vec<u8>> {
        let records = match says {
            Says::Nothing => return None,
            Says::NoSuchName => return Some(self.message(3, &[], ttl)),
            Says::Failure => return Some(self.message(2, &[], ttl)),
            Says::Garbage => {
                let mut answer = self.message(0, &[(A, vec![192, 0, 2, 66])], ttl);
                answer.truncate(self.bytes.len() + 7);
                return Some(answer);
            }
            Says::Forged(address) => {
                let mut answer = self.message(0, &[(A, address.octets().to_vec())], ttl);
                answer[0] ^= 0xff;
                return Some(answer);
            }
            Says::Address(address) => self.of_kind(&[(*address).into()]),
            Says::Addresses(addresses) => self.of_kind(addresses),
            Says::Alias(name) => {
                let labels = name.split('.').flat_map(|label| {
                    [label.len() as u8].into_iter().chain(label.bytes()).collect::<Vec<_>>()
                });
                vec![(CNAME, labels.chain([0]).collect())]
            }
        };
        Some(self.message(0, &records, ttl))
    }

    /// Records for the addresses of the family that was asked for.
    fn of_kind(&self, addresses: &[IpAddr]) -> Vec<(u16, Vec<u8>)> {
        let record = |address: &IpAddr| match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        addresses.iter().map(record).filter(|(kind, _)| *kind == self.kind).collect()
    }

    fn message(&self, code: u8, records: &[(u16, Vec<u8>)], ttl: u32) -> Vec<u8> {
        let mut answer = self.bytes.clone();
        // an answer to a recursive question, with one question and as many records as follow
        answer[2..HEADER].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        for (kind, data) in records {
            // the name of the question, kind, IN, time, length
            answer.extend([0xc0, HEADER as u8, 0, *kind as u8, 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, data.len() as u8]);
            answer.extend(data);
        }
        answer
    }
}
