"""Trainings in separate processes with kills and failing writes, and checks of what must hold afterwards."""
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import torch._dynamo  # otherwise imported by the optimiser in each process: 1.6 seconds
from conftest import SMALL

import main as program
import store.files
import trainer
from optim.update import make_optimizer
from store import checkpoint
from store.tensors import load_checkpoint, load_weights

CONTEXT = multiprocessing.get_context('forkserver')  # forks from a process that has imported torch and run nothing
CONTEXT.set_forkserver_preload(['survival'])


def start(folder, flags, point=None, fault='kill', broken=None):
    """A process that trains in `folder`; at write point number `point` (from 1) `fault` happens, 'kill' or an errno.
    broken: a name in BROKEN, a deliberately wrong way of saving."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(sys.path))  # needed by the fork server's preload
        forkserver.ensure_running()
    process = CONTEXT.Process(target=_train, args=(folder, flags, point, fault, broken))
    process.start()
    return process


def finish(*args, **more):
    """The exit status of start(*args); a negative signal number if it was killed."""
    process = start(*args, **more)
    process.join(120)
    return process.exitcode


def _train(folder, flags, point, fault, broken):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ['XDG_CACHE_HOME'] = 'cache'
    output = os.open('printed', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if broken:
        BROKEN[broken]()
    _note_commits()
    points = WritePoints(point, fault)
    status = program.main([*SMALL, *flags])
    Path('points').write_text(str(points.passed))
    sys.stdout.flush()
    os._exit(status)


def _note_commits():
    """Append to the file `commits` the checkpoints that have been saved."""
    save = checkpoint.save_checkpoint

    def noted(path, state):
        save(path, state)
        with open('commits', 'a', encoding='utf-8') as file:
            file.write(f'{path}\n')
    checkpoint.save_checkpoint = noted


class WritePoints:
    """Counts every write, fsync, chmod, rename and removal, and triggers the fault at the chosen one; a write is half
    done by then."""

    def __init__(self, wanted, fault):
        self.wanted, self.fault, self.passed = wanted, fault, 0
        os.fsync = lambda descriptor: None  # takes most of the time, and matters for power failures only
        for owner, name in (os, 'fsync'), (os, 'chmod'), (os, 'replace'), (Path, 'unlink'):
            setattr(owner, name, self._guarded(getattr(owner, name)))
        temporary = tempfile.NamedTemporaryFile

        def opened(*args, **more):
            file = temporary(*args, **more)
            write = file.write
            file.write = self._guarded(write, lambda data: (write(bytes(data)[:len(data) // 2]), file.flush()))
            return file
        store.files.tempfile.NamedTemporaryFile = opened

    def _guarded(self, call, half=lambda *args: None):
        def guarded(*args, **more):
            self.passed += 1
            if self.passed == self.wanted:
                half(*args)
                if self.fault == 'kill':
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(self.fault, os.strerror(self.fault))
            return call(*args, **more)
        return guarded


# ---------------------------------------------------------------- wrong ways of saving

def _not_atomic():
    def write(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'wb') as file:
            for half in bytes(data)[:len(data) // 2], bytes(data)[len(data) // 2:]:
                file.write(half)
                file.flush()
                os.fsync(file.fileno())
    store.files.write_bytes = write


def _deletes_first():
    save = checkpoint.save_checkpoint

    def saved(path, state):
        for old in path.parent.glob('state_*.pt'):
            old.unlink()
        save(path, state)
    checkpoint.save_checkpoint = saved


def _forgets_the_optimizer():
    make_optimizer(program.parse(['--stage', '1']), [torch.zeros(1)])  # torch's own set-up, not counted
    torch.optim.Adam.load_state_dict = lambda *_: None


def _off_by_one():
    restore = trainer.Trainer.restore

    def restored(self, state):
        restore(self, state)
        self.batch += self.batch > 0
    trainer.Trainer.restore = restored


BROKEN = {'not atomic': _not_atomic, 'deletes first': _deletes_first, 'forgets the optimizer': _forgets_the_optimizer,
          'off by one': _off_by_one}


# ---------------------------------------------------------------- what must hold

def files(folder):
    """{path below experiment/: content} of every checkpoint and weights file."""
    found = {}
    for path in sorted(Path(folder, 'experiment').rglob('*.pt')):
        load = load_checkpoint if path.name.startswith('state_') else load_weights
        found[str(path.relative_to(folder))] = load(path)
    return found


def same(a, b):
    """Whether two contents of files agree to the last bit; nan equals nan."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def newest(paths):
    """{run folder: newest position} of checkpoints."""
    found = {}
    for path in map(Path, paths):
        epoch, batch = map(int, f'{path.stem}_0'.split('_')[1:3])
        found[str(path.parent)] = max(found.get(str(path.parent), (0, 0)), (epoch, batch))
    return found


def check_nothing_lost(folder):
    """After a kill: every file is complete, and every saved checkpoint exists or has been superseded by a newer one."""
    there = newest(name for name in files(folder) if '/state_' in name)
    commits = Path(folder, 'commits')
    for run, position in newest(commits.read_text().split('\n')[:-1] if commits.exists() else []).items():
        assert there.get(run, (0, 0)) >= position, f'{run}: {position} was saved, {there.get(run)} is there'


def check_equal(folder, reference):
    """The interrupted run has the same result as the uninterrupted one."""
    ended, wanted = (files(place) for place in (folder, reference))
    last = [name for name in wanted if '/state_' not in name or f'{newest([name])}' == f'{newest_of(name, wanted)}']
    for name in last:
        assert name in ended and same(_result(ended[name]), _result(wanted[name])), f'{name} differs'


def newest_of(name, wanted):
    parent = str(Path(name).parent)
    return {parent: newest(path for path in wanted if '/state_' in path)[parent]}


def _result(content):
    return {key: value for key, value in content.items() if key != 'passing'}


def kill_at_random(folder, flags, whole_seconds, kills, seed):
    """Start a training and kill it after a random time, `kills` times, then run it to the end. Returns how often it was
    still running when killed."""
    draw, met = random.Random(seed), 0
    for _ in range(kills):
        process = start(folder, flags)
        process.join(draw.uniform(0.05, 0.6 * whole_seconds))
        process.kill()
        process.join()
        check_nothing_lost(folder)
        if process.exitcode != -signal.SIGKILL:  # at its end already
            break
        met += 1
    assert finish(folder, flags) == 0
    return met


def timed(folder, flags):
    """Seconds that the whole training takes."""
    begin = time.monotonic()
    assert finish(folder, flags) == 0, Path(folder, 'printed').read_text()
    return time.monotonic() - begin


def wait_for(condition, seconds=60):
    """Return as soon as condition() holds. Raises AssertionError if it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid):
    """Whether the process exists and has not ended."""
    try:
        return re.search(r'^State:\s+(\w)', Path(f'/proc/{pid}/status').read_text(), re.M)[1] != 'Z'
    except OSError:
        return False
