//! Kernel modules that no request for a feature loads.

use std::ffi::CStr;

use nix::libc;

use crate::Family;

/// Make the kernel load `ip_tables` or `ip6_tables`: it loads the modules of legacy tables and of
/// extensions by itself, but not the one whose socket options ask for them.
///
/// Without `CAP_SYS_MODULE`, and on a kernel with the code built in, this has no effect.
pub(crate) fn load_legacy_iptables(family: Family) {
    load(match family {
        Family::Ipv4 => c"ip_tables",
        Family::Ipv6 => c"ip6_tables",
    });
}

/// Ask for a network interface with the name of the module. The kernel then loads this module
/// (`dev_load` in `net/core/dev_ioctl.c`) through the node's `modprobe`, which it starts in the initial
/// mount namespace: neither the program nor the module's file is needed in a container.
fn load(name: &'static CStr) {
    debug_assert!(name.count_bytes() < libc::IFNAMSIZ);
    // SAFETY: the pointer is to a string that ends with a NUL. `if_nametoindex` is the ioctl `SIOCGIFINDEX`.
    unsafe { libc::if_nametoindex(name.as_ptr()) };
}
