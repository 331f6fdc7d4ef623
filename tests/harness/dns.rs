//! A name server in a test's hand: it answers, says that there is no such name, or keeps a question to itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::netns::NetNs;

/// What the server does about a name. About any other it says that there is no such name.
#[derive(Clone, Copy, Debug)]
pub enum Says {
    Address(Ipv4Addr),
    NoSuchName,
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
    /// Questions for an address so far.
    asked: BTreeMap<String, usize>,
    unanswered: Vec<(Question, SocketAddr)>,
}

const A: u16 = 1;
const HEADER: usize = 12;

struct Question {
    /// Header and question as they came.
    bytes: Vec<u8>,
    name: String,
    kind: u16,
}

impl NameServer {
    /// Listens in a namespace. Mounts must be this thread's own: see [`crate::world::private_mounts`].
    pub fn start(ns: &NetNs, folder: &Path) -> Self {
        // asks once and waits for ever, so that nothing depends on the resolver's own patience
        let resolv = "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n";
        put_in_place(folder, "resolv.conf", resolv);
        put_in_place(folder, "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
        let socket = Arc::new(ns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))).expect("port 53"));
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let server = Self { socket, book: Arc::default() };
        let (socket, book) = (Arc::downgrade(&server.socket), server.book.clone());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Some(socket) = socket.upgrade() {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Some(question) = Question::read(&buffer[..length]) else { continue };
                let mut book = lock(&book);
                if question.kind == A {
                    *book.asked.entry(question.name.clone()).or_default() += 1;
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

    /// How often somebody has wanted the address of a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.book).asked.get(name).copied().unwrap_or(0)
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a file of ours stand for one in /etc.
fn put_in_place(folder: &Path, name: &str, text: &str) {
    let own = folder.join(name);
    fs::write(&own, text).expect("file");
    let place = Path::new("/etc").join(name);
    mount(Some(&own), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("{}: {error}", place.display()));
}

impl Book {
    fn answer(&mut self, socket: &UdpSocket) {
        for (question, from) in std::mem::take(&mut self.unanswered) {
            let says = self.says.get(&question.name).copied().unwrap_or(Says::NoSuchName);
            match question.answer(says) {
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

    fn answer(&self, says: Says) -> Option<Vec<u8>> {
        let (code, address) = match says {
            Says::Nothing => return None,
            Says::NoSuchName => (3, None),
            Says::Address(address) => (0, Some(address).filter(|_| self.kind == A)),
        };
        let mut answer = self.bytes.clone();
        // an answer to a recursive question, with one question and as many records as follow
        let records = u8::from(address.is_some());
        answer[2..HEADER].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, records, 0, 0, 0, 0]);
        if let Some(address) = address {
            // the name of the question, A, IN, a minute, four bytes
            answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }
}
