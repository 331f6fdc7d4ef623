//! Real relayd, real relayctl, real traffic in network namespaces.

mod forward;
