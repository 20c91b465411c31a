#!/bin/sh
# Stage 4: distil the teacher into the student, which needs no adaptation. Writes experiment/stage4_x4_bicubic_iso.
# Usage: sh scripts/main_stage4.sh [aniso] [flags of main.py, which override those below]
#   aniso: anisotropic blur and noise; writes experiment/anisonoise_stage4_x4_bicubic_aniso
# Environment: DIR_DATA (datasets, from the repository's root), N_GPUS (1), PYTHON (found or set up automatically),
#   PRE_TRAIN_META, PRE_TRAIN_TA, PRE_TRAIN_ST ('.': the weights of the earlier stages' runs, found automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
PRE_TRAIN_META=${PRE_TRAIN_META:-.}  # for example experiment/stage2_x4_bicubic_iso/model/model_meta_last.pt
PRE_TRAIN_TA=${PRE_TRAIN_TA:-.}  # for example experiment/stage3_x4_bicubic_iso/model/model_TA_last.pt
PRE_TRAIN_ST=${PRE_TRAIN_ST:-.}  # for example experiment/stage3_x4_bicubic_iso/model/model_TA_last.pt
if [ "$1" = aniso ]; then
    shift
    set -- --save anisonoise_stage4 --blur_type aniso_gaussian --noise 25.0 --lambda_min 0.2 --lambda_max 4.0 "$@"
else
    set -- --save stage4 --blur_type iso_gaussian --noise 0.0 --sig_min 0.2 --sig_max 4.0 --sig 2.6 "$@"
fi
exec "$PYTHON" main.py --stage 4 \
    --dir_data "$DIR_DATA" \
    --model blindsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_meta "$PRE_TRAIN_META" \
    --pre_train_TA "$PRE_TRAIN_TA" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --epochs_encoder 100 \
    --lr_encoder 1e-4 \
    --epochs_sr 500 \
    --test_every 800 \
    --print_every 250 \
    --st_save_epoch 480 \
    --lr_decay_sr 125 \
    --data_train DF2K \
    --data_test Set5 \
    --n_feats 128 \
    --batch_size 16 \
    --patch_size 64 \
    --task_iter 5 \
    --test_iter 5 \
    --meta_batch_size 5 \
    --lr_sr 1e-4 \
    --lr_task 1e-2 \
    "$@"
