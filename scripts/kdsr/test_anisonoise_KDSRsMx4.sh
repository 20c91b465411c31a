#!/bin/sh
# Test KDSR's student of size M on anisotropic blur with noise.
# Writes experiment/test_anisonoise_KDSRsMx4_x4_bicubic_aniso.
# Usage: sh scripts/kdsr/test_anisonoise_KDSRsMx4.sh [flags of main.py, which override those below]
# Environment: DIR_DATA (datasets, from the repository's root), PRE_TRAIN_ST (the student's weights), N_GPUS (1),
#   PYTHON (found or set up automatically).
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
. scripts/env.sh
PRE_TRAIN_ST=${PRE_TRAIN_ST:-experiment/KDSRsMx4_anisonoise_stage4_x4_bicubic_aniso/model/model_ST_last.pt}
exec "$PYTHON" main.py --stage 4 --test_only \
    --dir_data "$DIR_DATA" \
    --model kdsr \
    --scale 4 \
    --n_GPUs "$N_GPUS" \
    --pre_train_ST "$PRE_TRAIN_ST" \
    --blur_type aniso_gaussian \
    --noise 10.0 \
    --lambda_1 3.5 \
    --lambda_2 1.5 \
    --theta 30 \
    --data_test Set14 \
    --n_feats 64 \
    --n_blocks 53 \
    --n_resblocks 9 \
    --save_results False \
    --save test_anisonoise_KDSRsMx4 \
    "$@"
