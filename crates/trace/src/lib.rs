//! Walks a packet through a host's rules and says what becomes of it, and why.
//!
//! [`World`] is all that decides: iptables' and nf_tables' rules in any mixture, ipsets, IPVS's
//! virtual servers, and the host's addresses, routes and sysctls ([`Facts`]). [`walk`] takes one
//! [`Packet`] through the five netfilter hooks in the kernel's order, along every way that it can
//! go, and gives a [`Trace`]: outcomes with exact probabilities, each with the steps that led to
//! it. Nothing here touches the system, and nothing here knows what Services are: the rules are
//! read as the kernel reads them, whoever made them.
//!
//! ```
//! use trace::{Origin, Packet, Proto, Verdict, World, walk};
//! use netfilter::iptables::Family;
//! let mut world = World::default();
//! world.add_iptables(Family::Ipv4, "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n").unwrap();
//! let packet = Packet::new(
//!     Origin::Outside,
//!     "192.0.2.1".parse().unwrap(),
//!     "10.96.0.1".parse().unwrap(),
//!     Proto::TCP,
//!     443,
//! );
//! let trace = walk(&world, &packet).unwrap();
//! assert_eq!(trace.outcomes[0].verdict, Verdict::Drop);
//! ```
//!
//! # What is taken as given
//! - The odds of `statistic --mode random` and `numgen random` are the fractions that were meant:
//!   see [`Fraction::from_statistic`].
//! - `nth` and `numgen inc` take turns; for one packet that is equal odds.
//! - A `limit` is not yet reached. Lists (`recent`, dynamic sets) are as the dumps show them, plus
//!   what the packet itself put there.
//! - Of two chains at the same hook with the same priority, that which comes first in the dumps is
//!   asked first, iptables before nf_tables.

mod facts;
mod fraction;
mod fuzz;
mod host;
mod infer;
mod outcome;
mod packet;
mod paste;
mod render;
mod reply;
mod walk;
mod world;

pub use facts::{Dumps, Facts, FactsError, Interface, NextHop, Route, RouteKind, RoutingRule};
pub use fraction::Fraction;
pub use fuzz::fuzz_one;
pub use host::Host;
pub use outcome::{Answer, Backend, Did, Outcome, Snat, Step, Summary, Trace, Verdict};
pub use packet::{CtState, Endpoint, Flow, Origin, Packet, Proto, Rewrite};
pub use paste::PasteError;
pub use render::{Style, percent, place, render_tree, step_to_json, to_json};
pub use reply::reply_to;
pub use walk::{WalkError, walk};
pub use world::{World, WorldError};
