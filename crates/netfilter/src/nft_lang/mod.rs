//! The nft language as `nft list ruleset` prints it, in text or JSON, read into a syntax tree.
//!
//! A statement here may be several expressions of the kernel (`netfilter::nft`). Text that is not
//! modelled is kept verbatim with its line and column ([`Statement::Unknown`], [`Term::Unknown`]),
//! so that readers of the rules can report it.
//!
//! ```
//! use netfilter::nft_lang::{Ruleset, Statement, VerdictStatement};
//! let text = "table ip t {\n\tchain c {\n\t\tip daddr 10.0.0.1 tcp dport { 80, 443 } drop\n\t}\n}\n";
//! let rules = Ruleset::parse(text).unwrap();
//! let rule = &rules.tables[0].chain("c").unwrap().rules[0];
//! assert_eq!(rule.statements.last(), Some(&Statement::Verdict(VerdictStatement::Drop)));
//! ```

mod block;
mod elements;
mod expr;
mod json;
mod lex;
mod literal;
mod statement;
mod syntax;
#[cfg(test)]
mod tests;

pub use elements::Elements;
pub use syntax::*;

impl Ruleset {
    /// Reads `nft list ruleset` (or `list table`), or what either prints with `-j`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.trim_start().starts_with('{') {
            json::parse(text)
        } else {
            block::parse(text)
        }
    }
}
