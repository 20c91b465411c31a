#!/bin/sh
# Train all four stages in miniature on photos of scikit-image, test the student, and upscale a photo.
# Usage: sh scripts/quickstart.sh    A second run resumes where the first one stopped; add --reset to start over.
# Environment: PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" tools/quickstart.py "$@"
