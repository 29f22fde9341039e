//! Walks a packet through a host's rules and shows what happens to it, and why.
//!
//! [`World`] contains everything that decides: rules of iptables (both back ends) and nf_tables,
//! ipsets, IPVS virtual servers, and the host's addresses, routes and sysctls ([`Facts`]). [`walk`]
//! takes one [`Packet`] through the five netfilter hooks in the kernel's order, on every path that it
//! can take, and returns a [`Trace`]: outcomes with exact probabilities, each with the steps that led
//! to it. The crate does no I/O and knows nothing about Services: it reads rules as the kernel does,
//! whichever program made them.
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
//! # Assumptions
//! - The odds of `statistic --mode random` and `numgen random` are the intended fractions; see
//!   [`Fraction::from_statistic`].
//! - `nth` and `numgen inc` take turns, which means equal odds for one packet.
//! - A `limit` is not reached yet. Lists (`recent`, dynamic sets) contain what the dumps show, and what
//!   the packet itself adds.
//! - Of NAT chains with equal priority, the kernel calls the one that was registered last first. Facts
//!   contain the order if the kernel reports it; otherwise both are shown if they lead to different ends.
//! - A fact that the dumps leave open is assumed once per path: whether an address is the node's own,
//!   or which interface a packet uses.

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

pub use facts::{
    Dumps, Facts, FactsError, HookOrder, Interface, NextHop, Route, RouteKind, RoutingRule,
};
pub use fraction::Fraction;
pub use fuzz::fuzz_one;
pub use host::{Host, Towards};
pub use outcome::{Answer, Backend, Did, Outcome, Snat, Step, Summary, Trace, Verdict};
pub use packet::{CtState, Endpoint, Flow, Origin, Packet, Proto, Rewrite};
pub use paste::PasteError;
pub use render::{Style, percent, place, render_tree, step_to_json, to_json};
pub use reply::{refusal_to, reply_to};
pub use walk::{WalkError, walk};
pub use world::{World, WorldError};
