#!/bin/sh
# Upscale photos by upscale.py, with a Python that has all packages.
# Usage: sh scripts/upscale.sh photo.jpg photos/ [-o FOLDER] [flags of upscale.py]    Paths are from the current folder.
# Environment: PYTHON (found or set up automatically).
set -e
here=$PWD
CDPATH='' cd -- "$(dirname -- "$0")/.."
root=$PWD
. scripts/env.sh
case $PYTHON in .venv/*) PYTHON=$root/$PYTHON ;; esac
cd -- "$here"
exec "$PYTHON" "$root/upscale.py" "$@"
