# make test    everything: lints, unit tests, and the end-to-end tests on a real API server and a real Prometheus
# make lint    formatting and lints
# make demo    the story, in the sandbox
# make bench   the figures, measured
# make parts   only installs and builds what the tests need besides Rust
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: test lint demo bench parts rust-tests alerts

test: parts lint alerts rust-tests

# The control plane is built once into a cache outside the checkout: about 10 minutes on 2 cores, then never again.
parts:
	tests/install.sh
	tests/envtest/build.sh >/dev/null

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	if command -v cargo-deny >/dev/null; then cargo deny --locked check; else echo "cargo-deny is not installed: licences and sources are not checked"; fi

rust-tests: parts
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 cargo test --locked

alerts: parts
	promtool check rules alerts/*.rules.yaml
	promtool test rules alerts/*.test.yaml

demo:
	cargo run --release --locked -- demo

# The released binary is what is measured; only the testbed around it is built without optimizing, as for the tests.
bench: parts
	cargo build --release --locked
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_BINARY=$(CURDIR)/target/release/flipback \
		cargo bench --locked --profile dev --bench figures
