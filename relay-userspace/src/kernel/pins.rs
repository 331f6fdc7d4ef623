//! What lies pinned: taken over if it is what this version writes.

use std::path::Path;

use aya::Ebpf;
use aya::maps::MapInfo;
use relay_common::names;

use super::Unavailable;
use super::load::classifier;
use super::maps::{self, Shape};

/// Whether there are pins, and whether they are what this version writes. A pin of another shape is refused: taken
/// for its own, its bytes would be misread.
pub(super) fn check(pins: &Path) -> Result<bool, Unavailable> {
    let mut found = false;
    for shape in maps::shapes() {
        let path = pins.join(shape.name);
        if !path.exists() {
            continue;
        }
        found = true;
        let info = MapInfo::from_pin(&path)
            .map_err(|error| Unavailable(format!("cannot open the pin {}: {error}", path.display())))?;
        if !fits(&info, &shape) {
            return Err(Unavailable(format!(
                "the pin {} has another layout; `relayctl down` removes it, and its flows",
                path.display()
            )));
        }
    }
    Ok(found)
}

fn fits(info: &MapInfo, shape: &Shape) -> bool {
    info.map_type().is_ok_and(|kind| kind == shape.kind)
        && info.key_size() as usize == shape.key
        && info.value_size() as usize == shape.value
        && shape.entries.is_none_or(|entries| entries == info.max_entries())
}

/// The sweeper runs on a thread of its own and opens its program from a pin.
pub(super) fn pin_sweeper(ebpf: &mut Ebpf, pins: &Path) -> Result<(), Unavailable> {
    let path = pins.join(names::SWEEP);
    let _older_one = std::fs::remove_file(&path);
    classifier(ebpf, names::SWEEP)
        .map_err(|error| Unavailable(error.to_string()))?
        .pin(&path)
        .map_err(|error| Unavailable(format!("cannot pin {}: {error}", path.display())))
}
