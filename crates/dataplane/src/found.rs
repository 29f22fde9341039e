//! Summary of the kernel state that a resync found.

use std::fmt;

/// The kernel state before a resync, compared with the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The program that wrote it.
    pub origin: Origin,
    /// Service ports that already agreed with the plan and were kept as they were.
    pub kept: usize,
    /// Service ports that were written.
    pub written: usize,
}

/// The program that wrote the kernel state that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel contained no such state.
    Nothing,
    /// An earlier process of sluice, or one that writes the same layout.
    SameLayout,
    /// Another program that uses the same names; its state was replaced.
    OtherLayout,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Nothing => "nothing",
            Origin::SameLayout => "the same layout",
            Origin::OtherLayout => "another layout",
        })
    }
}
