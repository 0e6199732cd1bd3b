#!/bin/sh
# Debian's Chromium for the tests of the web pages. Silent, and does nothing where it is there already; says what is missing
# where apt-get cannot be used (no Debian, not root, no network).
set -u

command -v chromium >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]; then
    apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o DPkg::Lock::Timeout=60 \
        install --yes --no-install-recommends chromium >/dev/null 2>&1
fi
command -v chromium >/dev/null 2>&1 && exit 0
echo "no chromium here, and apt-get could not install it; install Chromium so that the command 'chromium' starts it" >&2
exit 1
