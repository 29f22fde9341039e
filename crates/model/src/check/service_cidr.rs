//! ServiceCIDRs.

use super::address::parse_cidr;
use super::{Checked, Checker, Invalid, Kind};
use crate::{Interner, ServiceCidr, family_of_net, object};

impl ServiceCidr {
    /// Check a ServiceCIDR. Invalid: the name; no valid range. Ignored with a warning: malformed
    /// ranges, and a second range of a family.
    pub fn check(
        object: object::ServiceCidr,
        interner: &mut Interner,
    ) -> Result<Checked<Self>, Invalid> {
        let mut checker = Checker::new(Kind::ServiceCidr, &object.metadata)?;
        let c = &mut checker;
        let object::ServiceCidr { metadata, spec } = object;
        let object::ServiceCidrSpec { cidrs: stated } = spec;
        if stated.is_empty() {
            return Err(c.invalid("spec.cidrs", "is required"));
        }
        let mut cidrs = Vec::new();
        let only = stated.len() == 1;
        for (i, s) in stated.into_iter().enumerate() {
            let field = format!("spec.cidrs[{i}]");
            match parse_cidr(&s) {
                None if only => {
                    return Err(c.invalid(field, format!("{s:?} is not an address range")));
                }
                None => c.warn(field, format!("{s:?} is not an address range; ignored")),
                Some(range)
                    if cidrs
                        .iter()
                        .any(|c| family_of_net(c) == family_of_net(&range)) =>
                {
                    let family = family_of_net(&range);
                    c.warn(
                        field,
                        format!("{range} is a second {family} range; ignored"),
                    );
                }
                Some(range) => cidrs.push(range),
            }
        }
        if cidrs.is_empty() {
            return Err(c.invalid("spec.cidrs", "contains no valid address range"));
        }
        let name = interner.intern(&metadata.name);
        Ok(checker.done(ServiceCidr { name, cidrs }))
    }
}
