#!/bin/sh
#SBATCH --job-name=mrda
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# Train one stage under Slurm, with a process for each GPU of each node. Slurm signals the training two minutes before its
# time limit; it saves and stops, and the same job submitted again resumes.
# Usage, from the repository's root: sbatch scripts/cluster/train_slurm.sh --stage 3 [flags of main.py]
# Environment: N_GPUS (GPUs of each node; those of the job), MASTER_PORT (29500), DIR_DATA (datasets, from the
#   repository's root), PYTHON (found or set up automatically).
set -e
cd "${SLURM_SUBMIT_DIR:-.}"  # Slurm runs a copy of this file from elsewhere
N_GPUS=${N_GPUS:-${SLURM_GPUS_ON_NODE:-4}}
. scripts/env.sh
[ -n "$SLURM_JOB_NODELIST" ] || die "no Slurm job: start it by sbatch scripts/cluster/train_slurm.sh --stage 3"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Since 22.05 srun does not inherit the CPUs per task from the job; without this, all processes of a node share one CPU.
# "--": otherwise torchrun takes flags of main.py that begin like its own, such as --sig.
exec srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task "$SLURM_CPUS_PER_TASK"} \
    "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "$N_GPUS" \
    --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv_id "$SLURM_JOB_ID" \
    -- main.py --dir_data "$DIR_DATA" "$@"
