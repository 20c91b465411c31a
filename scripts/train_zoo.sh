#!/bin/sh
# Train the weights that zoo/ ships: the four stages on any folder of photos, within a given time.
# Usage: sh scripts/train_zoo.sh [small|full] [--minutes 90] [flags of main.py, for every stage]
#   small: 8 blocks, for CPUs; full: the paper's 27 blocks, for a GPU. For example:
#   sh scripts/train_zoo.sh small --dir_data datasets --data_train DIV2K
# A second run goes on where the first one stopped. Environment: PYTHON (found or set up by itself).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" tools/maintain/train_zoo.py "$@"
