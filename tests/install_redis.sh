#!/bin/sh
# Debian's Redis with the two libraries that a bare system lacks; prints the root of what was unpacked.
set -eu
sh "$(dirname "$0")/unpack_debian.sh" redis usr/bin/redis-server redis-server redis-tools libjemalloc2 liblzf1
