#!/usr/bin/env bash
# Builds the test control plane once and prints the folder that holds it.
#
# KUBEBUILDER_ASSETS, where set, already names kube-apiserver, kube-controller-manager and kubectl (the convention of
# the field's envtest): nothing is built then. Else the binaries go to a cache outside the checkout, keyed by the
# module's sources, so that a fresh clone finds them again and a changed version is built anew. With
# FLIPBACK_ENVTEST_FIND_ONLY=1 nothing is built: the tests ask so, and skip what cannot run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=(kube-apiserver kube-controller-manager kubectl)

if [[ -n "${KUBEBUILDER_ASSETS:-}" ]]; then
  for tool in "${tools[@]}"; do
    if [[ ! -x "$KUBEBUILDER_ASSETS/$tool" ]]; then
      echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no executable $tool" >&2
      exit 1
    fi
  done
  echo "$KUBEBUILDER_ASSETS"
  exit 0
fi

version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3; exit } $1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' "$here/go.mod")
recipe=1 # raise when the same sources must be built in another way
key=$(cat "$here/go.mod" "$here/go.sum" - <<<"$recipe" | sha256sum | cut -c1-12)
assets="${XDG_CACHE_HOME:-$HOME/.cache}/flipback/envtest/$version-$key"
if [[ -e "$assets/complete" ]]; then
  echo "$assets"
  exit 0
fi

if [[ -n "${FLIPBACK_ENVTEST_FIND_ONLY:-}" ]]; then
  echo "the Kubernetes $version test binaries are not built" >&2
  exit 1
fi

if ! command -v go >/dev/null; then
  echo "the tests' control plane is built from source with Go, 1.21 or newer, which is not on the PATH: https://go.dev/dl" >&2
  exit 1
fi

IFS=. read -r major minor _ <<<"${version#v}"
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean"
echo "building Kubernetes $version for the tests, once (about 10 minutes on 2 cores) ..." >&2
mkdir -p "$assets"
cd "$here"
for tool in "${tools[@]}"; do
  CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$assets/.$tool.part" "k8s.io/kubernetes/cmd/$tool" >&2
  mv "$assets/.$tool.part" "$assets/$tool"
done
touch "$assets/complete"
echo "$assets"
