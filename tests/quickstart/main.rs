//! The quickstart: a client, the relay and a backend in namespaces, real traffic, and what to type next.

fn main() {}
