//! The netlink wire format: messages and attributes, written and read, with the constants of
//! `linux/netlink.h` and `linux/netfilter/nfnetlink.h` under the headers' names.
//!
//! Headers are in host byte order. Attribute values are in the order that the subsystem uses; the
//! methods name it: `be32` is big-endian (netfilter), `ne32` is the host's (rtnetlink, generic
//! netlink). The reader checks every length.

mod attr;
mod message;

#[cfg(test)]
mod tests;

pub use attr::{Attribute, Attributes, DecodeError, Writer, need};
pub use message::{Builder, Message, Messages};

#[allow(missing_docs, reason = "the headers' own names")]
mod consts {
    // `linux/netlink.h`.
    pub const NLMSG_NOOP: u16 = 1;
    pub const NLMSG_ERROR: u16 = 2;
    pub const NLMSG_DONE: u16 = 3;
    pub const NLMSG_OVERRUN: u16 = 4;

    pub const NLM_F_REQUEST: u16 = 0x1;
    pub const NLM_F_ACK: u16 = 0x4;
    pub const NLM_F_ECHO: u16 = 0x8;
    pub const NLM_F_DUMP_INTR: u16 = 0x10;
    pub const NLM_F_DUMP: u16 = 0x300;
    pub const NLM_F_REPLACE: u16 = 0x100;
    pub const NLM_F_EXCL: u16 = 0x200;
    pub const NLM_F_CREATE: u16 = 0x400;
    pub const NLM_F_APPEND: u16 = 0x800;
    pub const NLM_F_CAPPED: u16 = 0x100;
    pub const NLM_F_ACK_TLVS: u16 = 0x200;

    pub const NLMSGERR_ATTR_MSG: u16 = 1;
    pub const NLMSGERR_ATTR_OFFS: u16 = 2;

    pub const NLA_F_NESTED: u16 = 1 << 15;
    pub const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
    pub const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);

    // `linux/netfilter/nfnetlink.h`.
    pub const NFNL_SUBSYS_CTNETLINK: u8 = 1;
    pub const NFNL_SUBSYS_IPSET: u8 = 6;
    pub const NFNL_SUBSYS_ACCT: u8 = 7;
    pub const NFNL_SUBSYS_NFTABLES: u8 = 10;
    pub const NFNL_SUBSYS_NFT_COMPAT: u8 = 11;
    pub const NFNL_SUBSYS_HOOK: u8 = 12;

    pub const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
    pub const NFNL_MSG_BATCH_END: u16 = 0x11;
    pub const NFNL_BATCH_GENID: u16 = 1;

    pub const NFNLGRP_NFTABLES: u32 = 7;
    pub const NFNLGRP_NFTRACE: u32 = 9;

    // `linux/netfilter.h`; equal to `AF_INET` and `AF_INET6`.
    pub const NFPROTO_UNSPEC: u8 = 0;
    pub const NFPROTO_INET: u8 = 1;
    pub const NFPROTO_IPV4: u8 = 2;
    pub const NFPROTO_IPV6: u8 = 10;
}

pub use consts::*;

/// The size of `struct nlmsghdr`.
pub const NLMSG_HDRLEN: usize = 16;
/// The size of `struct nlattr`.
pub const NLA_HDRLEN: usize = 4;
/// The size of `struct nfgenmsg`.
pub const NFGENMSG_LEN: usize = 4;

/// Return the `nlmsg_type` of a message of a netfilter subsystem (`nfnl_msg_type`).
pub const fn nfnl_msg_type(subsystem: u8, message: u8) -> u16 {
    (subsystem as u16) << 8 | message as u16
}

/// Return a `struct nfgenmsg`, the fixed part of every netfilter message: the family
/// (`NFPROTO_*`), and the resource id, which is used in batches only.
pub const fn nfgenmsg(family: u8, resource: u16) -> [u8; NFGENMSG_LEN] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Round up to the alignment of messages and attributes (`NLMSG_ALIGN`, `NLA_ALIGN`).
pub const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}
