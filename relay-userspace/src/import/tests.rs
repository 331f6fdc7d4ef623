//! Samples of each kind, and the rules that they become.
