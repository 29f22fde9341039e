//! Tests that run in several modes.

/// Define one test for each mode whose Service rules a network namespace can hold: a module `$name`
/// with tests named after the modes, each of which calls `$check` with the mode.
#[macro_export]
macro_rules! in_each_mode {
    ($name:ident, $check:path) => {
        mod $name {
            use model::Mode;

            #[test]
            fn iptables() {
                $check(Mode::Iptables);
            }

            #[test]
            fn nftables() {
                $check(Mode::Nftables);
            }

            /// A new mode gets a test above, or a place here.
            #[allow(dead_code)]
            const fn tested_at(mode: Mode) -> &'static str {
                match mode {
                    Mode::Iptables | Mode::Nftables => "above",
                    Mode::Ipvs => "tests/ipvs, in a virtual machine",
                    Mode::Userspace => "tests/userspace.rs",
                }
            }
        }
    };
}
