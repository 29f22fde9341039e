use super::observed::save;
use super::*;

#[test]
fn cleanup_leaves_what_others_keep() {
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
fn a_chain_that_others_use_is_emptied_only() {
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
    // A kubelet is about: the chain is its own.
    let kubelets = tables
        .chain(Table::Filter, names::KUBELET_FIREWALL)
        .unwrap();
    assert_eq!(kubelets.rules.len(), 1);
    assert!(tables.chain(Table::Nat, names::SERVICES).is_none());
}

#[test]
fn leftovers_go_and_what_another_mode_uses_stays() {
    let mut tables = foreign(IpFamily::V4);
    run(&mut tables, &save("default", IpFamily::V4).to_string());
    // As ipvs mode has it.
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
    // What leads into the chains that stay stays as well.
    assert!(tables.to_string().contains("-j KUBE-SERVICES"));
}
