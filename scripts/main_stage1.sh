#!/bin/sh
# Stage 1: pre-train the meta-learning network (MLN) on bicubic pairs. Writes experiment/stage1_x4_bicubic_iso.
# Usage: sh scripts/main_stage1.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (1), PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
exec "$PYTHON" main.py --stage 1 \
    --dir_data "$DIR_DATA" \
    --model blindsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --epochs_encoder 0 \
    --epochs_sr 600 \
    --test_every 1000 \
    --data_train DF2K \
    --data_test Set14 \
    --st_save_epoch 590 \
    --n_feats 128 \
    --batch_size 64 \
    --patch_size 64 \
    --save stage1 \
    "$@"
