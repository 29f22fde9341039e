//! Layout of a plan in the kernel, and the difference between two layouts. One module per proxy
//! mode.
//!
//! A mode receives the plan and the keys of the Service ports that changed. It stores only what it
//! knows the kernel to contain.

mod feature;
mod found;
pub mod iptables;
pub mod ipvs;
mod nft_table;
pub mod nftables;
mod refusal;
mod terms;
pub mod userspace;

pub use feature::{Extension, Feature, Needed};
pub use found::{Found, Origin};
pub use nft_table::features::{TABLES, chains as nft_chains};
pub use refusal::{Refusal, Refusals};
