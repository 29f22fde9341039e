//! Numbers of `linux/netfilter/nf_tables.h`, `nfnetlink.h` and nft's user data, under names that
//! lead back to the header's.

/// `NFT_MSG_*`: the low byte of a message's type; the high byte is `NFNL_SUBSYS_NFTABLES`.
pub mod msg {
    #![allow(missing_docs)] // The header's own names.
    pub const NEWTABLE: u16 = 0;
    pub const GETTABLE: u16 = 1;
    pub const DELTABLE: u16 = 2;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const DELSET: u16 = 11;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const DELSETELEM: u16 = 14;
    pub const NEWGEN: u16 = 15;
    pub const GETGEN: u16 = 16;
    pub const TRACE: u16 = 17;
}

/// `NF_NAT_RANGE_MAP_IPS`; the kernel sets it where an address register is given.
pub const NAT_MAP_IPS: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`; the kernel sets it where a port register is given.
pub const NAT_PROTO_SPECIFIED: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: nft's `fully-random`.
pub const NAT_RANDOM_FULLY: u32 = 1 << 4;
/// `RTN_LOCAL`: the address type of an address of this host.
pub const ADDRESS_LOCAL: u32 = 2;
/// `ct state new`: `NF_CT_STATE_BIT(IP_CT_NEW)`.
pub const CT_STATE_NEW: u32 = 1 << 3;
/// `ct state untracked`: `NF_CT_STATE_UNTRACKED_BIT`.
pub const CT_STATE_UNTRACKED: u32 = 1 << 6;
/// `ct status dnat`: `IPS_DST_NAT`.
pub const CT_STATUS_DNAT: u32 = 1 << 5;
/// `ICMP_PORT_UNREACH`.
pub const ICMP_PORT_UNREACHABLE: u8 = 3;
/// `ICMPV6_PORT_UNREACH`.
pub const ICMPV6_PORT_UNREACHABLE: u8 = 4;

/// `NFT_SET_*`.
pub(crate) mod set_flag {
    pub(crate) const ANONYMOUS: u32 = 0x1;
    pub(crate) const CONSTANT: u32 = 0x2;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVAL: u32 = 0x20;
    pub(crate) const CONCAT: u32 = 0x80;
}

/// `NFT_DATA_VERDICT`: the data type of a verdict map.
pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;

/// Verdict codes (`enum nft_verdicts`, `NF_*`).
pub(crate) mod verdict {
    pub(crate) const DROP: i32 = 0;
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const CONTINUE: i32 = -1;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const GOTO: i32 = -4;
    pub(crate) const RETURN: i32 = -5;
}

/// User data of tables, chains, rules and elements: type 0 is the comment.
pub(crate) const UDATA_COMMENT: u8 = 0;

/// User data of a set (`enum nftnl_udata_set_types`) and what a typeof is made of.
pub(crate) mod set_udata {
    pub(crate) const KEY_BYTEORDER: u8 = 0;
    pub(crate) const DATA_BYTEORDER: u8 = 1;
    pub(crate) const KEY_TYPEOF: u8 = 3;
    pub(crate) const DATA_TYPEOF: u8 = 4;
    pub(crate) const DATA_INTERVAL: u8 = 6;
    pub(crate) const COMMENT: u8 = 7;
    /// `NFTNL_UDATA_SET_TYPEOF_EXPR`: which kind of expression.
    pub(crate) const TYPEOF_EXPR: u8 = 0;
    /// `NFTNL_UDATA_SET_TYPEOF_DATA`: its parts.
    pub(crate) const TYPEOF_DATA: u8 = 1;
    /// nft's `enum byteorder`: big-endian.
    pub(crate) const BIG_ENDIAN: u32 = 2;
    /// nft's `enum expr_types`.
    pub(crate) const EXPR_PAYLOAD: u32 = 7;
    pub(crate) const EXPR_META: u32 = 9;
    pub(crate) const EXPR_CONCAT: u32 = 13;
    pub(crate) const EXPR_NUMGEN: u32 = 23;
    /// nft's `enum proto_desc_id`.
    pub(crate) const PROTO_TH: u32 = 11;
    pub(crate) const PROTO_IP: u32 = 12;
    pub(crate) const PROTO_IP6: u32 = 13;
}

/// User data of an element: type 1 holds nft's flags, of which 1 says that a range is open.
pub(crate) mod elem_udata {
    pub(crate) const FLAGS: u8 = 1;
    pub(crate) const INTERVAL_OPEN: u32 = 1;
}
