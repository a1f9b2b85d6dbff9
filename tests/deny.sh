#!/usr/bin/env bash
# Checks every dependency with cargo-deny, by deny.toml: licences, duplicates and banned crates, where each comes from; and known
# vulnerabilities where RustSec's database can be fetched, which is said where it cannot.
#
# cargo-deny is built once from the registry of crates, this very version, into a cache outside the checkout: about two minutes on 2 cores.
# Where the registry does not give it, that is said and nothing is checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=0.20.2
cache="${XDG_CACHE_HOME:-$HOME/.cache}/flipback/cargo-deny/$version"
deny="$cache/bin/cargo-deny"
if [[ ! -x "$deny" ]]; then
  echo "building cargo-deny $version, once (about 2 minutes on 2 cores) ..." >&2
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  # Unoptimized, it checks this project within seconds; optimized, it builds for three times as long.
  if ! CARGO_TARGET_DIR="$build" CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 \
    cargo install --quiet --locked --debug --no-default-features --root "$cache" "cargo-deny@$version"; then
    echo "NOT CHECKED: licences, bans and sources of dependencies: cargo-deny $version cannot be built here" >&2
    exit 0
  fi
fi

# What it reads is there beforehand, so that nothing but the database of advisories is asked of a network.
cargo fetch --locked --quiet
"$deny" --locked --offline --log-level error check --hide-inclusion-graph licenses bans sources

# Fetched by git; without a network it would wait for a resolver.
if timeout 60 "$deny" --locked --log-level off fetch db >/dev/null 2>&1; then
  "$deny" --locked --offline --log-level error check --hide-inclusion-graph advisories
else
  echo "NOT CHECKED: known vulnerabilities of dependencies: RustSec's database (github.com) cannot be fetched here" >&2
fi
