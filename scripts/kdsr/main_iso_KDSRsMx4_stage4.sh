#!/bin/sh
# Stage 4 of KDSR, size M: distil the teacher into the student, on isotropic blur without noise.
# Writes experiment/KDSRsMx4_iso_stage4_x4_bicubic_iso.
# Usage: sh scripts/kdsr/main_iso_KDSRsMx4_stage4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (4), PYTHON (found or set up automatically),
#   PRE_TRAIN_TA, PRE_TRAIN_ST ('.': the weights of the earlier stages' runs, found automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
N_GPUS=${N_GPUS:-4}
. scripts/env.sh
# For example experiment/KDSRsMx4_iso_stage3_x4_bicubic_iso/model/model_TA_last.pt
PRE_TRAIN_TA=${PRE_TRAIN_TA:-.}
PRE_TRAIN_ST=${PRE_TRAIN_ST:-.}
exec "$PYTHON" main.py --stage 4 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_TA "$PRE_TRAIN_TA" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --blur_type iso_gaussian \
    --noise 0.0 \
    --sig_min 0.2 \
    --sig_max 4.0 \
    --sig 3.6 \
    --epochs_encoder 0 \
    --lr_encoder 2e-4 \
    --epochs_sr 600 \
    --lr_decay_sr 150 \
    --st_save_epoch 0 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 64 \
    --n_blocks 53 \
    --n_resblocks 9 \
    --batch_size 64 \
    --patch_size 64 \
    --save KDSRsMx4_iso_stage4 \
    "$@"
