# make test    everything: lints, unit tests, and the end-to-end tests on a real API server and a real Prometheus
# make lint    formatting, lints, and the dependencies' licences, sources and known faults
# make demo    the story, in the sandbox
# make bench   the figures, measured
# make bench-engine   only the engine's: nanoseconds per look, detection medians beside those of the rules
# make montecarlo   P14, the seeded Monte Carlo gate, whole
# make simulation   the whole daemon in a simulated world, 2500 seeds or FLIPBACK_SIM_SEEDS
# make simulated    those of them that fit into 3 minutes. FLIPBACK_SIM_SECONDS says how long, FLIPBACK_SIM_SEEDS how many
# make kills    SIGKILL at every step of a flip, 20 times each or FLIPBACK_KILLS; `make test` kills once at each
# make fuzz    ten minutes of fuzzing without cargo-fuzz; FLIPBACK_FUZZ_SECONDS says how long
# make bench-backtest   the cost of judging a week of 50 guards
# make bench-evidence   the cost of keeping evidence: 20 pods x 2 containers x 5 MB of logs
# make soak    500 guards, everything going wrong, for as many looks as an hour has; FLIPBACK_SOAK_MINUTES says how long
# make parts   only installs and builds what the tests need besides Rust
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: test lint demo bench bench-engine bench-backtest bench-evidence soak parts rust-tests alerts montecarlo simulated simulation kills fuzz

test: parts lint alerts rust-tests montecarlo simulated

# The control plane and the S3 server are built once into a cache outside the checkout: about 12 minutes on 2 cores, then never again.
parts:
	tests/install.sh
	tests/envtest/build.sh >/dev/null
	tests/s3/build.sh >/dev/null

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	tests/deny.sh

# Most of these wait for scrapes, looks and deadlines: four tests of three suites at a time keep two cores busy.
rust-tests: parts
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 RUST_TEST_THREADS=4 tests/run.sh

# Only this crate is optimized: what it is made of stays as the tests have built it, and is not built a third time.
OPTIMIZED := --config profile.dev.package.flipback.opt-level=2 --config profile.dev.package.flipback.debug-assertions=false

montecarlo:
	FLIPBACK_MONTECARLO=full cargo test --locked $(OPTIMIZED) --test montecarlo

# Alone, on all cores, within 3 minutes: the first seeds of `make simulation`, as many as fit. It says how many those were.
simulated:
	FLIPBACK_SIM_SECONDS=$${FLIPBACK_SIM_SECONDS:-170} $(MAKE) --no-print-directory simulation

simulation:
	FLIPBACK_SIM_SEEDS=$${FLIPBACK_SIM_SEEDS:-2500} cargo test --locked $(OPTIMIZED) --test simulation -- --nocapture

# Each step of a flip, 20 times.
kills: parts
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_KILLS=$${FLIPBACK_KILLS:-20} \
		cargo test --locked --test kill -- --nocapture

fuzz:
	FLIPBACK_FUZZ_SECONDS=$${FLIPBACK_FUZZ_SECONDS:-600} cargo test --locked --test fuzz

alerts: parts
	promtool check rules alerts/*.rules.yaml
	promtool test rules alerts/*.test.yaml

demo:
	cargo run --release --locked -- demo

# The released binary is what is measured; only the testbed around it is built without optimizing, as for the tests.
bench: parts bench-engine
	cargo build --release --locked
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_BINARY=$(CURDIR)/target/release/flipback \
		cargo bench --locked --profile dev --bench figures

# As released: optimized for size and linked as a whole.
bench-engine:
	cargo bench --locked --bench engine

# Without link-time optimizing, which takes a quarter of an hour and changes little here.
bench-backtest: parts
	cargo build --profile bench-fast --locked
	FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_BINARY=$(CURDIR)/target/bench-fast/flipback cargo bench --locked --profile dev --bench backtest

bench-evidence: parts
	cargo build --profile bench-fast --locked
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_BINARY=$(CURDIR)/target/bench-fast/flipback \
		cargo bench --locked --profile dev --bench evidence

soak: parts
	cargo build --profile bench-fast --locked
	KUBEBUILDER_ASSETS=$$(tests/envtest/build.sh) FLIPBACK_REQUIRE_REAL_PARTS=1 FLIPBACK_BINARY=$(CURDIR)/target/bench-fast/flipback \
		cargo bench --locked --profile dev --bench soak
