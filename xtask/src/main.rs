//! Chores: lint, golden update, VM tests, benches.
fn main() {}
