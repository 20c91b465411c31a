#!/bin/sh
# Stage 3 of KDSR, size M: train the teacher, on anisotropic blur with noise.
# Writes experiment/KDSRsMx4_anisonoise_stage3_x4_bicubic_aniso.
# Usage: sh scripts/main_anisonoise_KDSRsMx4_stage3.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (4), PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
N_GPUS=${N_GPUS:-4}
. scripts/env.sh
exec "$PYTHON" main.py --stage 3 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --blur_type aniso_gaussian \
    --noise 25.0 \
    --lambda_min 0.2 \
    --lambda_max 4.0 \
    --lambda_1 4.0 \
    --lambda_2 1.5 \
    --theta 120 \
    --epochs_encoder 0 \
    --epochs_sr 500 \
    --st_save_epoch 495 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 64 \
    --n_blocks 53 \
    --n_resblocks 9 \
    --batch_size 64 \
    --patch_size 64 \
    --save KDSRsMx4_anisonoise_stage3 \
    "$@"
