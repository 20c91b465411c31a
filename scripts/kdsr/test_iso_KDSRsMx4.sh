#!/bin/sh
# Test KDSR's student of size M on isotropic blur without noise.
# Writes experiment/test_iso_KDSRsMx4_x4_bicubic_iso.
# Usage: sh scripts/kdsr/test_iso_KDSRsMx4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), PRE_TRAIN_ST (the student's weights), N_GPUS (1),
#   PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
. scripts/env.sh
PRE_TRAIN_ST=${PRE_TRAIN_ST:-experiment/KDSRsMx4_iso_stage4_x4_bicubic_iso/model/model_ST_last.pt}
exec "$PYTHON" main.py --stage 4 --test_only \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --blur_type iso_gaussian \
    --noise 0.0 \
    --sig 3.6 \
    --data_test Set5+Set14+B100+Urban100+MANGA109 \
    --n_feats 64 \
    --n_blocks 53 \
    --n_resblocks 9 \
    --save_results False \
    --save test_iso_KDSRsMx4 \
    "$@"
