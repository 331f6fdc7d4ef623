//! Configuration: from files, the command line and the API to rules and settings.
//!
//! There is one grammar. A TOML `[[rule]]`, the fields of `relayctl add` and the body of an API request all become the
//! same [`node::Node`] tree and go through the same decoder, which collects every problem instead of stopping at the
//! first.

pub mod decode;
pub mod dns;
pub mod edit;
pub mod encode;
pub mod fields;
pub mod files;
pub mod node;
pub mod patch;
pub mod problem;
#[cfg(test)]
mod properties;
pub mod quantity;
pub mod save;
mod secrets;
pub mod settings;

pub use self::files::{Config, Origin};
pub use self::problem::{Problem, Problems};
pub use self::settings::Settings;
