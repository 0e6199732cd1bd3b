#!/bin/sh
# What the proofs on several machines need beside root: `ip`, for network namespaces.
set -eu
command -v ip > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2; }
