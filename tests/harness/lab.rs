//! The lab's generator.
