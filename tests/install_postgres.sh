#!/bin/sh
# Debian's PostgreSQL for the store's tests. Silent, and does nothing where it is there already or where apt-get cannot be
# used (no Debian, not root, no network): the PostgreSQL half of the tests is skipped then, and pytest says so.
set -u

command -v postgres >/dev/null 2>&1 && exit 0
for found in /usr/lib/postgresql/*/bin/postgres; do
    [ -x "$found" ] && exit 0
done
command -v apt-get >/dev/null 2>&1 || exit 0
[ "$(id -u)" -eq 0 ] || exit 0

install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
        -o DPkg::Lock::Timeout=60 install --yes --no-install-recommends "$@" >/dev/null 2>&1
}

# The common part first, told not to make and start a server of the machine's own: the tests start theirs.
apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update >/dev/null 2>&1
install postgresql-common || exit 0
config=/etc/postgresql-common/createcluster.conf
[ -f "$config" ] && sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' "$config"
install postgresql
exit 0
