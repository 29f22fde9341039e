//! A second table that keeps open connections working if another program deletes the first.
//!
//! The kernel translates known connections only while the family has a chain of type nat, and tracks
//! them only while a rule tests their state. On a node without such chains and rules of other programs,
//! replies would arrive with the endpoint's address after `nft flush ruleset`, and connections would be reset.
//! Therefore this table exists while sluice runs. It is owned by sluice's socket: other programs cannot
//! delete it, and the kernel deletes it when the process ends.

use model::IpFamily;
use netfilter::nft::{BaseChain, Chain, ChainKind, Hook, Op, Policy};

use crate::nft_table::build::Build;

/// The name of the table.
pub const ANCHOR: &str = "sluice-nat";
/// Its comment.
pub const ANCHOR_COMMENT: &str = "keeps connections translated if other tables are deleted";

const CHAIN: &str = "keep";

/// Return the contents of the table: a nat chain, and a rule that tests the connection's state and has
/// no verdict.
pub fn anchor(family: IpFamily) -> [Op; 2] {
    let chain = Chain {
        name: CHAIN.to_owned(),
        base: Some(BaseChain {
            kind: ChainKind::Nat,
            hook: Hook::Input,
            priority: 100,
            policy: Policy::Accept,
        }),
        comment: None,
    };
    let asks = Build::new(family).if_new().rule(CHAIN);
    [Op::AddChain(chain), Op::AddRule(asks)]
}
