# Everything here works on a bare Debian 12 with cargo and root: what is missing is installed first.
#
#   make demo [MODE=nftables]   a three-node cluster in network namespaces, with real connections;
#                               MODE=iptables, ipvs (in a virtual machine) or userspace
#   make test                   every test there is; .ci/run calls it
#   make bench                  the figures in the README
#   make docs                   the pages that sluice writes itself: docs/paths.md
#   make static                 target/static/sluice: the release program, statically linked, as the
#                               image holds it; checked in an empty root
#   make lint                   formatting and clippy, as CI checks them

MODE ?= nftables
CARGO ?= cargo

.PHONY: demo test bench docs static lint deps
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

deps:
	@scripts/deps

demo: deps
	$(CARGO) build --release --package sluice
ifeq ($(MODE),ipvs)
	# This machine's kernel may lack IPVS; that of User Mode Linux has it, but no NAT in nf_tables.
	$(CARGO) xtask vm -- target/release/sluice lab demo --mode ipvs --patience 5 -- --iptables-backend legacy
else
	target/release/sluice lab demo --mode $(MODE)
endif

test: deps
	$(CARGO) test --workspace

bench: deps
	$(CARGO) bench --package plan --bench plan
	$(CARGO) bench --package dataplane --bench iptables
	$(CARGO) bench --package dataplane --bench ipvs
	$(CARGO) bench --package dataplane --bench nftables
	$(CARGO) bench --package dataplane --bench first_packet
	$(CARGO) bench --package trace --bench dump
	scripts/deps haproxy socat
	$(CARGO) bench --package relay --bench relay
	$(CARGO) bench --package sluice --bench apiserver

docs:
	UPDATE=1 $(CARGO) test --package sluice --test walkthrough

# The target is named, so that what runs while building is not linked so.
static: HOST = $(shell rustc -vV | sed -n 's/^host: //p')
static: deps
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --target $(HOST) --package sluice
	mkdir -p target/static
	cp target/$(HOST)/release/sluice target/static/sluice
	$(CARGO) build --package apiserver-sim
	scripts/check-static target/static/sluice target/debug/sluice-apiserver-sim

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
