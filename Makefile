# Everything here works on a bare Debian 12 with cargo and root: what is missing is installed first.
#
#   make demo [MODE=nftables]   a three-node cluster in network namespaces, with real connections
#   make test                   every test there is; .ci/run calls it
#   make bench                  the figures in the README
#   make lint                   formatting and clippy, as CI checks them

MODE ?= nftables
CARGO ?= cargo

.PHONY: demo test bench lint deps
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

deps:
	@scripts/deps

demo: deps
	$(CARGO) build --release --package sluice
	target/release/sluice lab demo --mode $(MODE)

test: deps
	$(CARGO) test --workspace

bench: deps
	$(CARGO) bench --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
