# All targets work on a bare Debian 12 with cargo and root: missing packages are installed first.
#
#   make demo [MODE=nftables]   a three-node cluster in network namespaces, with real connections;
#                               MODE=iptables, ipvs (in a virtual machine) or userspace
#   make check                  formatting, lints and the tests that need neither root nor network
#   make test                   all tests; called by .ci/run
#   make test-kernels           the demo and the kernel tests on Debian's stock kernels: docs/kernels.md
#   make bench                  the figures of the README
#   make bench-path             the instructions that packets cost, in a virtual machine that counts them
#   make docs                   regenerate docs/paths.md
#   make pictures               render docs/pictures again: the references of the page's look, in the README
#   make static                 target/static/sluice: the statically linked release program of the image,
#                               checked in an empty root
#   make lint                   formatting, clippy, language, licences and sources of dependencies
#   make release                version, binary, image, chart, SBOM and checksums: scripts/release

MODE ?= nftables
CARGO ?= cargo

.PHONY: demo check test test-kernels bench bench-path docs pictures static lint release deps
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

deps:
	@scripts/deps

# The profile `demo` builds faster than the profile `release`, which ships.
demo: deps
	$(CARGO) build --profile demo --package sluice
ifeq ($(MODE),ipvs)
	# The host's kernel may lack IPVS. User Mode Linux has it, but no NAT in nf_tables.
	$(CARGO) run --quiet --profile demo --package xtask -- vm -- target/demo/sluice lab demo --mode ipvs --patience 5 -- --iptables-backend legacy
else
	target/demo/sluice lab demo --mode $(MODE)
endif

test: deps
	$(CARGO) test --workspace
ifeq ($(shell uname -m),x86_64)
	# Debian's amd64 kernel under qemu, with this host's programs.
	scripts/deps kernels
	$(CARGO) xtask test-kernels --kernel 6.1 --quick
	$(CARGO) xtask bench-path check
endif

test-kernels:
	scripts/deps kernels
	$(CARGO) xtask test-kernels $(addprefix --kernel ,$(KERNELS))

bench-path:
	scripts/deps kernels
	$(CARGO) xtask bench-path

bench: deps
	$(CARGO) bench --package plan --bench plan
	$(CARGO) bench --package dataplane --bench iptables
	$(CARGO) bench --package dataplane --bench iptables_nft
	$(CARGO) bench --package dataplane --bench iptables_legacy
	$(CARGO) bench --package dataplane --bench ipvs
	$(CARGO) bench --package dataplane --bench nftables
	$(CARGO) bench --package dataplane --bench first_packet
	$(CARGO) bench --package trace --bench dump
	scripts/deps haproxy socat
	$(CARGO) bench --package relay --bench relay
	$(CARGO) bench --package sluice --bench apiserver
	$(CARGO) bench --package sluice --bench verify

docs:
	UPDATE=1 $(CARGO) test --package sluice --test walkthrough

# Look at the pictures before you commit them.
pictures: deps
	UPDATE=1 $(CARGO) test --package sluice --test ui pictures::

# The target is named so that build scripts are not linked statically.
static: HOST = $(shell rustc -vV | sed -n 's/^host: //p')
static: deps
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --target $(HOST) --package sluice
	mkdir -p target/static
	cp target/$(HOST)/release/sluice target/static/sluice
	$(CARGO) build --package apiserver-sim
	scripts/check-static target/static/sluice target/debug/sluice-apiserver-sim

lint:
	$(CARGO) fmt --all --check
	scripts/check-style
	"$$(scripts/tool cargo-deny)" check --hide-inclusion-graph licenses bans sources
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The tests that need no root. CONTRIBUTING.md explains the tiers.
check: lint
	$(CARGO) test $(addprefix --package ,model plan netfilter config source observe relay) --lib --tests
	$(CARGO) test $(addprefix --package ,dataplane diagnose lab apiserver-sim ui) --lib
	# The test `kernel` needs root.
	$(CARGO) test --package trace --lib \
	    $(addprefix --test ,scenarios plan observed ipvs foreign unknown hostile paste output)
	$(CARGO) test --package xtask --test modules

release:
	scripts/release
