#!/bin/sh
# Measure the product against the method written down plainly. Usage: sh scripts/benchmark.sh [cases] [--paper] [--help]
# Environment: PYTHON (found or set up by itself).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" -m benchmark "$@"
