use super::observed::save;
use super::*;

#[test]
fn cleanup_leaves_other_programs_rules() {
    for family in IpFamily::ALL {
        let mut tables = foreign(family);
        run(&mut tables, &save("default", family).to_string());
        let before = foreign(family);
        let text = cleanup(&observe(family, &tables));
        run(&mut tables, &text);
        tables.tables.remove(&Table::Mangle);
        assert_eq!(comparable(&tables), comparable(&before));
        assert!(observe(family, &tables).is_nothing());
        assert_eq!(cleanup(&observe(family, &tables)), "");
    }
}

#[test]
fn a_chain_used_by_other_rules_is_flushed_but_not_deleted() {
    let mut tables = foreign(IpFamily::V4);
    run(&mut tables, &save("default", IpFamily::V4).to_string());
    run(
        &mut tables,
        "*nat\n-A OTHER -j KUBE-MARK-MASQ\nCOMMIT\n*filter\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n",
    );
    let text = cleanup(&observe(IpFamily::V4, &tables));
    run(&mut tables, &text);
    let used = tables.chain(Table::Nat, names::MARK_MASQ).unwrap();
    assert!(used.rules.is_empty());
    // With kubelet on the node, the chain belongs to kubelet.
    let kubelets = tables
        .chain(Table::Filter, names::KUBELET_FIREWALL)
        .unwrap();
    assert_eq!(kubelets.rules.len(), 1);
    assert!(tables.chain(Table::Nat, names::SERVICES).is_none());
}

#[test]
fn leftovers_are_removed_and_chains_of_the_active_mode_stay() {
    let mut tables = foreign(IpFamily::V4);
    run(&mut tables, &save("default", IpFamily::V4).to_string());
    // The chains of ipvs mode.
    run(
        &mut tables,
        "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-MARK-MASQ\nCOMMIT\n",
    );
    let text = leftovers(&observe(IpFamily::V4, &tables), crate::ipvs::is_chain);
    run(&mut tables, &text);
    let of = |table| -> Vec<String> {
        let chains = tables.tables[&table].chains.keys();
        let kube = chains.filter(|c| c.as_str().starts_with("KUBE-"));
        kube.map(ToString::to_string).collect()
    };
    assert_eq!(
        of(Table::Nat),
        ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-SERVICES"]
    );
    assert_eq!(
        of(Table::Filter),
        ["KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"]
    );
    let services = tables.chain(Table::Nat, names::SERVICES).unwrap();
    assert_eq!(services.rules.len(), 1);
    // Jumps to the remaining chains stay too.
    assert!(tables.to_string().contains("-j KUBE-SERVICES"));
}
