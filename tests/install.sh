#!/usr/bin/env bash
# Installs what the tests need of Debian's packages, where it is missing. Does nothing where all is there.
#
# The packages of etcd, Prometheus and Alertmanager start services, which a developer's machine did not ask for: while they are
# installed the machine's policy is to start nothing, and afterwards they are told not to start at boot either.
set -euo pipefail

declare -A package=(
  [etcd]=etcd-server
  [prometheus]=prometheus
  [promtool]=prometheus
  [chromium]=chromium
  [chromedriver]=chromium-driver
  [systemd-analyze]=systemd
  [prometheus-alertmanager]=prometheus-alertmanager
  [amtool]=prometheus-alertmanager
  [aiosmtpd]=python3-aiosmtpd
)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! command -v apt-get >/dev/null; then
  echo "the tests need these packages of Debian, or the programs in them: ${missing[*]}" >&2
  exit 1
fi
root=()
if [[ $EUID -ne 0 ]]; then
  root=(sudo)
fi

policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap '"${root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
  "${root[@]}" chmod 0755 "$policy"
fi
echo "installing ${missing[*]} ..." >&2
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
if [[ -d /run/systemd/system ]]; then
  for name in "${missing[@]}"; do
    case $name in
      etcd-server) "${root[@]}" systemctl disable --quiet etcd.service ;;
      prometheus) "${root[@]}" systemctl disable --quiet prometheus.service ;;
      prometheus-alertmanager) "${root[@]}" systemctl disable --quiet prometheus-alertmanager.service ;;
    esac
  done
fi
