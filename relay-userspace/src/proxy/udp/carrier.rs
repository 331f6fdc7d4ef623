//! Carriers: tunnels to backends, each of which carries the datagrams of many clients.
//!
//! A carrier is there for a listener of a worker and a backend's port, from the first client that needs it on. When it
//! breaks it is opened again; its flows keep their numbers and are announced anew.

mod carriers;
mod dial;
mod flows;
mod standing;

pub use self::carriers::Carriers;
pub use self::flows::{Flow, Flows};
pub use self::standing::CarrierFlow;
