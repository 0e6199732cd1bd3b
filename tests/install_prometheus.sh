#!/bin/sh
# Debian's Prometheus and promtool, unpacked into the cache and started by nobody: the package's own daemon is not
# installed. Prints the directory with both; needs apt-get and dpkg-deb, not root.
set -eu

where="${XDG_CACHE_HOME:-$HOME/.cache}/eda/prometheus"
if [ ! -x "$where/usr/bin/promtool" ]; then
    command -v apt-get >/dev/null 2>&1 || { echo "no Prometheus in $where, and no apt-get to fetch Debian's" >&2; exit 1; }
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    (
        cd "$scratch"
        apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download prometheus >/dev/null 2>&1 || {
            apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1 || true
            apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download prometheus >/dev/null
        }
    )
    mkdir -p "$where"
    dpkg-deb -x "$scratch"/prometheus_*.deb "$where"
fi
echo "$where/usr/bin"
