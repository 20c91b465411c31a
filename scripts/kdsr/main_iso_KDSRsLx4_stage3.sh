#!/bin/sh
# Stage 3 of KDSR, size L: train the teacher, on isotropic blur without noise.
# Writes experiment/KDSRsLx4_iso_stage3_x4_bicubic_iso.
# Usage: sh scripts/kdsr/main_iso_KDSRsLx4_stage3.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (4), PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
N_GPUS=${N_GPUS:-4}
. scripts/env.sh
exec "$PYTHON" main.py --stage 3 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --blur_type iso_gaussian \
    --noise 0.0 \
    --sig_min 0.2 \
    --sig_max 4.0 \
    --sig 3.6 \
    --epochs_encoder 0 \
    --epochs_sr 500 \
    --st_save_epoch 495 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 128 \
    --n_blocks 28 \
    --n_resblocks 5 \
    --batch_size 64 \
    --patch_size 64 \
    --save KDSRsLx4_iso_stage3 \
    "$@"
