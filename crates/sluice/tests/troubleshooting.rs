//! `docs/troubleshooting.md`: symptoms, and what `sluice explain` answers. `UPDATE=1` rewrites it.

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{SLUICE, text};

const HEAD: &str = "\
# Troubleshooting

Each section is a symptom, the command that explains it, and its answer for an example. A test runs
every command (`UPDATE=1` rewrites this page). On a node with a running sluice proxy, as root, the commands
need no files: objects and configuration come from the proxy.

```
sluice status                                       the proxy itself
sluice explain NAMESPACE/NAME                       one Service
sluice verify                                       all Services
sluice trace --src IP --dst NAMESPACE/NAME          one packet, with every rule on its path
```

From a workstation, `kubectl sluice explain demo/web` asks all nodes, and `--node NAME` one
([reference](reference.md#kubectl-sluice)). In sluice's Pods the program is called `kube-proxy`:
`kubectl -n kube-system exec POD -- kube-proxy status`. On a node with another proxy, pass `--kubeconfig FILE`.

Elsewhere, take the objects from the cluster and the facts from the node:

```
kubectl get services,endpointslices,nodes -A -o json > cluster.json
sluice facts > bug.json                             on the node, as root
sluice explain demo/web --manifests cluster.json --facts bug.json
```

`explain` names the fact, the object that decides and its owner, and after `fix:` what to do. Findings
with a number are problems; those with a dash explain behaviour that often surprises.
";

/// The objects of the examples: a Service with an endpoint on each of two nodes.
const OBJECTS: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDRs: [10.244.1.0/24]}, \
status: {addresses: [{type: InternalIP, address: 10.200.1.2}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node2}, spec: {podCIDRs: [10.244.2.0/24]}, \
status: {addresses: [{type: InternalIP, address: 10.200.1.3}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: demo, name: web}, spec: {type: NodePort, \
clusterIP: 10.96.10.1, externalTrafficPolicy: Cluster, selector: {app: web}, \
ports: [{name: http, port: 80, nodePort: 30080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
metadata: {namespace: demo, name: web-a, labels: {kubernetes.io/service-name: web}}, \
ports: [{name: http, port: 8080}], endpoints: [\
{addresses: [10.244.1.11], nodeName: node1, conditions: {ready: true}}, \
{addresses: [10.244.2.11], nodeName: node2, conditions: {ready: true}}]}
";

/// An example: the differences from a healthy node.
struct Example {
    symptom: &'static str,
    meaning: &'static str,
    /// Replacements in the objects.
    objects: &'static [(&'static str, &'static str)],
    /// Rules of other programs, as `iptables-save` prints them.
    rules: &'static str,
    /// A sysctl with another value.
    sysctl: Option<(&'static str, &'static str)>,
    /// The node for which the rules were made.
    rules_of: &'static str,
    /// The cause that the answer has to name.
    cause: &'static str,
}

const HEALTHY: Example = Example {
    symptom: "",
    meaning: "",
    objects: &[],
    rules: "",
    sysctl: None,
    rules_of: "node1",
    cause: "",
};

const LOCAL: (&str, &str) = (
    "externalTrafficPolicy: Cluster",
    "externalTrafficPolicy: Local",
);

const EXAMPLES: &[Example] = &[
    Example {
        symptom: "Connections are refused at once, and all pods run",
        meaning: "No endpoint is ready, so every node refuses connections. The pods' readiness decides.",
        objects: &[("ready: true", "ready: false")],
        cause: "no-ready-endpoint",
        ..HEALTHY
    },
    Example {
        symptom: "Connections are refused at once, and there are no endpoints",
        meaning: "No EndpointSlice belongs to the Service: its selector matches no pod.",
        objects: &[(
            "kubernetes.io/service-name: web",
            "kubernetes.io/service-name: wep",
        )],
        cause: "no-endpoint-slices",
        ..HEALTHY
    },
    Example {
        symptom: "Connections to one port are refused, others work",
        meaning: "The names of the Service's port and of the EndpointSlice's port differ.",
        objects: &[("[{name: http, port: 8080}]", "[{name: web, port: 8080}]")],
        cause: "port-not-served",
        ..HEALTHY
    },
    Example {
        symptom: "A NodePort times out on some nodes only",
        meaning: "With externalTrafficPolicy Local, nodes without an endpoint drop connections from outside.",
        objects: &[LOCAL, ("nodeName: node1", "nodeName: node2")],
        cause: "no-local-endpoint",
        ..HEALTHY
    },
    Example {
        symptom: "A NodePort times out on a node that has a ready pod",
        meaning: "The proxy runs with another node name, and therefore treats all endpoints as another \
                      node's.",
        objects: &[LOCAL, ("nodeName: node2", "nodeName: node1")],
        rules_of: "node2",
        cause: "node-name",
        ..HEALTHY
    },
    Example {
        symptom: "EXTERNAL-IP stays <pending>",
        meaning: "No controller has assigned an address. The proxy only programs addresses that exist.",
        objects: &[("type: NodePort", "type: LoadBalancer")],
        cause: "load-balancer-pending",
        ..HEALTHY
    },
    Example {
        symptom: "Services answer on the node itself, and time out from pods and from outside",
        meaning: "The node does not forward packets.",
        sysctl: Some(("net.ipv4.ip_forward", "0")),
        cause: "forwarding-off",
        ..HEALTHY
    },
    Example {
        symptom: "Services stopped working when Docker was installed",
        meaning: "The policy of the chain FORWARD is DROP.",
        rules: "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n",
        cause: "chain-policy",
        ..HEALTHY
    },
    Example {
        symptom: "Connections to pods on other nodes time out",
        meaning: "A rule of another program drops them. The answer names the rule and its owner.",
        rules: "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                    :CNI-FORWARD - [0:0]\n-A FORWARD -j CNI-FORWARD\n\
                    -A CNI-FORWARD -d 10.244.2.0/24 -j DROP\nCOMMIT\n",
        cause: "foreign-drop",
        ..HEALTHY
    },
    Example {
        symptom: "Pods see the node's address although externalTrafficPolicy is Local",
        meaning: "Another program masquerades packets to pods.",
        objects: &[LOCAL],
        rules: "*nat\n:POSTROUTING ACCEPT [0:0]\n:FLANNEL-POSTRTG - [0:0]\n\
                    -A POSTROUTING -j FLANNEL-POSTRTG\n\
                    -A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -j MASQUERADE\nCOMMIT\n",
        cause: "source-replaced",
        ..HEALTHY
    },
    Example {
        symptom: "Connections go to a pod that no longer exists",
        meaning: "The rules were made from older objects: the proxy does not follow the API server, or does \
                      not run.",
        objects: &[("addresses: [10.244.1.11]", "addresses: [10.244.1.99]")],
        rules_of: "stale",
        cause: "rules-differ",
        ..HEALTHY
    },
];

/// Run the example and return the findings.
fn answer(example: &Example, folder: &Path) -> String {
    let file = |name: &str, contents: &str| {
        let path = folder.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let mut objects = OBJECTS.to_owned();
    for (from, to) in example.objects {
        assert!(objects.contains(from), "{from} is not in the objects");
        objects = objects.replace(from, to);
    }
    let (rules_of, programmed) = match example.rules_of {
        "stale" => ("node1", OBJECTS.to_owned()),
        node => (node, objects.clone()),
    };
    let manifests = file("cluster.yaml", &objects);
    let programmed = file("programmed.yaml", &programmed);
    let config = file(
        "config.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\n",
    );
    let rendered = Command::new(SLUICE)
        .args([
            "render",
            "--mode=nftables",
            "--node",
            rules_of,
            // The address of the host, whatever name the proxy has.
            "--node-ip=10.200.1.2",
        ])
        // The host's addresses, whatever name the proxy has.
        .args(["--interface-addresses=10.200.1.2", "--config"])
        .arg(&config)
        .arg("-f")
        .arg(&programmed)
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let nft = file("rules.nft", &text(&rendered.stdout));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trace/node1.json");
    let mut facts: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    facts["sysctls"]["net.bridge.bridge-nf-call-iptables"] = "1".into();
    if let Some((name, value)) = example.sysctl {
        facts["sysctls"][name] = value.into();
    }
    let facts = file("facts.json", &facts.to_string());
    let mut command = Command::new(SLUICE);
    command.args(["explain", "demo/web", "--node=node1", "--manifests"]);
    command.arg(&manifests).arg("--config").arg(&config);
    command.arg("--facts").arg(&facts).arg("--nft").arg(&nft);
    if !example.rules.is_empty() {
        let rules = file("other.iptables-save", example.rules);
        command.arg("--iptables-save").arg(rules);
    }
    let output = command.output().unwrap();
    let said = text(&output.stdout);
    let is_healthy = example.cause.is_empty();
    let expected = i32::from(!is_healthy);
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{said}{}",
        text(&output.stderr)
    );
    assert!(
        said.contains(example.cause),
        "{} is not in {said}",
        example.cause
    );
    let findings = said.lines().take_while(|l| !l.is_empty());
    let findings = findings.filter(|l| !l.starts_with("  - "));
    findings.map(|l| format!("{l}\n")).collect()
}

#[test]
fn page_shows_the_answers_of_explain() {
    let folder = tempfile::tempdir().unwrap();
    let healthy = answer(&HEALTHY, folder.path());
    assert!(healthy.contains("no problems found"), "{healthy}");
    let mut page = HEAD.to_owned();
    for example in EXAMPLES {
        let answer = answer(example, folder.path());
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n```\n$ sluice explain demo/web\n{answer}```\n",
            example.symptom, example.meaning
        );
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let current = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(page, current, "{}: UPDATE=1 rewrites it", file.display());
}
