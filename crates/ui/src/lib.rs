//! The page of `sluice ui`.
//!
//! [`Nodes`] answers the questions of the page, with the types that `sluice trace`, `explain` and `verify`
//! print as JSON. [`serve`] offers page and answers on loopback; [`export`] writes the page with
//! answers as one file. The page itself is in `assets`: plain JavaScript modules without a build step.

mod answers;
mod nodes;
mod page;
mod server;

pub use answers::Question;
pub use nodes::{Given, Nodes, Origin};
pub use page::export;
pub use server::{Running, Ui, serve};
