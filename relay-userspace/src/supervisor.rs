//! The centre: one owner of all state. Files, commands, signals and netlink become events; each leads to a new plan, a
//! difference, and an apply that can be undone.

mod alerts;
pub mod backends;
pub mod census;
pub mod change;
pub mod command;
mod delta;
pub mod desire;
pub mod explain;
pub mod facts;
pub mod flows;
mod legs;
pub mod names;
mod port_totals;
mod reload;
pub mod run;
pub mod serving;
pub mod shared;
mod sharing;
pub mod state;
mod telling;
pub mod terms;
mod waiting;
pub mod walk;
pub mod watch;
mod yielding;

pub use self::run::{Launch, run};
pub use self::shared::Shared;
