#!/bin/sh
# Stage 4 of KDSR, real-world size: distil the teacher into the student, its encoder alone for the first tenth.
# Writes experiment/KDSRsRx4_real_stage4_x4_second_order.
# Usage: sh scripts/kdsr/main_real_KDSRsRx4_stage4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (8), PYTHON (found or set up automatically),
#   PRE_TRAIN_TA, PRE_TRAIN_ST ('.': the weights of the earlier stage's run, found automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
N_GPUS=${N_GPUS:-8}
. scripts/env.sh
# For example experiment/KDSRsRx4_real_stage3_x4_second_order/model/model_TA_last.pt
PRE_TRAIN_TA=${PRE_TRAIN_TA:-.}
PRE_TRAIN_ST=${PRE_TRAIN_ST:-.}
exec "$PYTHON" main.py --stage 4 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_TA "$PRE_TRAIN_TA" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --degradation second_order \
    --degradation_per sample \
    --lr_sr 2e-4 \
    --lr_encoder 2e-4 \
    --lr_decay_encoder 60 \
    --epochs_encoder 100 \
    --beta2 0.99 \
    --ema 0.999 \
    --epochs_sr 1000 \
    --lr_decay_sr 600 \
    --st_save_epoch 1000 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 128 \
    --n_blocks 42 \
    --n_resblocks 6 \
    --batch_size 72 \
    --patch_size 64 \
    --save KDSRsRx4_real_stage4 \
    "$@"
