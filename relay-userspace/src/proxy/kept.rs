//! UDP sessions under way, told to the kernel plane: when it takes their rule over, they stay where they are.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_common::flow::FlowKey;
use relay_common::net::{Address, Port, Ports, Protocol};

/// Is told of a session that is there (`true`), or has ended, by the packets of its client.
pub type Tell = Box<dyn FnMut(&FlowKey, bool) + Send>;

/// The sessions of all rules.
#[derive(Default)]
pub struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    /// Of the same client, for a moment, another worker may have one too.
    sessions: HashMap<FlowKey, u32>,
    tell: Option<Tell>,
}

impl Kept {
    /// Tells this one from now on, of the sessions that there are first. `None`: there is nobody to tell.
    pub fn tell(&self, tell: Option<Tell>) {
        let mut state = self.state();
        let State { sessions, tell: told } = &mut *state;
        *told = tell;
        if let Some(tell) = told {
            sessions.keys().for_each(|key| tell(key, true));
        }
    }

    /// A client has a session from now on, as long as what this returns is there. The kernel plane only wants to know of
    /// IPv4. `asked`: the address and port that the client sends to.
    pub fn keep(self: &Arc<Self>, client: SocketAddr, asked: SocketAddr) -> Option<Session> {
        let key = key(client, asked)?;
        let mut state = self.state();
        let State { sessions, tell } = &mut *state;
        let count = sessions.entry(key).or_default();
        *count += 1;
        if let (1, Some(tell)) = (*count, tell) {
            tell(&key, true);
        }
        Some(Session { kept: self.clone(), key })
    }

    fn end(&self, key: &FlowKey) {
        let mut state = self.state();
        let State { sessions, tell } = &mut *state;
        let Some(count) = sessions.get_mut(key) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        sessions.remove(key);
        if sessions.is_empty() {
            // what a flood has grown is given back
            sessions.shrink_to_fit();
        }
        if let Some(tell) = tell {
            tell(key, false);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// One that is under way.
#[derive(Debug)]
pub struct Session {
    kept: Arc<Kept>,
    key: FlowKey,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kept.end(&self.key);
    }
}

fn key(client: SocketAddr, asked: SocketAddr) -> Option<FlowKey> {
    let (SocketAddr::V4(client), SocketAddr::V4(asked)) = (client, asked) else { return None };
    let ports = Ports::new(Port::new(client.port()), Port::new(asked.port()));
    Some(FlowKey::new(Address::from(*client.ip()), Address::from(*asked.ip()), ports, Protocol::Udp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    /// What it is told: a client's port, and whether it has a session.
    fn listen(kept: &Kept) -> mpsc::Receiver<(u16, bool)> {
        let (sender, told) = mpsc::channel();
        let tell = move |key: &FlowKey, there| {
            sender.send((key.ports().source().number(), there)).expect("somebody listens");
        };
        kept.tell(Some(Box::new(tell)));
        told
    }

    #[test]
    fn a_session_is_told_of_once_and_until_its_end() {
        let kept = Arc::new(Kept::default());
        let listener = socket("192.0.2.1:53");
        let early = kept.keep(socket("198.51.100.7:1"), listener);
        let told = listen(&kept);
        let twice = [(); 2].map(|()| kept.keep(socket("198.51.100.7:2"), listener));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(1, true), (2, true)]);
        let [one, other] = twice;
        drop(one);
        assert_eq!(told.try_iter().next(), None, "there is another one");
        drop((other, early));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(2, false), (1, false)]);
        assert!(kept.state().sessions.is_empty());
    }

    #[test]
    fn who_is_told_later_hears_of_those_that_there_are() {
        let kept = Arc::new(Kept::default());
        let session = kept.keep(socket("198.51.100.7:1"), socket("192.0.2.1:53"));
        assert!(kept.keep(socket("[2001:db8::7]:1"), socket("[2001:db8::1]:53")).is_none());
        drop(listen(&kept));
        let told = listen(&kept);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(1, true)]);
        kept.tell(None);
        drop(session);
        assert_eq!(told.try_iter().next(), None);
    }
}
