#!/bin/sh
# Stage 5 of KDSR, real-world size: fine-tune the student against a discriminator (KDSR-GAN).
# Writes experiment/KDSRsRx4_real_stage5_x4_second_order.
# Usage: sh scripts/kdsr/main_real_KDSRsRx4_stage5.sh [flags of main.py, which override those below]
#   --sharpen_hr: compare with the sharpened ground truth, as the published V2.
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (8), PYTHON (found or set up automatically),
#   PRE_TRAIN_TA, PRE_TRAIN_ST ('.': the weights of the earlier stages' runs, found automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
N_GPUS=${N_GPUS:-8}
. scripts/env.sh
# For example experiment/KDSRsRx4_real_stage4_x4_second_order/model/model_ST_last.pt
PRE_TRAIN_TA=${PRE_TRAIN_TA:-.}
PRE_TRAIN_ST=${PRE_TRAIN_ST:-.}
exec "$PYTHON" main.py --stage 5 \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_TA "$PRE_TRAIN_TA" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --degradation second_order \
    --degradation_per sample \
    --loss '1*L1+1*Perceptual' \
    --beta2 0.99 \
    --ema 0.999 \
    --epochs_sr 400 \
    --lr_decay_sr 401 \
    --st_save_epoch 400 \
    --data_train DF2K \
    --data_test Set14 \
    --n_feats 128 \
    --n_blocks 42 \
    --n_resblocks 6 \
    --batch_size 72 \
    --patch_size 64 \
    --save KDSRsRx4_real_stage5 \
    "$@"
