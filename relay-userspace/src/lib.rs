//! Relay's daemon and command, as a library that both binaries and the tests use.
//!
//! Who may know whom:
//!
//! ```text
//! rule, host        ◄── plan ◄── supervisor
//! config            ◄── api, cli, supervisor
//! kernel, net       ◄── supervisor                  (kernel and net never see each other)
//! proxy             ◄── plan (its values), supervisor
//! connections       ◄── proxy, kernel, supervisor
//! observe           ◄── proxy, kernel, supervisor, api (of connections it knows what has ended)
//! flows             ◄── kernel, supervisor, api, connections, observe
//! balance           ◄── plan, proxy                 (of rules it knows how they balance)
//! health            ◄── plan (its values), supervisor, api::view, cli
//!                                                   (of proxy it knows how sockets towards backends are bound)
//! import            ◄── cli, api, supervisor        (of the rest it knows config and rule)
//! accounting        ◄── supervisor, api, cli          (of the supervisor its thread knows what is shared)
//! alert             ◄── config (its values), supervisor, api::view, cli   (of the supervisor it knows nothing)
//! api::view         ◄── alert, cli, supervisor
//! ```
//!
//! `rule`, `host` and `plan` are plain values and pure functions. The supervisor alone changes anything; `kernel` and
//! `proxy` are the two planes.

pub mod accounting;
pub mod alert;
pub mod api;
pub mod balance;
pub mod boot;
pub mod cli;
pub mod config;
pub mod connections;
pub mod flows;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod host;
pub mod import;
pub mod kernel;
pub mod memory;
pub mod net;
pub mod observe;
pub mod plan;
pub mod proxy;
#[cfg(test)]
mod readme;
pub mod rule;
pub mod service;
pub mod supervisor;
pub mod telemetry;
