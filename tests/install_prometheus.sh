#!/bin/sh
# Debian's Prometheus and promtool; prints the directory with both.
set -eu
where=$(sh "$(dirname "$0")/unpack_debian.sh" prometheus usr/bin/promtool prometheus)
echo "$where/usr/bin"
