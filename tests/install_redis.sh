#!/bin/sh
# Debian's Redis with the two libraries that a bare system lacks, unpacked into the cache and started by nobody: the
# package's own daemon is not installed. Prints the root of what was unpacked; needs apt-get and dpkg-deb, not root.
set -eu

where="${XDG_CACHE_HOME:-$HOME/.cache}/eda/redis"
if [ ! -x "$where/usr/bin/redis-server" ]; then
    command -v apt-get >/dev/null 2>&1 || { echo "no Redis in $where, and no apt-get to fetch Debian's" >&2; exit 1; }
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    packages="redis-server redis-tools libjemalloc2 liblzf1"
    (
        cd "$scratch"
        # shellcheck disable=SC2086
        apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download $packages >/dev/null 2>&1 || {
            apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1 || true
            apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download $packages >/dev/null
        }
    )
    mkdir -p "$where"
    for package in "$scratch"/*.deb; do
        dpkg-deb -x "$package" "$where"
    done
fi
echo "$where"
