"""scripts/cluster/train_slurm.sh trains on all nodes of a job, stops at Slurm's signal, resumes in the next job."""
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL
from ranks import free_port
from slurm import hostnames, put
from survival import wait_for

ROOT = Path(__file__).resolve().parent.parent
NODES = '127.0.0.[1-2]'  # names that resolve to this machine


def submit(folder, *flags, **environment):
    """Run the script as Slurm does: a copy in another folder, with the job described by environment variables."""
    spool = folder / 'spool'
    spool.mkdir(exist_ok=True)
    shutil.copy(ROOT / 'scripts/cluster/train_slurm.sh', spool / 'slurm_script')
    job = {'SLURM_SUBMIT_DIR': str(folder / 'repository'), 'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': NODES,
           'SLURM_NNODES': '2', 'SLURM_CPUS_PER_TASK': '3', 'SLURM_GPUS_ON_NODE': '1', 'PYTHON': sys.executable,
           'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}', 'MASTER_PORT': str(free_port())}
    with open(folder / 'said', 'a', encoding='utf-8') as said:
        return subprocess.Popen(['sh', spool / 'slurm_script', *flags], cwd=spool, stdout=said, stderr=said,
                                start_new_session=True, env=os.environ | job | environment)


@pytest.fixture
def job(tmp_path):
    """A folder with the repository and Slurm's programs."""
    put(tmp_path / 'bin')
    (tmp_path / 'repository').mkdir()
    for name in 'scripts', 'main.py':
        (tmp_path / 'repository' / name).symlink_to(ROOT / name)
    return tmp_path


def test_host_lists():
    assert hostnames('a[08-10,12],b') == ['a08', 'a09', 'a10', 'a12', 'b'] and hostnames('c1') == ['c1']


def test_how_torchrun_is_called(job):
    python = job / 'python'
    python.write_text('#!/bin/sh\necho "$SLURM_NODEID: $*"\n')
    python.chmod(0o755)
    assert submit(job, '--stage', '3', PYTHON=str(python), SLURM_GPUS_ON_NODE='8').wait(60) == 0
    calls = sorted((job / 'said').read_text().splitlines())
    assert [call.partition(' ')[0] for call in calls] == ['0:', '1:']
    for call in calls:
        assert '--nnodes 2 --nproc_per_node 8 ' in call and ' --rdzv_endpoint 127.0.0.1:' in call
        assert call.endswith(' -- main.py --dir_data datasets --stage 3')


@pytest.mark.slow
def test_next_job_resumes_a_stopped_one(library, job):
    flags = [*SMALL, '--dir_data', str(library), '--stage', '1', '--test_every', '40', '--epochs_sr', '1']
    log = job / 'repository/experiment/stage1_x2_bicubic_iso/log.txt'
    chosen = {'OMP_NUM_THREADS': '1', 'XDG_CACHE_HOME': 'cache'}
    try:
        for _ in range(3):  # a rank may first notice that the store of another node's torchrun has ended
            shutil.rmtree(log.parent, ignore_errors=True)
            running = submit(job, *flags, **chosen)
            wait_for(lambda r=running: r.poll() is not None or (log.exists() and '[2/40]' in log.read_text()), 240)
            running.terminate()
            assert running.wait(60) != 0
            said = (job / 'said').read_text()
            if 'interrupted' in said:
                break
            assert 'the same command resumes from the last' in said, said
        assert 'interrupted' in said
        running = submit(job, *flags, **chosen)
        assert running.wait(240) == 0, (job / 'said').read_text()
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert 'Resuming after epoch 0 and' in (job / 'said').read_text()
