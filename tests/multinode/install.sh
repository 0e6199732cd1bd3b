#!/bin/sh
# What tests/multinode needs beside root: `ip`, for network namespaces.
set -eu
command -v ip > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2; }
