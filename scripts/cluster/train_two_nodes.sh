#!/bin/sh
# Train one stage on several machines, with a process for each GPU. Run it on each machine, with the same repository and
# the same images; only machine 0 writes the run folder.
# Usage: on machine 0: NODE_RANK=0 MASTER_ADDR=<its address> sh scripts/cluster/train_two_nodes.sh --stage 3 [flags of main.py]
#        on machine 1: NODE_RANK=1 MASTER_ADDR=<the same>    sh scripts/cluster/train_two_nodes.sh --stage 3 [the same flags]
# If a process is lost, all are restarted. If a machine is lost, stop the other (Ctrl-C) and start
# both again: the training resumes.
# Environment: NODE_RANK and MASTER_ADDR (needed), N_NODES (2), N_GPUS (GPUs of each machine, 1), MASTER_PORT (29500),
#   DIR_DATA (datasets, from the repository's root), PYTHON (found or set up automatically); if a machine has several
#   network interfaces, NCCL_SOCKET_IFNAME (on CPUs GLOO_SOCKET_IFNAME): the one that is connected to the others.
set -e
CDPATH='' cd -- "$(dirname -- "$0")/../.."
. scripts/env.sh
[ -n "$NODE_RANK" ] && [ -n "$MASTER_ADDR" ] || die "set NODE_RANK and MASTER_ADDR: see the head of $0"
# "--": otherwise torchrun takes flags of main.py that begin like its own, such as --sig.
exec "$PYTHON" -m torch.distributed.run --nnodes "${N_NODES:-2}" --nproc_per_node "$N_GPUS" \
    --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" --max_restarts 3 \
    -- main.py --dir_data "$DIR_DATA" "$@"
