//! The steps of `cargo xtask test-kernels`.

/// A step in a virtual machine.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) arguments: &'static [&'static str],
    /// Variables, each as `NAME=VALUE`.
    pub(crate) environment: &'static [&'static str],
    /// Whether `make test` runs it too.
    pub(crate) quick: bool,
}

pub(crate) enum Program {
    Sluice,
    /// An integration test: package and name.
    Test(&'static str, &'static str),
    /// A shell script, which gets sluice's path.
    Script(&'static str),
}

impl Step {
    const fn new(name: &'static str, program: Program, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            program,
            arguments,
            environment: &[],
            quick: false,
        }
    }

    const fn script(name: &'static str, text: &'static str) -> Self {
        Self::new(name, Program::Script(text), &[])
    }

    const fn demo(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self::new(name, Program::Sluice, arguments)
    }

    /// All tests of a file.
    const fn test(name: &'static str, package: &'static str, test: &'static str) -> Self {
        Self::new(name, Program::Test(package, test), &["--test-threads=1"])
    }

    /// Some tests of a file.
    const fn tests(
        name: &'static str,
        package: &'static str,
        test: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self::new(name, Program::Test(package, test), arguments)
    }

    const fn environment(self, environment: &'static [&'static str]) -> Self {
        Self {
            environment,
            ..self
        }
    }

    const fn quick(self) -> Self {
        Self {
            quick: true,
            ..self
        }
    }
}

/// Tests of ipvs mode that need no special machine.
const IPVS_TESTS: &[&str] = &[
    "state::",
    "native::",
    "traffic::",
    // Its machine has no module of IPVS.
    "--skip=a_kernel_without_ipvs",
    "--test-threads=1",
];

/// The steps in their order.
pub(crate) const STEPS: [Step; 26] = [
    // First, while the modules are not in use.
    Step::script("missing modules", MISSING_MODULES).quick(),
    Step::script("modules loaded on demand", LOADED_MODULES),
    Step::demo(
        "demo nftables",
        &["lab", "demo", "--mode=nftables", "--patience=8"],
    )
    .quick(),
    Step::demo(
        "demo iptables, nft back end",
        &[
            "lab",
            "demo",
            "--mode=iptables",
            "--patience=8",
            "--",
            "--iptables-backend=nft",
        ],
    ),
    Step::demo(
        "demo iptables, legacy back end",
        &[
            "lab",
            "demo",
            "--mode=iptables",
            "--patience=8",
            "--",
            "--iptables-backend=legacy",
        ],
    ),
    Step::demo(
        "demo ipvs, nft back end",
        &[
            "lab",
            "demo",
            "--mode=ipvs",
            "--patience=8",
            "--",
            "--iptables-backend=nft",
        ],
    ),
    Step::demo(
        "demo ipvs, legacy back end",
        &[
            "lab",
            "demo",
            "--mode=ipvs",
            "--patience=8",
            "--",
            "--iptables-backend=legacy",
        ],
    ),
    Step::demo(
        "demo userspace",
        &["lab", "demo", "--mode=userspace", "--patience=8"],
    ),
    Step::test("nftables fates", "dataplane", "nft_fate"),
    Step::test("nftables mode", "dataplane", "nftables"),
    Step::test("nftables sync", "dataplane", "nft_sync"),
    Step::test("iptables codec", "kernel", "iptables_nft"),
    Step::test("iptables mode over netlink", "dataplane", "iptables_mode"),
    Step::tests(
        "iptables sync over netlink",
        "dataplane",
        "ipt_sync",
        &["--skip=sync_recovers_from_any_fault", "--test-threads=1"],
    ),
    Step::tests(
        "iptables faults over netlink",
        "dataplane",
        "ipt_sync",
        &["sync_recovers_from_any_fault"],
    ),
    Step::test("legacy tables", "kernel", "legacy"),
    Step::test("nf_tables interface", "kernel", "nfnetlink"),
    Step::test("nf_tables tables", "kernel", "nft_table"),
    Step::test("ipset interface", "kernel", "ipset"),
    Step::test("conntrack interface", "kernel", "conntrack"),
    Step::tests(
        "iptables read-back, nft back end",
        "sluice",
        "observed",
        &["one_sync_programs_the_observed_rules_nft"],
    )
    .quick(),
    Step::tests(
        "iptables read-back, legacy back end",
        "sluice",
        "observed",
        &["one_sync_programs_the_observed_rules_legacy"],
    ),
    Step::tests("ipvs tests, nft back end", "sluice", "ipvs", IPVS_TESTS)
        .environment(&["SLUICE_TEST_BACKEND=nft"]),
    Step::tests("ipvs tests, legacy back end", "sluice", "ipvs", IPVS_TESTS)
        .environment(&["SLUICE_TEST_BACKEND=legacy"]),
    Step::test("facts without programs", "sluice", "programs"),
    Step::test("live traces", "sluice", "live"),
];

/// Hides one module after the other, and checks that the error at startup names it.
const MISSING_MODULES: &str = r#"
failed=0
printf '%s\n' 'apiVersion: v1' 'kind: Service' 'metadata: {name: a, namespace: b}' \
    'spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], ipFamilies: [IPv4, IPv6],' \
    '  ports: [{port: 80}]}' >/tmp/service.yaml
run() { # MODE BACKEND [FLAGS]
    mode=$1 backend=$2
    shift 2
    ip netns exec missing timeout 300 "$sluice" proxy --proxy-mode="$mode" --iptables-backend="$backend" \
        --hostname-override=n --manifests=/tmp/service.yaml "$@" >/tmp/log 2>&1
}
hide() { # MODULE [MODULES to unload, if others than MODULE]
    file=$(find /lib/modules -name "$1.ko*")
    [ -n "$file" ] || { echo "FAIL: the packages contain no $1"; failed=1; return 1; }
    [ $# = 1 ] || shift
    modprobe -ra "$@"
    mv "$file" /tmp/hidden
}
lacks() { # MODE BACKEND MODULE [MODULES to unload]
    mode=$1 backend=$2 module=$3
    shift 2
    hide "$@" || return
    run "$mode" "$backend"
    status=$?
    mv /tmp/hidden "$file"
    if [ $status -ne 0 ] && [ "$(grep -c '^sluice: ' /tmp/log)" = 1 ] &&
        grep '^sluice: ' /tmp/log | grep -qw "$module"; then
        echo "passed: $mode mode without $module"
    else
        echo "FAIL: $mode mode without $module: status $status"; cat /tmp/log; failed=1
    fi
}
ip netns add missing
lacks ipvs nft ip_vs xt_ipvs ip_vs_rr ip_vs
lacks ipvs nft xt_set
lacks nftables nft nft_numgen
lacks nftables nft nft_masq
lacks nftables nft nft_chain_nat nft_chain_nat nft_nat nft_masq
lacks userspace nft nft_nat
lacks iptables nft xt_statistic
lacks iptables nft xt_addrtype
lacks iptables legacy xt_statistic

# One address family lacks a module: the other is served.
hide nft_fib_ipv4 nft_fib_inet nft_fib_ipv4
if run nftables nft --once && grep 'Not serving an address family' /tmp/log | grep -qw nft_fib_ipv4 &&
    ip netns exec missing nft list table ip6 kube-proxy | grep -q fd00:10:96::1 &&
    ! ip netns exec missing nft list tables | grep -qx 'table ip kube-proxy'; then
    echo 'passed: nftables mode without nft_fib_ipv4 serves IPv6'
else
    echo 'FAIL: nftables mode without nft_fib_ipv4'; cat /tmp/log; failed=1
fi
mv /tmp/hidden "$file"
ip netns del missing
exit $failed
"#;

/// Unloads modules, and checks that the start of the proxy loads them again and finds none missing.
const LOADED_MODULES: &str = r#"
failed=0
printf '%s\n' 'apiVersion: v1' 'kind: Service' 'metadata: {name: a, namespace: b}' \
    'spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}' >/tmp/service.yaml
loaded() {
    lsmod | cut -d' ' -f1 | grep -xF "$(printf '%s\n' "$@")" | tr '\n' ' '
}
loads() { # MODE BACKEND MODULES...
    mode=$1 backend=$2
    shift 2
    for round in 1 2 3 4 5; do
        # Its rules use the modules, until the kernel has removed it in the background.
        ip netns del loaded 2>/dev/null
        tries=0
        while modprobe -raq "$@"; [ -n "$(loaded "$@")" ]; do
            tries=$((tries + 1))
            [ $tries -lt 300 ] || { echo "FAIL: still loaded: $(loaded "$@")"; failed=1; return; }
            sleep 0.2
        done
        ip netns add loaded
        if ! ip netns exec loaded timeout 300 "$sluice" proxy --once --proxy-mode="$mode" \
            --iptables-backend="$backend" --hostname-override=n --manifests=/tmp/service.yaml \
            >/tmp/log 2>&1 || grep -i lacks /tmp/log; then
            echo "FAIL: $mode mode, $backend: modules not loaded"; cat /tmp/log; failed=1; return
        fi
    done
    echo "passed: $mode mode, $backend back end loads $*"
}
loads ipvs nft xt_set xt_ipvs ip_vs_rr ip_vs ip_set_hash_ipportnet ip_set_hash_ipportip ip_set_hash_ipport
loads ipvs legacy xt_set xt_ipvs ip_vs_rr ip_vs ip_set_bitmap_port
loads iptables nft xt_statistic xt_addrtype xt_comment xt_MASQUERADE
loads iptables legacy xt_statistic xt_addrtype iptable_nat iptable_filter iptable_mangle ip_tables
loads nftables nft nft_numgen nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_masq nft_chain_nat
exit $failed
"#;
