//! The scope of a cleanup.

use kernel::iptables::Backend;
use model::{IpFamily, Mode};

/// The mode in force.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) mode: Mode,
    /// The iptables back end that contains rules of the mode, for each family that it serves.
    pub(crate) backends: Vec<(IpFamily, Backend)>,
}

/// The scope of a cleanup.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The mode whose state stays.
    pub(super) in_force: Option<&'a InForce>,
    /// Print the changes instead of making them.
    pub(super) dry_run: bool,
}

impl Scope<'_> {
    /// Return the mode in force.
    pub(super) fn mode(self) -> Option<Mode> {
        self.in_force.map(|in_force| in_force.mode)
    }

    /// Return the mode whose rules in this back end stay.
    pub(super) fn mode_in(self, family: IpFamily, backend: Backend) -> Option<Mode> {
        let in_force = self.in_force?;
        let used = in_force.backends.contains(&(family, backend));
        used.then_some(in_force.mode)
    }

    /// Return whether this mode's iptables rules are removed from this back end. A mode with rules in one
    /// back end of a family owns none in the other.
    pub(super) fn removes_rules(self, mode: Mode, family: IpFamily, backend: Backend) -> bool {
        let Some(in_force) = self.in_force else {
            return true;
        };
        if in_force.mode != mode {
            return true;
        }
        let mut backends = in_force.backends.iter();
        backends.any(|(f, used)| *f == family && *used != backend)
    }
}
