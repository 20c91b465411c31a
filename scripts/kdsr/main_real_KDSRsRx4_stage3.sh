#!/bin/sh
# Stage 3 of KDSR, real-world size: train the teacher, on second-order degradation of each image.
# Writes experiment/KDSRsRx4_real_stage3_x4_second_order.
# Usage: sh scripts/kdsr/main_real_KDSRsRx4_stage3.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (8), PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
N_GPUS=${N_GPUS:-8}
. scripts/env.sh
exec "$PYTHON" main.py --stage 3 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --degradation second_order \
    --degradation_per sample \
    --beta2 0.99 \
    --ema 0.999 \
    --epochs_sr 1000 \
    --lr_decay_sr 1001 \
    --st_save_epoch 1000 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 128 \
    --n_blocks 42 \
    --n_resblocks 6 \
    --batch_size 72 \
    --patch_size 64 \
    --save KDSRsRx4_real_stage3 \
    "$@"
