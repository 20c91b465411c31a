#!/bin/sh
# Run the tests in two processes: sh scripts/run_tests.sh [flags of pytest, such as -n 4]. Installs missing packages.
# Environment: PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
REQUIREMENTS=requirements-test.txt
. scripts/env.sh
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
