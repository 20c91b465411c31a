"""Several ranks train like one process, stop and resume together, and all end when one is lost."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from ranks import example, finish, gradients, hasty, launch, mistaken, printed, train
from survival import alive, check_equal, wait_for

from store.tensors import load_weights

ROOT = Path(__file__).resolve().parent.parent
MODELS = [('mrda', 2), ('mrda', 3), ('mrda', 4), ('kdsr', 3), ('kdsr', 4)]


def make(folder, *names):
    for name in names:
        (folder / name).mkdir()
    return [folder / name for name in names]


def test_ranks_equal_one_process(library, tmp_path):
    flags = ['--dir_data', str(library), '--stage', '1', '--test_every', '10', '--epochs_sr', '1']
    found = []
    for size, folder in zip((1, 2, 4), make(tmp_path, 'one', 'two', 'four'), strict=True):
        assert finish(folder, size, train, *flags) == [0] * size, printed(folder)
        found.append(load_weights(folder / 'experiment/stage1_x2_bicubic_iso/model/model_last.pt'))
        assert all(not printed(folder, rank) for rank in range(1, size))       # only rank 0 prints
    for several in found[1:]:
        assert several.keys() == found[0].keys()
        assert all(torch.allclose(several[name], found[0][name], atol=1e-6) for name in several)
    assert finish(tmp_path / 'two', 1, train, *flags, '--epochs_sr', '2') == [0]
    assert 'processes was 2, is now 1' in printed(tmp_path / 'two')


@pytest.mark.parametrize('model, stage', MODELS)
def test_gradient_is_the_mean_over_ranks(tmp_path, model, stage):
    assert finish(tmp_path, 2, gradients, stage, model) == [0, 0], printed(tmp_path)
    built, hr, seeds = example(stage, model)
    built.begin_epoch(2)
    for part in slice(0, 2), slice(2, 4):
        (built(hr[part], {hr.device: seeds[part.start]}, 'sr')['loss'].mean() / 2).backward()
    expected = [p.grad for p in built.trained.parameters() if p.requires_grad]
    torch.testing.assert_close(torch.load(tmp_path / 'grads.pt', weights_only=True), expected)


@pytest.mark.slow
def test_all_stages_stopped_and_resumed_equal_an_uninterrupted_run(library, tmp_path):
    flags = ['--dir_data', str(library), '--stage', 'all', '--epochs_encoder', '1', '--test_every', '6']
    whole, parts = make(tmp_path, 'whole', 'parts')
    assert finish(whole, 2, train, *flags) == [0, 0], printed(whole)
    assert not re.search('warning', printed(whole) + printed(whole, 1), re.I)  # such as torch's of unused parameters
    for stage, epoch in (1, 1), (4, 2):  # whose first epoch trains the encoder only
        processes = launch(parts, 2, train, *flags)
        log = parts / f'experiment/stage{stage}_x2_bicubic_iso/log.txt'
        wait_for(lambda log=log, epoch=epoch: log.exists() and log.read_text().count('[2/6]') == epoch, 240)
        os.kill(processes[1].pid, signal.SIGTERM)                              # only one rank receives it
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [75, 75], printed(parts)
    assert finish(parts, 2, train, *flags) == [0, 0], printed(parts)
    check_equal(parts, whole)


def test_wrong_option_is_one_line_by_one_rank(library, tmp_path):
    odd, weights = make(tmp_path, 'odd', 'weights')
    flags = ['--dir_data', str(library), '--stage', '1']
    assert finish(odd, 2, train, *flags, '--batch_size', '5') == [2, 2]
    assert finish(weights, 2, train, *flags, '--pre_train', 'missing') == [2, 2]
    for folder, text in (odd, 'split evenly among 2 processes; give a multiple of 2'), (weights, 'no such file'):
        said = printed(folder, 0) + printed(folder, 1)
        assert said.count('error: ') == 1 and text in said and 'Traceback' not in said


def test_error_of_one_rank_is_printed_once(library, tmp_path):
    assert finish(tmp_path, 2, mistaken, '--dir_data', str(library), '--stage', '1') == [2, 2]
    said = printed(tmp_path, 0) + printed(tmp_path, 1)
    assert said.count('error: ') == 1 and 'error: a mistake that one rank sees\n' in said


@pytest.mark.parametrize('missing', [0, 1], ids=['a rank that hangs', 'a rank that never came'])
def test_stopped_rank_does_not_wait(library, tmp_path, missing):
    flags = ['--dir_data', str(library), '--stage', '1', '--test_every', '100000']
    processes = launch(tmp_path, 2 + missing, hasty, *flags, missing=missing)
    hanging, waiting = processes
    try:
        if missing:
            wait_for(lambda: (tmp_path / 'meets').exists())
        else:
            wait_for(lambda: any('[3/' in log.read_text() for log in tmp_path.rglob('log.txt')))
        os.kill(hanging.pid, signal.SIGSTOP)
        time.sleep(0.3)  # until the other rank waits
        os.kill(waiting.pid, signal.SIGTERM)
        waiting.join(5)
        assert waiting.exitcode == 75, printed(tmp_path, 1)
        # Some versions of PyTorch handle the signal while connecting: then nothing is printed.
        said = 'error: rank 1: stopped while waiting for another rank\n'
        assert printed(tmp_path, 1).endswith(said) or (missing and not printed(tmp_path, 1))
    finally:
        for process in processes:
            process.kill()


def test_only_rank0_runs_the_tests(library, tmp_path):
    flags = ['--dir_data', str(library), '--stage', '1', '--epochs_sr', '1']
    assert finish(tmp_path, 2, train, *flags) == [0, 0]
    assert finish(tmp_path, 2, train, *flags, '--test_only') == [0, 0]
    assert printed(tmp_path, 0).count('Set2 PSNR') >= 1 and not printed(tmp_path, 1)


def torchrun(folder, library, *flags):
    """torchrun itself, in a session of its own; its output goes to the file `said`."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
               '--', str(ROOT / 'main.py'), *SMALL, '--dir_data', str(library), '--stage', '1', '--lr_sr', '1e-3',
               *flags]
    with open(folder / 'said', 'a', encoding='utf-8') as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True,
                                env=os.environ | {'XDG_CACHE_HOME': 'cache', 'OMP_NUM_THREADS': '1'})


def ranks(launcher):
    """Process ids of the launcher's children."""
    return list(map(int, Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()))


def run_and_hit(folder, library, number, seconds, *flags, launching=False):
    """Send signal `number` to rank 1, or to the process that launched it, once some steps are done. All must be gone in
    `seconds`."""
    launcher = torchrun(folder, library, '--test_every', '100000', '--print_every', '5', '--save_every_min', '0.01',
                        *flags)
    members = []
    try:
        wait_for(lambda: list(folder.rglob('state_0_*.pt')))
        members = ranks(launcher)
        os.kill(launcher.pid if launching else members[-1], number)
        wait_for(lambda: not any(map(alive, (launcher.pid, *members))), seconds)
        launcher.wait(5)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
        for pid in members:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='reads /proc')
@pytest.mark.slow
def test_killed_rank_ends_all_ranks_and_the_run_resumes(library, tmp_path, monkeypatch):
    run_and_hit(tmp_path, library, signal.SIGKILL, 10)
    last = max(int(path.stem.split('_')[2]) for path in tmp_path.rglob('state_0_*.pt'))
    endings = 'error: rank 0 of 2 lost another rank|stopped while waiting|interrupted; the same command'
    assert re.search(endings, (tmp_path / 'said').read_text())
    # Rarely a thread of gloo aborts while Python ends a rank.
    (tmp_path / 'sitecustomize.py').write_text('import atexit, os\n'
                                               'if "RANK" in os.environ: atexit.register(print, "Python\'s own end")')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    again = torchrun(tmp_path, library, '--test_every', str(last + 5), '--epochs_sr', '1', '--accept_changes')
    assert again.wait(240) == 0, (tmp_path / 'said').read_text()
    assert 'Resuming after epoch 0 and' in (tmp_path / 'said').read_text()
    assert "Python's own end" not in (tmp_path / 'said').read_text()


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='reads /proc')
@pytest.mark.slow
def test_no_rank_outlives_torchrun(library, tmp_path):
    run_and_hit(tmp_path, library, signal.SIGKILL, 10, launching=True)
    said = (tmp_path / 'said').read_text()  # rank 0 may first notice that torchrun has ended, or rank 1
    assert 'interrupted; the same command resumes it' in said or 'the same command resumes from the last' in said


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='reads /proc')
@pytest.mark.slow
def test_silent_rank_ends_all_ranks(library, tmp_path, request):
    if not request.config.getoption('--sweep'):
        pytest.skip('takes 45 seconds: --sweep')
    run_and_hit(tmp_path, library, signal.SIGSTOP, 45, '--dist_timeout', '5')
    assert 'error: rank 0 of 2 lost another rank' in (tmp_path / 'said').read_text()
