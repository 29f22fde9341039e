//! Everything that touches the system: netlink, the tables of iptables-legacy, sysctls, namespaces.
//!
//! All `unsafe` and all errno of the workspace live here. Nothing in this crate decides what
//! should be programmed. Functions carry out a request and report the exact result.

pub mod address;
pub mod conntrack;
pub mod family;
pub mod fuzz;
pub mod genetlink;
pub mod ipset;
pub mod iptables;
pub mod ipvs;
pub mod link;
mod module;
pub mod netlink;
pub mod netns;
pub mod nfacct;
pub mod nfnetlink;
pub mod process;
mod rtnetlink;
pub mod service_device;
pub mod sysctl;

pub use family::Family;
/// An error number as the kernel returned it.
pub use nix::errno::Errno;

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use netfilter::netlink::DecodeError;

    use crate::iptables::legacy::LegacyError;

    /// A variant prints its cause or returns it as `source()`, never both.
    #[test]
    fn errors_print_each_cause_once() {
        let io = || io::Error::from(io::ErrorKind::NotFound);
        let name = || "name".to_owned();
        let sysctl = || crate::sysctl::Sysctl::IP_FORWARD;
        let errors: Vec<Box<dyn Error>> = vec![
            Box::new(crate::sysctl::Error::Denied {
                name: sysctl(),
                value: name(),
                cause: io(),
            }),
            Box::new(crate::sysctl::Error::Refused {
                name: sysctl(),
                value: name(),
                cause: io(),
            }),
            Box::new(crate::sysctl::Error::Read {
                name: sysctl(),
                cause: io(),
            }),
            Box::new(crate::netns::NetNsError::Step {
                name: name(),
                step: "opening it",
                cause: io(),
            }),
            Box::new(crate::process::Error::OomScoreAdj {
                value: 1,
                cause: io(),
            }),
            Box::new(crate::address::NodeNameError::Read(io())),
            Box::new(crate::netlink::Error::Malformed {
                what: "listing links",
                cause: DecodeError::Malformed("a link without a name"),
            }),
            Box::new(crate::nfnetlink::TransactionError::Malformed {
                at: 0,
                cause: DecodeError::Malformed("a link without a name"),
            }),
            Box::new(LegacyError::LockFile {
                path: name().into(),
                cause: io(),
            }),
        ];
        for error in errors {
            let text = error.to_string();
            if let Some(cause) = error.source() {
                assert!(!text.contains(&cause.to_string()), "{text}");
            }
        }
    }
}
