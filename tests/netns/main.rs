//! Real relayd, real relayctl, real traffic, between namespaces.

mod datagrams;
mod forward;
mod lifecycle;
mod listeners;
mod roads;
mod tables;
mod wire;
mod xdp;
