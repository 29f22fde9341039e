//! The kernel's packet-rule languages as typed data, with their text and netlink forms.

pub mod ipset;
pub mod iptables;
pub mod iptables_legacy;
pub mod iptables_nft;
pub mod ipvs;
#[cfg(test)]
mod mutate;
pub mod netlink;
pub mod nft;
pub mod nft_hooks;
pub mod nft_lang;
pub mod nft_list;
