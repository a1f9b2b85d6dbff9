#!/usr/bin/env bash
# Builds the S3 server of the tests once, as tests/envtest/build.sh does the control plane, and prints its path.
#
# FLIPBACK_S3_SERVER, where set, already names a versitygw: nothing is built then. Else the binary goes to a cache outside
# the checkout, keyed by the module's sources. With FLIPBACK_S3_FIND_ONLY=1 nothing is built: the tests ask so, and skip
# what cannot run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
package=github.com/versity/versitygw

if [[ -n "${FLIPBACK_S3_SERVER:-}" ]]; then
  if [[ ! -x "$FLIPBACK_S3_SERVER" ]]; then
    echo "FLIPBACK_S3_SERVER=$FLIPBACK_S3_SERVER is no executable" >&2
    exit 1
  fi
  echo "$FLIPBACK_S3_SERVER"
  exit 0
fi

version=$(awk -v package="$package" '$1 == package { print $2; exit } $1 == "require" && $2 == package { print $3; exit }' "$here/go.mod")
recipe=1 # raise when the same sources must be built in another way
key=$(cat "$here/go.mod" "$here/go.sum" - <<<"$recipe" | sha256sum | cut -c1-12)
server="${XDG_CACHE_HOME:-$HOME/.cache}/flipback/s3/$version-$key/versitygw"
if [[ -x "$server" ]]; then
  echo "$server"
  exit 0
fi

if [[ -n "${FLIPBACK_S3_FIND_ONLY:-}" ]]; then
  echo "the S3 server of the tests, versitygw $version, is not built" >&2
  exit 1
fi

if ! command -v go >/dev/null; then
  echo "the tests' S3 server is built from source with Go, 1.21 or newer, which is not on the PATH: https://go.dev/dl" >&2
  exit 1
fi

echo "building versitygw $version for the tests, once (about 2 minutes on 2 cores) ..." >&2
mkdir -p "$(dirname "$server")"
cd "$here"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$server.part" "$package/cmd/versitygw" >&2
mv "$server.part" "$server"
echo "$server"
