//! UDP sessions under way, told to the kernel plane: when it takes their rule over, they stay where they are.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A client, and the address and port that it sends to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ends {
    pub client: SocketAddr,
    pub asked: SocketAddr,
}

/// Is told of a session that is there (`true`), or has ended.
pub type Tell = Box<dyn FnMut(&Ends, bool) + Send>;

/// The sessions of all rules.
#[derive(Default)]
pub struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    /// Of the same client, for a moment, another worker may have one too.
    sessions: HashMap<Ends, u32>,
    tell: Option<Tell>,
}

impl Kept {
    /// Tells this one from now on, of the sessions that there are first. `None`: there is nobody to tell.
    pub fn tell(&self, tell: Option<Tell>) {
        let mut state = self.state();
        let State { sessions, tell: told } = &mut *state;
        *told = tell;
        if let Some(tell) = told {
            sessions.keys().for_each(|ends| tell(ends, true));
        }
    }

    /// A client has a session from now on, as long as what this returns is there.
    pub fn keep(self: &Arc<Self>, ends: Ends) -> Session {
        let mut state = self.state();
        let State { sessions, tell } = &mut *state;
        let count = sessions.entry(ends).or_default();
        *count += 1;
        if let (1, Some(tell)) = (*count, tell) {
            tell(&ends, true);
        }
        Session { kept: self.clone(), ends }
    }

    fn end(&self, ends: &Ends) {
        let mut state = self.state();
        let State { sessions, tell } = &mut *state;
        let Some(count) = sessions.get_mut(ends) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        sessions.remove(ends);
        if sessions.is_empty() {
            // what a flood has grown is given back
            sessions.shrink_to_fit();
        }
        if let Some(tell) = tell {
            tell(ends, false);
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
    ends: Ends,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kept.end(&self.ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn ends(client: &str, asked: &str) -> Ends {
        let socket = |text: &str| text.parse().expect(text);
        Ends { client: socket(client), asked: socket(asked) }
    }

    /// What it is told: a client's port, and whether it has a session.
    fn listen(kept: &Kept) -> mpsc::Receiver<(u16, bool)> {
        let (sender, told) = mpsc::channel();
        let tell = move |ends: &Ends, there| {
            sender.send((ends.client.port(), there)).expect("somebody listens");
        };
        kept.tell(Some(Box::new(tell)));
        told
    }

    #[test]
    fn a_session_is_told_of_once_and_until_its_end() {
        let kept = Arc::new(Kept::default());
        let from = |client| ends(client, "192.0.2.1:53");
        let early = kept.keep(from("198.51.100.7:1"));
        let told = listen(&kept);
        let twice = [(); 2].map(|()| kept.keep(from("198.51.100.7:2")));
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
        let session = kept.keep(ends("[2001:db8::7]:1", "[2001:db8::1]:53"));
        drop(listen(&kept));
        let told = listen(&kept);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(1, true)]);
        kept.tell(None);
        drop(session);
        assert_eq!(told.try_iter().next(), None);
    }
}
