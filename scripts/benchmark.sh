#!/bin/sh
# Compare speed and memory with a direct implementation. Usage: sh scripts/benchmark.sh [cases] [--paper] [--help]
# Environment: PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" -m benchmark "$@"
