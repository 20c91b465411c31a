#!/bin/sh
# A page to upscale photos in, in the browser: app.py with a Python that has all it needs.
# Usage: sh scripts/app.sh [flags of app.py, such as --port 7860]
# Environment: PYTHON (default: found, or set up in .venv).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
REQUIREMENTS=requirements-app.txt
. scripts/env.sh
exec "$PYTHON" app.py "$@"
