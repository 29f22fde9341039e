//! The kernel's whole nf_tables state in the form of `nft list ruleset`: tables of every family, with the
//! expressions that nft writes, whichever program made them.
//!
//! [`Listing::add`] takes the messages of dumps; [`Listing::text`] writes the text, which
//! [`nft_lang`](crate::nft_lang) reads. Expressions without a known text become `unknown NAME`, which
//! readers report. The numbers come from `linux/netfilter/nf_tables.h`, the types' numbers from nft's
//! user interface (`NFTA_SET_KEY_TYPE`).

mod field;
mod key;
mod object;
mod register;
mod rule;
mod set;
mod statement;
#[cfg(test)]
mod tests;
mod value;

pub use object::Listing;
