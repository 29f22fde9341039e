//! Answers questions about a node: why a Service does not respond ([`explain`]), whether the rules do
//! what the objects state ([`verify`]), which Services exist and in which state ([`overview`]), what
//! happens to one packet by the rules ([`Traced`]) and in the kernel ([`live`]), and how rules and packets
//! look as a picture ([`diagram`]). [`facts`] collects what the answers depend on.
//!
//! Results are plain data that can be serialised. Text for people is made beside them; reading
//! files, talking to the API server and the command line belong to the caller.

pub mod diagram;
pub mod explain;
pub mod facts;
pub mod live;
pub mod overview;
mod request;
mod traced;
pub mod verify;

pub use request::{Start, packet_between};
pub use traced::Traced;
