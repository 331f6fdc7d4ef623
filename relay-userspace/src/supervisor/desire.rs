//! From a plan to what the kernel plane should be doing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::FactBook;
use crate::config::settings::{Hook, Settings};
use crate::host::ClaimRange;
use crate::host::HostView;
use crate::kernel::attach::Target;
use crate::kernel::{Carried, Desired, DesiredRule};
use crate::plan::PlannedRule;

/// Everything that goes into the maps.
pub fn desired(
    planned: &[Arc<PlannedRule>],
    facts: &FactBook,
    claims: ClaimRange,
    devices: &BTreeMap<u32, u16>,
) -> Desired {
    let rules = planned
        .iter()
        .map(|planned| DesiredRule {
            name: planned.rule.name.clone(),
            draining: planned.draining,
            carried: planned.kernel.as_ref().map(|kernel| Carried {
                path: facts.paths.get(&kernel.backend).cloned(),
                yields: !planned.rule.force && !facts.holder.holds(&planned.rule),
                kernel: kernel.clone(),
            }),
        })
        .collect();
    Desired {
        rules,
        routes: facts.host.client_routes(),
        addresses: facts.host.own_v4(),
        claims,
        devices: devices.clone(),
    }
}

/// Where the programs belong.
pub fn targets(host: &HostView, settings: &Settings) -> Vec<Target> {
    host.interfaces(settings.interfaces.as_deref())
        .into_iter()
        .map(|link| Target {
            index: link.index,
            name: link.name.clone(),
            kind: link.kind,
            xdp: settings.hook == Hook::Xdp,
        })
        .collect()
}
