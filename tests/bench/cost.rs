//! cost
use crate::figures::Options;
pub fn run(_options: &Options) {}
