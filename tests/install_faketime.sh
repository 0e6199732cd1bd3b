#!/bin/sh
# Debian's libfaketime for the clock jumps of `make proof NAME=exhaustion`. Does nothing where it is there already or where
# apt-get cannot be used; the proof then says what is missing.
set -u

for found in /usr/lib/*/faketime/libfaketimeMT.so.1; do
    [ -e "$found" ] && exit 0
done
command -v apt-get >/dev/null 2>&1 || exit 0
[ "$(id -u)" -eq 0 ] || exit 0
apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60 install --yes \
    --no-install-recommends libfaketime >/dev/null 2>&1
exit 0
