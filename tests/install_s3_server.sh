#!/bin/sh
# An S3 server for the tests of storage by URL: moto, in an environment of its own, because its botocore does not accept
# the versions that this project pins. Silent; where it cannot be installed the S3 half of the tests is skipped, and
# pytest says so.
set -u

cd "$(dirname "$0")/.." || exit 0
[ -x .venv-s3/bin/moto_server ] && exit 0
python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -m venv .venv-s3 && .venv-s3/bin/python -m pip install --quiet 'moto[server]==5.2.5' >/dev/null 2>&1
exit 0
