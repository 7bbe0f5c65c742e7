# make help : what there is to do here.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test bench lint fmt images clean

TARGET ?= $(or $(CARGO_TARGET_DIR),target)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## build strake, make a base image, build and run testdata/examples/hello
	@scripts/quickstart

test: ## set up what the tests need, then run them all
	@scripts/test

bench: ## print the table of figures: strake beside its peers on this machine
	@scripts/setup-tests bench
	@cargo build --release --quiet
	@scripts/with-tools bench/run
	@bench/thousand
	@bench/growth
	@scripts/with-tools bench/contexts
	@scripts/with-tools bench/travel
	@cargo test --release --quiet -p frontend-cli --bin strake -- speed_tests --nocapture
	@STRAKE_BENCH_VERTICES=100000 cargo test --release --quiet -p solver --test it -- speed --nocapture

lint: ## formatting, and clippy with warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

fmt: ## format the code
	cargo fmt --all

images: ## the base images of tests and benches, into target/images
	@testdata/images/busybox $(TARGET)/images/busybox.tar
	@testdata/images/debian $(TARGET)/images/debian.tar

clean: ## remove everything that was built, base images and local stores too
	@scripts/clean
