#!/bin/sh
# Measure and check everything on a GPU within 30 minutes: sh scripts/first_gpu.sh [--part NAME] [--quick] [--help]
# Environment: PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" tools/maintain/first_gpu.py "$@"
