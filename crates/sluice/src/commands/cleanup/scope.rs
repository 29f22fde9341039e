//! The scope of a cleanup.

use model::Mode;

/// The scope of a cleanup.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// The mode whose state stays.
    pub(super) in_force: Option<Mode>,
    /// Print the changes instead of making them.
    pub(super) dry_run: bool,
}

impl Scope {
    /// Whether the state of this mode is removed.
    pub(super) fn includes(self, mode: Mode) -> bool {
        self.in_force != Some(mode)
    }
}
