//! What the host has more of than the tables take. Everything else goes on: what has no room is left out, and told.

use aya::maps::MapError;
use nix::libc;
use relay_common::names;

use super::load::Dataplane;

/// What was left out of tables that the host fills.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Shortage {
    /// Routes to clients.
    pub routes: usize,
    /// Own addresses.
    pub addresses: usize,
    /// Rules whose backend has no place among the next hops.
    pub rules: usize,
    /// Rules that have no room for the table of their backends.
    pub tables: usize,
    /// Some of it for now: the place of what is gone becomes free last.
    pub passing: bool,
}

impl Shortage {
    /// The tables that are full, with what becomes of what they have not.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let told = |count: usize, table, text: &str| (count > 0).then(|| (table, format!("{count} {text}")));
        let of_routes =
            "routes to clients are left out; wider ones lead there, or their clients are refused (no_route)";
        let of_addresses = "addresses of this host are left out; relayd serves their clients";
        let of_rules = "rules have no way to their backend; their new clients are refused (no_route)";
        let of_tables = "rules have no room for the table of their backends, and keep the one they had; new clients of \
                         those that had none are refused (no_backend)";
        [
            told(self.routes, names::ROUTES, of_routes),
            told(self.addresses, names::ADDRESSES, of_addresses),
            told(self.rules, names::NEXT_HOPS, of_rules),
            told(self.tables, names::PLACES, of_tables),
        ]
        .into_iter()
        .flatten()
    }
}

impl Shortage {
    /// Whether an entry has found room; one that has not is left out for now.
    pub(super) fn has_room(&mut self, inserted: Result<(), MapError>) -> Result<bool, MapError> {
        match inserted {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
            {
                self.passing = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Dataplane {
    pub const fn shortage(&self) -> &Shortage {
        &self.shortage
    }
}
