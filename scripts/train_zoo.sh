#!/bin/sh
# Train the weights of zoo/: the four stages on any folder of HR images, within a given time.
# Usage: sh scripts/train_zoo.sh [small|grown|full] [--minutes 90] [flags of main.py, for every phase]
#        sh scripts/train_zoo.sh status NAME [--measure]
#   small: 8 blocks, for CPUs; grown: 27 blocks, from 8, for CPUs and many hours; full: 27 blocks, for a GPU. Example:
#   sh scripts/train_zoo.sh small --dir_data datasets --data_train DIV2K
# A second run resumes the first one. Environment: PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" tools/maintain/train_zoo.py "$@"
