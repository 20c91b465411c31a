"""Replacements of Slurm's scontrol and srun for scripts/cluster/train_slurm.sh, with all nodes on this machine."""
import argparse
import os
import re
import signal
import subprocess
import sys


def hostnames(nodelist):
    """'a[08-09,12],b' → ['a08', 'a09', 'a12', 'b']."""
    names = []
    for stem, ranges in re.findall(r'([^,\[]+)(?:\[([^\]]+)\])?', nodelist):
        for part in ranges.split(',') if ranges else ():
            first, _, last = part.partition('-')
            names += [f'{stem}{number:0{len(first)}}' for number in range(int(first), int(last or first) + 1)]
        if not ranges:
            names.append(stem)
    return names


def srun(arguments):
    """Run the command once for each node, and pass signals on. Returns the highest exit status."""
    parser = argparse.ArgumentParser('srun', allow_abbrev=False)
    parser.add_argument('--cpus-per-task', type=int, required=True)  # srun's default is one CPU per task
    parser.add_argument('command', nargs=argparse.REMAINDER)
    command = parser.parse_args(arguments).command
    tasks = []
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
    for i, name in enumerate(hostnames(os.environ['SLURM_JOB_NODELIST'])):
        own = {'SLURM_PROCID': str(i), 'SLURM_NODEID': str(i), 'SLURM_LOCALID': '0', 'SLURMD_NODENAME': name}
        tasks.append(subprocess.Popen(command, env=os.environ | own))
    statuses = [task.wait() for task in tasks]
    return max(status if status >= 0 else 128 - status for status in statuses)


def put(folder):
    """Programs of these names into `folder`, for the PATH."""
    folder.mkdir()
    for name in 'scontrol', 'srun':
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        (folder / name).chmod(0o755)


if __name__ == '__main__':
    if sys.argv[1:4] == ['scontrol', 'show', 'hostnames']:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # like a C program under `head`
        print('\n'.join(hostnames(sys.argv[4])))
    else:
        sys.exit(srun(sys.argv[2:]))
