//! The programs without relayd.
