#!/bin/sh
# Test the student of stage 4 on isotropic blur without noise. Writes experiment/test_iso_stage4_x4_bicubic_iso.
# Usage: sh scripts/test_iso_stage4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), PRE_TRAIN_ST (the student's weights), N_GPUS (1), PYTHON.
set -e
CDPATH='' cd -- "$(dirname -- "$0")/.."
. scripts/env.sh
PRE_TRAIN_ST=${PRE_TRAIN_ST:-experiment/stage4_x4_bicubic_iso/model/model_ST_last.pt}
exec "$PYTHON" main.py --stage 4 --test_only \
    --dir_data "$DIR_DATA" \
    --model blindsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --blur_type iso_gaussian \
    --noise 0.0 \
    --sig 3.6 \
    --data_test Set14 \
    --n_feats 128 \
    --save_results False \
    --save test_iso_stage4 \
    "$@"
