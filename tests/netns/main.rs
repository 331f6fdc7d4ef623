//! Real relayd, real relayctl, real traffic, between namespaces.

mod admission;
mod answers;
mod connections;
mod counting;
mod datagrams;
mod faults;
mod forward;
mod hosts;
mod lifecycle;
mod listeners;
mod mptcp;
mod names;
mod planes;
mod ports;
mod proxy_protocol;
mod ranges;
mod restart;
mod roads;
mod stopping;
mod tables;
mod trace;
mod user;
mod ways_out;
mod wire;
mod xdp;
mod yields;
