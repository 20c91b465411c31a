"""Process groups on this machine, as torchrun would start them, and their tasks."""
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import torch._dynamo  # otherwise imported by the optimiser in each process: 1.6 seconds
from conftest import SMALL

import main as program
from optim import update
from process import group as distributed
from process.group import ProcessGroup
from stages import STAGES
from trainer import Trainer
from utility import UserError

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['ranks'])


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def launch(folder, size, task, *arguments, missing=0):
    """The processes of a group of `size` that run task(*arguments) in `folder`; rank R prints into printed.R. The last
    `missing` ranks never start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(sys.path))
        forkserver.ensure_running()
    port = free_port()
    processes = [CONTEXT.Process(target=_member, args=(folder, rank, size, port, task, arguments))
                 for rank in range(size - missing)]
    for process in processes:
        process.start()
    return processes


def finish(folder, size, task, *arguments, seconds=120):
    """The exit statuses of launch()."""
    processes = launch(folder, size, task, *arguments)
    for process in processes:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def printed(folder, rank=0):
    return Path(folder, f'printed.{rank}').read_text(encoding='utf-8')


def _member(folder, rank, size, port, task, arguments):
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ['XDG_CACHE_HOME'] = 'cache'
    if size > 1:
        os.environ |= {'RANK': str(rank), 'WORLD_SIZE': str(size), 'LOCAL_RANK': str(rank),
                       'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    output = os.open(f'printed.{rank}', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    distributed.leave(task(*arguments) or 0)


# ---------------------------------------------------------------- tasks

def train(*flags):
    """main.py with a small network."""
    return program.main([*SMALL, *flags])


def main_alone(*flags):
    """main.py with these flags alone."""
    return program.main(list(flags))


def extension(script, *flags):
    """A training with the script of docs/extending.md, with a small network."""
    return program.main(['--extension', script, *SMALL, *flags])


def hasty(*flags):
    """train() that stops waiting for other ranks soon after a stop signal. Writes `meets` when it begins to connect."""
    connect, distributed.STUCK = distributed.rendezvous, 0.5

    def noted(*args, **more):
        Path('meets').touch()
        return connect(*args, **more)
    distributed.rendezvous = noted
    return train(*flags)


def late(*flags):
    """train() on a CPU that decides itself about steps, as a GPU does; rank 1 alone is asked to stop within step 3."""
    update.DECIDING = {'cpu'}
    step = Trainer.step

    def asked(self, *args):
        if self.number == 3 and os.environ['RANK'] == '1':
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)
    Trainer.step = asked
    return train(*flags)


def mistaken(*flags):
    """train() in which only rank 1 raises a UserError, while the others wait for it."""
    def failing(*_):
        raise UserError('a mistake that one rank sees')
    if os.environ['RANK'] == '1':
        Trainer.step = failing
    return train(*flags)


def gradients(stage, model):
    """Write grads.pt: the gradient of one step of a stage on this rank's part of the batch."""
    group = ProcessGroup.from_environment()
    group.open(torch.device('cpu'), 30)
    built, hr, seeds = example(stage, model)
    built.begin_epoch(2)
    part = slice(len(hr) * group.rank // group.size, len(hr) * (group.rank + 1) // group.size)
    network = group.wrap(built)
    network(hr[part], {hr.device: seeds[part.start]}, 'sr')['loss'].mean().backward()
    if group.is_rank0:
        torch.save([p.grad for p in built.trained.parameters() if p.requires_grad], 'grads.pt')
    group.close(True)


def example(stage, model):
    """(stage with fixed weights, hr (4, 3, 24, 24), seeds of its parts), in float64: inner steps amplify rounding."""
    flags = [*SMALL, '--stage', str(stage), '--model', model, '--n_resblocks', '1', '--epochs_encoder', '1']
    torch.manual_seed(3)
    built = STAGES[stage](program.parse(flags)).place(torch.device('cpu'))
    return built.double(), torch.rand(4, 3, 24, 24).double(), [11, 12, 13, 14]
