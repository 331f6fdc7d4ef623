//! What every rule has carried, for ever, and when: totals that outlast relayd, the host's boots and edits, and a history
//! of minutes, hours and days in `state_dir/history.db`.
//!
//! `amounts`, `books`, `interfaces`, `calendar` and `bill` are values and arithmetic, told the time; `store` is the database;
//! `accountant` is the thread that reads counters every ten seconds and writes.

pub mod accountant;
pub mod allowances;
pub mod amounts;
pub mod bill;
pub mod books;
pub mod calendar;
pub mod interfaces;
pub mod lock;
pub mod ports;
pub mod store;
mod waiting;
