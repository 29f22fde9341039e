//! The proxy modes.

use std::fmt;
use std::str::FromStr;

/// Declares [`Mode`] with everything that must name each mode.
macro_rules! modes {
    ($($(#[$doc:meta])* $mode:ident = $name:literal,)+) => {
        /// A proxy mode: a layout of the plan in the kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mode {
            $($(#[$doc])* $mode,)+
        }

        impl Mode {
            /// All modes.
            pub const ALL: [Mode; [$($name),+].len()] = [$(Mode::$mode),+];

            /// Name in flags and configuration files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mode::$mode => $name,)+
                }
            }
        }
    };
}

modes! {
    /// iptables rules, as kube-proxy writes them.
    Iptables = "iptables",
    /// Constant nftables rules over sets and maps.
    Nftables = "nftables",
    /// IPVS virtual servers, with ipsets and a few iptables rules.
    Ipvs = "ipvs",
    /// A relay in user space, which kube-proxy no longer has.
    Userspace = "userspace",
}

/// Properties of modes that code outside their drivers depends on.
impl Mode {
    /// Return whether the mode has rules of iptables in the kernel.
    pub const fn has_iptables_rules(self) -> bool {
        match self {
            Mode::Iptables | Mode::Ipvs => true,
            Mode::Nftables | Mode::Userspace => false,
        }
    }

    /// Return whether the mode has IPVS virtual servers. An interface of the node then has the Service
    /// addresses, and a Local policy without local endpoints falls back to those of other nodes.
    pub const fn has_virtual_servers(self) -> bool {
        match self {
            Mode::Ipvs => true,
            Mode::Iptables | Mode::Nftables | Mode::Userspace => false,
        }
    }

    /// Return whether the process itself carries connections, so that Services end with it.
    pub const fn relays(self) -> bool {
        match self {
            Mode::Userspace => true,
            Mode::Iptables | Mode::Nftables | Mode::Ipvs => false,
        }
    }
}

/// A text that names no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown proxy mode")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.name() == name).ok_or(UnknownMode)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_their_modes() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(mode.to_string(), mode.name());
        }
        assert_eq!("IPTables".parse::<Mode>(), Err(UnknownMode));
        assert_eq!("".parse::<Mode>(), Err(UnknownMode));
    }
}
