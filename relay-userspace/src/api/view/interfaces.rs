//! What is attached to an interface, and what it has carried.

use serde::{Deserialize, Serialize};

use super::InterfaceTrafficView;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct InterfaceView {
    pub name: String,
    pub index: u32,
    /// tcx, clsact, or why not
    pub tc: String,
    /// Why what the user plane sends here is not counted; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<String>,
    /// native, or why not; absent where it was not asked for
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<String>,
    /// Its queue keeps packets until they are due (fq).
    #[serde(default)]
    pub paced: bool,
    /// Nothing is attached.
    pub failed: bool,
    /// What it has carried since relayd first watched it; absent for one that never was, and for loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<InterfaceTrafficView>,
}
