#!/usr/bin/env bash
# Builds every suite, then runs them three at a time: most of them wait for scrapes, looks and deadlines, and leave the cores to others.
# The library's own tests come first, alone. `cargo test` runs the same ones after each other. What a suite said is shown when it ends, in
# full where it failed; all of them run, whichever fails.
#
#   SUITES_AT_ONCE   how many run at a time; 3 unless told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One suite. Runs in a shell of its own, so that it can be one of several.
if [[ ${1:-} == --one ]]; then
    name=$(basename "$2" | sed 's/-[0-9a-f]*$//')
    log=$3/$name.log
    begun=$SECONDS
    if "$2" >"$log" 2>&1; then
        grep -E '^SKIPPED|has been running for over' "$log" || true
        echo "== $name: $(grep '^test result' "$log" | tail -1 | cut -d. -f2- | cut -c2-) ($((SECONDS - begun)) s)"
    else
        echo "== $name FAILED ($((SECONDS - begun)) s)"
        cat "$log"
        exit 1
    fi
    exit 0
fi

built=$(mktemp)
logs=$(mktemp -d)
trap 'rm -rf "$built" "$logs"' EXIT
if ! cargo test --locked --no-run 2>"$built"; then
    cat "$built" >&2
    exit 101
fi
mapfile -t suites < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$built")
((${#suites[@]} > 30)) || { echo "the suites were not found in cargo's words" >&2; cat "$built" >&2; exit 101; }
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
# The longest first, so that none is left to run alone at the end.
ordered=$(for suite in "${suites[@]}"; do echo "$(grep -n "^$(basename "$suite" | sed 's/-[0-9a-f]*$//')$" tests/order.txt | cut -d: -f1 || true) $suite"; done |
    awk '{ if (NF == 1) print 999, $1; else print }' | sort -n | cut -d' ' -f2)
failed=0
# The library's own tests compute, and some of them have a look's few seconds for it: they have the cores to themselves.
alone=$(sed -n 's/^ *Executable unittests src\/lib.rs (\(.*\))$/\1/p' "$built")
"$0" --one "$alone" "$logs" || failed=1
ordered=$(grep -vxF "$alone" <<<"$ordered")
xargs -P "${SUITES_AT_ONCE:-3}" -I{} "$0" --one {} "$logs" <<<"$ordered" || failed=1
cargo test --locked --doc --quiet || failed=1
((failed == 0)) || { echo "some suites failed: see above" >&2; exit 1; }
