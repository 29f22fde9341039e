//! sluice: makes Kubernetes Services work on a Linux node.
fn main() {}
