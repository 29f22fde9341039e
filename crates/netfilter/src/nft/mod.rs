//! nf_tables: tables, chains, rules, sets and elements as typed data, with their netlink messages
//! and their text in the nft language.
//!
//! A [`Message`] is the encoding of one operation without its netlink header. [`decode`] reads dumps,
//! notifications and encoded operations. [`text`] writes the syntax of `nft -f`; the module
//! [`nft_lang`](crate::nft_lang) reads it.
//!
//! The numbers come from `linux/netfilter/nf_tables.h`. The user data from which nft lists a set as it
//! was declared is that of nft 1.0.6.

pub mod consts;
mod decode;
mod decode_expr;
mod encode;
mod encode_expr;
mod expr;

mod object;
pub mod table;
pub mod text;
mod trace;
mod udata;
mod value;

#[cfg(test)]
mod tests;

pub use decode::{Body, Decoded, Generation, decode};
pub use encode::{Encoder, Message, Op, RulePlace};
pub use expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, Nat, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, Reject,
};
pub use object::{
    BaseChain, COMMENT_MAX, Chain, ChainKind, Data, DataType, Element, Family, Fields, Hook,
    Policy, Rule, Selector, Set, SetData, SetFlags, Table, Verdict, fit_comment,
};
pub use trace::{TraceEvent, TraceKind, TracedPacket};
pub use value::{MAX_LEN, Value};
