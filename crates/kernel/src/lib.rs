//! Everything that touches the system: netlink, `iptables-restore`, sysctls, namespaces.
//!
//! All `unsafe` and all errno of the workspace live here. Nothing in this crate decides what
//! should be programmed; it carries out what it is given and says exactly what came of it.

pub mod address;
pub mod conntrack;
pub mod exec;
pub mod family;
pub mod fuzz;
pub mod genetlink;
pub mod ipset;
pub mod iptables;
pub mod ipvs;
pub mod link;
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
