//! nf_tables: tables, chains, rules, sets and elements as typed data, with their netlink messages
//! and their text.
//!
//! A [`Message`] is what one operation says to the kernel, without the netlink header that a
//! transport puts before it; [`decode`] reads what the kernel says: dumps, notifications, and our
//! own messages back. [`text`] writes the syntax of `nft -f`.
//!
//! The numbers come from `linux/netfilter/nf_tables.h`. What nft itself keeps in user data, so that
//! it can list a set as it was declared, was read from what nft 1.0.6 sends.

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
pub use encode::{Encoder, Message, Op};
pub use expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, Nat, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
pub use object::{
    BaseChain, COMMENT_MAX, Chain, ChainKind, Data, DataType, Element, Family, Fields, Hook,
    Policy, Rule, Selector, Set, SetData, SetFlags, Table, Verdict, fit_comment,
};
pub use trace::{TraceEvent, TraceKind, TracedPacket};
pub use value::{MAX_LEN, Value};
