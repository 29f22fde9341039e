//! What keeps connections alive that are there already, should somebody take the table away.
//!
//! The kernel remembers how it translates them, but does so only while there is a chain of type nat in
//! the family, and follows them only while there is a rule that asks for their state. On a node where
//! nobody else has such, `nft flush ruleset` would have answers arrive with the endpoint's address, and
//! connections reset. So for as long as sluice runs there is one more table, of its own socket's, which
//! nobody else can delete and which the kernel takes away with the process.

use model::IpFamily;
use netfilter::nft::{BaseChain, Chain, ChainKind, Hook, Op, Policy};

use crate::nft_table::build::Build;

/// The name of that table.
pub const ANCHOR: &str = "sluice-nat";
/// Its comment.
pub const ANCHOR_COMMENT: &str = "keeps connections translated whatever becomes of other tables";

const CHAIN: &str = "keep";

/// What is in it: a chain that new connections to the node itself pass, and that lets them pass.
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
