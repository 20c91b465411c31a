#!/bin/sh
# Run the tests in two processes: sh scripts/run_tests.sh [flags of pytest, such as -n 4]. Sets up what is missing first.
# Environment: PYTHON (a Python to use as it is).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
REQUIREMENTS=requirements-test.txt
. scripts/env.sh
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
