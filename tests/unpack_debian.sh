#!/bin/sh
# unpack_debian.sh NAME BINARY PACKAGE...: Debian's packages, unpacked into the cache under NAME unless BINARY is there
# already. Their daemons are not installed and started by nobody. Prints the root of what was unpacked; needs apt-get and
# dpkg-deb, not root.
set -eu

where="${XDG_CACHE_HOME:-$HOME/.cache}/eda/$1"
name=$1 binary=$2
shift 2
if [ ! -x "$where/$binary" ]; then
    command -v apt-get >/dev/null 2>&1 || { echo "no $name in $where, and no apt-get to fetch Debian's" >&2; exit 1; }
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    (
        cd "$scratch"
        apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download "$@" >/dev/null 2>&1 || {
            apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1 || true
            apt-get -qq -o Acquire::Retries=1 -o APT::Sandbox::User=root download "$@" >/dev/null
        }
    )
    mkdir -p "$where"
    for package in "$scratch"/*.deb; do
        dpkg-deb -x "$package" "$where"
    done
fi
echo "$where"
