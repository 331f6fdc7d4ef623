//! The flows of one tunnel: whose each is, and which are over.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::super::clients::Id;

/// Whose a tunnel's flows are.
#[derive(Debug, Default)]
pub struct Flows {
    clients: HashMap<u32, Id>,
    over: Arc<Mutex<Over>>,
}

#[derive(Debug, Default)]
struct Over {
    flows: Vec<u32>,
    /// Of the task that tells the other end.
    waker: Option<Waker>,
}

/// A client's flow: when this is dropped the other end is told.
#[derive(Debug)]
pub struct Flow {
    pub number: u32,
    over: Arc<Mutex<Over>>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut over = lock(&self.over);
        over.flows.push(self.number);
        if let Some(waker) = over.waker.take() {
            waker.wake();
        }
    }
}

impl Flows {
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub fn find(&self, number: u32) -> Option<Id> {
        self.clients.get(&number).copied()
    }

    /// What a client has of its flow.
    pub fn begin(&self, number: u32) -> Flow {
        Flow { number, over: self.over.clone() }
    }

    /// A flow is this client's from now on.
    pub fn assign(&mut self, number: u32, client: Id) {
        self.clients.insert(number, client);
    }

    /// Who is woken when a flow is over.
    pub fn wake(&self, waker: &Waker) {
        lock(&self.over).waker = Some(waker.clone());
    }

    /// Forgets flows that are over, and says which. `is_there`: whether a client is there still; one that has begun anew
    /// under the same number is.
    pub fn settle(&mut self, mut is_there: impl FnMut(Id) -> bool) -> Vec<u32> {
        let mut over = mem::take(&mut lock(&self.over).flows);
        over.retain(|number| match self.clients.get(number) {
            Some(client) if is_there(*client) => false,
            _ => {
                self.clients.remove(number);
                true
            }
        });
        if self.clients.is_empty() {
            // what a flood has grown is given back
            self.clients = HashMap::new();
        }
        over
    }
}

fn lock(over: &Mutex<Over>) -> MutexGuard<'_, Over> {
    over.lock().unwrap_or_else(PoisonError::into_inner)
}
