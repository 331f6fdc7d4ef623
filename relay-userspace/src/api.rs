//! The API: HTTP/1 and JSON on a Unix socket, metrics also on TCP. See `view` for the shapes.

pub mod client;
pub mod extract;
pub mod flows;
mod history;
pub mod metrics;
pub mod observe;
mod order;
pub mod problem;
pub mod round_trips;
pub mod routes;
pub mod server;
pub mod view;
