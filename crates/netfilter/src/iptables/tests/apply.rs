use super::*;

const BASE: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A PREROUTING -j A\n-A A -j B\n-A B -j ACCEPT\nCOMMIT\n";

fn after(input: &str) -> Result<TableSet, Refusal> {
    let mut set = TableSet::parse(Family::Ipv4, BASE).unwrap();
    let restore = Restore::parse(Family::Ipv4, input).unwrap();
    match set.apply(restore, Flush::Nothing) {
        Ok(()) => Ok(set),
        Err(error) => {
            // A refused section changes nothing.
            assert_eq!(set, TableSet::parse(Family::Ipv4, BASE).unwrap());
            Err(error.reason)
        }
    }
}

fn rules(set: &TableSet, chain: &str) -> Option<Vec<String>> {
    let state = set.chain(Table::Nat, Chain::new(chain).unwrap())?;
    Some(state.rules.iter().map(ToString::to_string).collect())
}

#[test]
fn a_declaration_empties_a_user_chain_but_not_a_built_in_one() {
    let set = after("*nat\n:A - [0:0]\n:PREROUTING DROP [0:0]\nCOMMIT\n").unwrap();
    assert_eq!(rules(&set, "A").unwrap(), [""; 0]);
    assert_eq!(rules(&set, "PREROUTING").unwrap(), ["-j A"]);
    let chain = set.chain(Table::Nat, Chain::literal("PREROUTING")).unwrap();
    assert_eq!(chain.policy, Some(Policy::Drop));
}

#[test]
fn rules_are_inserted_replaced_and_deleted_by_number() {
    let set = after(
        "*nat\n-I A -j DROP\n-I A 3 -j RETURN\n-R A 1 -j ACCEPT\n-D A -j B\n-D B 1\nCOMMIT\n",
    )
    .unwrap();
    assert_eq!(rules(&set, "A").unwrap(), ["-j ACCEPT", "-j RETURN"]);
    assert_eq!(rules(&set, "B").unwrap(), [""; 0]);
}

#[test]
fn a_referenced_chain_cannot_be_deleted() {
    let chain = Chain::literal("B");
    assert_eq!(after("*nat\n-X B\nCOMMIT\n"), Err(Refusal::NotEmpty(chain)));
    assert_eq!(
        after("*nat\n:B - [0:0]\n-X B\nCOMMIT\n"),
        Err(Refusal::Referenced(chain))
    );
    let set = after("*nat\n:B - [0:0]\n:A - [0:0]\n-X B\nCOMMIT\n").unwrap();
    assert_eq!(rules(&set, "B"), None);
    assert_eq!(
        after("*nat\n-X INPUT\nCOMMIT\n"),
        Err(Refusal::BuiltIn(Chain::literal("INPUT")))
    );
}

#[test]
fn commands_on_missing_chains_and_rules_are_refused() {
    let (a, c) = (Chain::literal("A"), Chain::literal("C"));
    assert_eq!(after("*nat\n-A C -j A\nCOMMIT\n"), Err(Refusal::NoChain(c)));
    assert_eq!(
        after("*nat\n-A A -j C\nCOMMIT\n"),
        Err(Refusal::NoTarget {
            chain: a,
            target: c
        })
    );
    assert_eq!(
        after("*nat\n-D A -j ACCEPT\nCOMMIT\n"),
        Err(Refusal::NoRule(a))
    );
    assert_eq!(
        after("*nat\n-I A 3 -j ACCEPT\nCOMMIT\n"),
        Err(Refusal::NoPosition(a))
    );
    assert_eq!(after("*nat\n-N A\nCOMMIT\n"), Err(Refusal::ChainExists(a)));
    let long = format!(
        "*nat\n-A A -m comment --comment {} -j B\nCOMMIT\n",
        "x".repeat(256)
    );
    assert_eq!(after(&long), Err(Refusal::LongComment));
}

#[test]
fn sections_before_a_refused_one_are_applied() {
    let mut set = TableSet::parse(Family::Ipv4, BASE).unwrap();
    let input = "*filter\n:F - [0:0]\nCOMMIT\n*nat\n:N - [0:0]\n-A N -j GONE\nCOMMIT\n";
    let error = set
        .apply(Restore::parse(Family::Ipv4, input).unwrap(), Flush::Nothing)
        .unwrap_err();
    assert_eq!((error.line, error.table), (6, Table::Nat));
    assert!(set.chain(Table::Filter, Chain::literal("F")).is_some());
    assert!(set.chain(Table::Nat, Chain::literal("N")).is_none());
}
