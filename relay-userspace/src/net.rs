//! The host's network from outside the kernel plane: links, addresses and routes by netlink, names by the resolver, and who
//! has which port.
//!
//! The only module that knows rtnetlink. Nothing here decides anything.

pub mod claim;
pub mod diag;
pub mod group;
pub mod hold;
pub mod monitor;
pub mod mptcp;
pub mod paths;
pub mod reach;
pub mod resolve;
pub mod socket_list;
pub mod stock;
pub mod sysctl;
pub mod view;
pub mod xdp_features;
