//! The contract between Relay's eBPF programs and its daemon: map keys and values, and the arithmetic both
//! sides must agree on.
//!
//! Everything that lies in a map has a fixed layout (`repr(C)`, no padding, sizes asserted in [`pod`]).
//! Addresses and ports are kept in network order, as they lie in a packet, so that the programs never swap
//! bytes on the hot path; the methods speak `Ipv4Addr` and host-order `u16`.
//!
//! Any change to a type that lies in a pinned map bumps [`ABI_VERSION`].
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod balance;
pub mod checksum;
pub mod choice;
pub mod claim;
pub mod counters;
pub mod digest;
pub mod ended;
pub mod flow;
pub mod lab;
pub mod lookup;
pub mod meter;
pub mod names;
pub mod net;
mod numbered;
pub mod observe;
pub mod pod;

pub mod round_trip;
pub mod route;
pub mod rule;
pub mod settings;
pub mod shared;
pub mod tick;
pub mod trace;
pub mod usage;

/// Version of the map layouts; pins live under `bpf_dir/abi<ABI_VERSION>/`.
pub const ABI_VERSION: u32 = 1;
