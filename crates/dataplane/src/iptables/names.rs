//! The names of chains.

use data_encoding::BASE32;
use model::Protocol;
use netfilter::iptables::{Chain, NatTarget, Table};
use plan::Endpoint;
use sha2::{Digest, Sha256};

pub(super) const SERVICES: Chain = Chain::literal("KUBE-SERVICES");
pub(super) const EXTERNAL_SERVICES: Chain = Chain::literal("KUBE-EXTERNAL-SERVICES");
pub(super) const NODE_PORTS: Chain = Chain::literal("KUBE-NODEPORTS");
pub(super) const POSTROUTING: Chain = Chain::literal("KUBE-POSTROUTING");
pub(super) const MARK_MASQ: Chain = Chain::literal("KUBE-MARK-MASQ");
pub(super) const FORWARD: Chain = Chain::literal("KUBE-FORWARD");
pub(super) const PROXY_FIREWALL: Chain = Chain::literal("KUBE-PROXY-FIREWALL");
/// Its absence shows that another program flushed the tables.
pub(super) const CANARY: Chain = Chain::literal("KUBE-PROXY-CANARY");
/// Shared with kubelet, which writes the same rule.
pub(super) const KUBELET_FIREWALL: Chain = Chain::literal("KUBE-FIREWALL");
/// Its existence shows that kubelet has chains on the node.
pub(super) const KUBELET_CANARY: Chain = Chain::literal("KUBE-KUBELET-CANARY");

/// The tables with chains of this mode in the order of writing, as in kube-proxy: filter, nat, then
/// mangle, which has only the canary.
pub(super) const TABLES: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

/// The kinds of Service port chains. All are in the nat table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `KUBE-SVC-`: balances over the cluster's endpoints.
    Cluster,
    /// `KUBE-SVL-`: balances over this node's endpoints.
    Local,
    /// `KUBE-EXT-`: external traffic before it is balanced.
    External,
    /// `KUBE-FW-`: source ranges of a load balancer.
    Firewall,
    /// `KUBE-SEP-`: one endpoint.
    Endpoint,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Cluster,
        Kind::Local,
        Kind::External,
        Kind::Firewall,
        Kind::Endpoint,
    ];

    const fn prefix(self) -> &'static str {
        match self {
            Kind::Cluster => "KUBE-SVC-",
            Kind::Local => "KUBE-SVL-",
            Kind::External => "KUBE-EXT-",
            Kind::Firewall => "KUBE-FW-",
            Kind::Endpoint => "KUBE-SEP-",
        }
    }
}

/// Whether a chain of the nat table belongs to a Service port.
pub(super) fn is_service_chain(chain: Chain) -> bool {
    let name = chain.as_str();
    Kind::ALL.iter().any(|kind| name.starts_with(kind.prefix()))
}

/// The chains of a table that belong to no Service port.
pub(super) fn fixed(table: Table) -> &'static [Chain] {
    match table {
        Table::Filter => &[
            SERVICES,
            EXTERNAL_SERVICES,
            FORWARD,
            NODE_PORTS,
            PROXY_FIREWALL,
            KUBELET_FIREWALL,
            CANARY,
        ],
        Table::Nat => &[SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, CANARY],
        Table::Mangle => &[CANARY],
        Table::Raw | Table::Security => &[],
    }
}

/// Whether the chain is shared: it has rules of every Service port, in any order.
pub(super) fn is_dispatch(table: Table, chain: Chain) -> bool {
    match table {
        Table::Nat => chain == SERVICES || chain == NODE_PORTS,
        Table::Filter => {
            chain == SERVICES
                || chain == EXTERNAL_SERVICES
                || chain == NODE_PORTS
                || chain == PROXY_FIREWALL
        }
        _ => false,
    }
}

/// Whether kube-proxy has this chain in this table.
pub(super) fn is_ours(table: Table, chain: Chain) -> bool {
    fixed(table).contains(&chain) || (table == Table::Nat && is_service_chain(chain))
}

/// Derives the names of one Service port's chains: a prefix and the first 16 characters of the
/// base32 of a SHA-256 over the port's name and protocol, and for an endpoint also its address.
pub(super) struct Namer {
    /// `namespace/name:port` and the protocol in lower case, then space for an endpoint.
    text: String,
    base: usize,
    hash: [u8; 16],
}

impl Namer {
    pub(super) fn new(port_name: &str, protocol: Protocol) -> Self {
        let text = format!("{port_name}{}", protocol.lower());
        Self {
            base: text.len(),
            hash: hash(text.as_bytes()),
            text,
        }
    }

    pub(super) fn chain(&self, kind: Kind) -> Chain {
        join(kind, &self.hash)
    }

    /// The chain of an endpoint, whose text is that after `--to-destination`.
    pub(super) fn endpoint(&mut self, endpoint: &Endpoint) -> Chain {
        self.text.truncate(self.base);
        NatTarget::to(endpoint.ip, endpoint.port).write_to(&mut self.text);
        join(Kind::Endpoint, &hash(self.text.as_bytes()))
    }
}

fn hash(text: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(text);
    let mut encoded = [0; 16];
    // 10 bytes make 16 characters.
    BASE32.encode_mut(&digest[..10], &mut encoded);
    encoded
}

fn join(kind: Kind, hash: &[u8; 16]) -> Chain {
    const LONGEST: usize = 9 + 16;
    let prefix = kind.prefix().as_bytes();
    let mut name = [0u8; LONGEST];
    let length = prefix.len() + hash.len();
    name[..prefix.len()].copy_from_slice(prefix);
    name[prefix.len()..length].copy_from_slice(hash);
    let name = std::str::from_utf8(&name[..length]).ok();
    name.and_then(|name| Chain::new(name).ok())
        .expect("a prefix and base32 are a chain name")
}
