//! Chores. As a library for tests that bring their own kernel: [`vm`].

pub mod vm;
