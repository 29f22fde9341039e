//! Development commands. A library for tests that need another kernel than the host's.

mod image;
pub mod kernels;
pub mod path;
mod steps;
pub mod stock;
pub mod vm;
