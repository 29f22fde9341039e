//! A proxy in nftables mode for the observed objects, and a check of its tables.

#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../../../dataplane/tests/support/objects.rs"]
pub(crate) mod objects;

use std::fs;

use dataplane::nftables::{Options, Pick, State, TABLE, table_family};
use kernel::nfnetlink::{NfTables, TableId};
use model::Mode;
use netfilter::nft::table::Contents;

use crate::support::{Proxy, eventually};
use objects::plans;

/// Start a proxy for the observed objects.
pub(crate) fn start(flags: &[&str]) -> Proxy {
    let objects = fs::read_to_string(observed::path("objects.json")).unwrap();
    let proxy = Proxy::start(Mode::Nftables, &[("objects.json", &objects)], flags);
    wait_until_right(&proxy);
    proxy
}

/// Wait until the tables of both families match the objects in the folder.
pub(crate) fn wait_until_right(proxy: &Proxy) {
    let plans = plans(&[proxy.folder.path().to_owned()]);
    for plan in &plans {
        let mut state = State::lower(plan, Options::default());
        let id = TableId::new(table_family(plan.family), TABLE);
        let what = || format!("{id} matches the objects\n{}", proxy.log());
        eventually(&what(), || {
            let read = || NfTables::open().unwrap().read_table(&id);
            let Ok((Some(read), _)) = proxy.host.run(read) else {
                return false;
            };
            // Chains that no frontend leads to stay until they are swept, and so do the rules that lead to
            // them.
            let chains = read.contents.chains.keys();
            state.set_idle(chains.filter_map(|name| Pick::parse(name)));
            let sweep = state.sweep().ops;
            let mut table = Some(read.contents);
            let swept = Contents::apply(&mut table, &sweep).is_ok();
            swept && read.foreign.is_empty() && table == Some(state.contents())
        });
    }
}
