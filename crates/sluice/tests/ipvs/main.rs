//! ipvs mode on a kernel with IPVS: every test boots a virtual machine of its own.

mod agreement;
mod demo;
mod native;
mod refusals;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

// The tracer's test bed.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/generate.rs"]
mod generate;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/net.rs"]
mod net;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/services.rs"]
mod services;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/six.rs"]
mod six;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/try_out.rs"]
mod try_out;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../trace/tests/kernel/wire.rs"]
mod wire;
