#!/bin/sh
# Stage 4 of KDSR, size M: distil the teacher into the student, on anisotropic blur with noise.
# Writes experiment/KDSRsMx4_anisonoise_stage4_x4_bicubic_aniso.
# Usage: sh scripts/main_anisonoise_KDSRsMx4_stage4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (4), PYTHON (found or set up automatically),
#   PRE_TRAIN_TA, PRE_TRAIN_ST ('.': the weights of the earlier stages' runs, found automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
N_GPUS=${N_GPUS:-4}
. scripts/env.sh
# For example experiment/KDSRsMx4_anisonoise_stage3_x4_bicubic_aniso/model/model_TA_last.pt
PRE_TRAIN_TA=${PRE_TRAIN_TA:-.}
PRE_TRAIN_ST=${PRE_TRAIN_ST:-.}
exec "$PYTHON" main.py --stage 4 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_TA "$PRE_TRAIN_TA" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --blur_type aniso_gaussian \
    --noise 25.0 \
    --lambda_min 0.2 \
    --lambda_max 4.0 \
    --lambda_1 4.0 \
    --lambda_2 1.5 \
    --theta 120 \
    --epochs_encoder 100 \
    --lr_encoder 2e-4 \
    --epochs_sr 500 \
    --lr_decay_sr 125 \
    --st_save_epoch 495 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 64 \
    --n_blocks 53 \
    --n_resblocks 9 \
    --batch_size 64 \
    --patch_size 64 \
    --save KDSRsMx4_anisonoise_stage4 \
    "$@"
