//! How a rule takes its clients in.

/// The client leg.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Accept {}
