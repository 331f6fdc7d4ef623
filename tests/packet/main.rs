//! The programs on single packets: what goes in, what comes out, and everything that it changes.
//!
//! Also runs by itself as root on an old kernel, as a static program: `--test-threads=1 --nocapture` says most.

mod backends;
mod bare;
mod capacity;
mod claims;
mod conversation;
mod foreign;
mod fragments;
mod guard;
mod icmp;
mod listeners;
mod malformed;
mod observe;
mod random;
mod rates;
mod size;
mod sweep;
mod table;
mod tcp;
mod translate;
mod udp;
mod user;
mod ways;

use std::sync::{Mutex, MutexGuard, PoisonError};

use harness::plane::Plane;

/// Flows that each established table takes.
const ROOM: u32 = 64;

/// The one plane of all tests: on an emulated machine an old kernel takes many seconds to check the programs.
static PLANE: Mutex<Option<Plane>> = Mutex::new(None);

struct Held(MutexGuard<'static, Option<Plane>>);

impl std::ops::Deref for Held {
    type Target = Plane;

    fn deref(&self) -> &Plane {
        self.0.as_ref().expect("a plane")
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Plane {
        self.0.as_mut().expect("a plane")
    }
}

/// The plane, carrying these rules and nothing from before.
fn plane(rules: &str) -> Held {
    // a test that failed leaves nothing behind that starting over does not clear
    let mut held = Held(PLANE.lock().unwrap_or_else(PoisonError::into_inner));
    held.0.get_or_insert_with(|| Plane::new(ROOM)).enter();
    held.carry(rules);
    held
}

/// One rule for both protocols.
const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nforce = true\n";
