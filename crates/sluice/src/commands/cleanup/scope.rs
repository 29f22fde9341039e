//! What a clean-up is about.

use model::Mode;

/// What is removed.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// The mode whose own stays.
    pub(super) in_force: Option<Mode>,
    /// Say what would be done, and do nothing.
    pub(super) dry_run: bool,
}

impl Scope {
    /// Whether what this mode has made goes.
    pub(super) fn holds(self, mode: Mode) -> bool {
        self.in_force != Some(mode)
    }
}
