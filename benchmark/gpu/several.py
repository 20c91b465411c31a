"""Whole trainings by the command line: the wait for data, several GPUs, ranks."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmark.cases import patches, write_photos
from benchmark.gpu.part import Report, Setting
from data.images import write_rgb
from stages import STAGES
from utility import UserError, generator

ROOT = Path(__file__).resolve().parent.parent.parent
TORCHRUN = '-m', 'torch.distributed.run'


def photos(folder: Path) -> None:
    """A training set `photos` of PNGs of DIV2K's size and a test set `One` of one small image."""
    for each in folder / 'photos' / 'HR', folder / 'benchmark' / 'One' / 'HR':
        each.mkdir(parents=True)
    write_photos(folder / 'photos' / 'HR')
    image = torch.randint(256, (96, 96, 3), generator=generator('cpu', 'one'), dtype=torch.uint8)
    write_rgb(folder / 'benchmark' / 'One' / 'HR' / 'one.png', np.ascontiguousarray(image))


def train(setting: Setting, folder: Path, name: str, batches: int, *flags: str, launcher: tuple[str, ...] = ()) -> dict:
    """The last step's row of log.jsonl of one epoch of stage 1. Raises UserError with what the program said last."""
    size = setting.size
    command = [sys.executable, *(launcher or ['-u']), str(ROOT / 'main.py'), '--stage', '1', '--dir_data', '.',
               '--data_train', 'photos', '--data_test', 'One', '--n_feats', str(size.n_feats), '--patch_size',
               str(size.patch), '--test_every', str(batches), '--print_every', str(batches), '--epochs_sr', '1',
               '--save', name, '--device', setting.device.type, *flags]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True,
                         env=os.environ | {'XDG_CACHE_HOME': str(folder / 'cache')})
    if run.returncode:
        last = (run.stderr.strip() or run.stdout.strip() or 'nothing').splitlines()[-1]
        raise UserError(f'{name}: exit status {run.returncode}, {last}')
    log, = folder.glob(f'experiment/{name}_*/log.jsonl')
    return [row for row in map(json.loads, log.read_text().splitlines()) if row['kind'] == 'step'][-1]


def data(setting: Setting, report: Report) -> None:
    """Stage 1, whose steps are the shortest, by the number of processes that load images; the first run fills the
    cache."""
    with tempfile.TemporaryDirectory(prefix='first_gpu.') as folder:
        photos(Path(folder))
        batch = str(4 if setting.quick else 64)
        for threads in (0, 1) if setting.quick else (0, 4, min(16, os.cpu_count() or 1)):
            found = train(setting, Path(folder), f'data{threads}', 4 if setting.quick else 200, '--batch_size', batch,
                          '--n_threads', str(threads), '--precision', 'single' if setting.quick else 'bf16')
            report.add(**{'--n_threads': threads, 'images/s': round(found['images_per_s'], 1),
                          'waiting for data': f'{found["data_wait"]:.0%}'})


def several(setting: Setting, report: Report) -> None:
    """All GPUs by DataParallel and by torchrun (two processes on a CPU); a process group of one rank in any case."""
    apart = one_rank(setting)
    report.add(how='a process group of one rank, DistributedDataParallel', what=f'gradients {apart:.1e} apart',
               result=report.check(apart < 1e-3, f'one rank: gradients {apart:.1e} apart'))
    count = torch.cuda.device_count() if setting.device.type == 'cuda' else 2
    if count < 2:
        report.note('one GPU: nothing to share a batch with')
        return
    batches, batch = (3, str(2 * count)) if setting.quick else (100, str(16 * count))
    flags = ['--batch_size', batch, '--n_threads', '0' if setting.quick else '4']
    with tempfile.TemporaryDirectory(prefix='first_gpu.') as folder:
        photos(Path(folder))
        ways = {'one process': (['--n_GPUs', '1'], ()), f'DataParallel on {count}': (['--n_GPUs', str(count)], ()),
                f'torchrun with {count} processes': ([], (*TORCHRUN, '--nproc_per_node', str(count), '--'))}
        for i, (how, (more, launcher)) in enumerate(ways.items()):
            if how.startswith('DataParallel') and setting.device.type != 'cuda':
                report.note('DataParallel needs CUDA')
                continue
            found = train(setting, Path(folder), f'way{i}', batches, *flags, *more, launcher=launcher)
            report.add(how=how, what=f'{found["images_per_s"]:.1f} images/s, loss {found["losses"]["loss"]:.4f}',
                       result='ok')


def one_rank(setting: Setting) -> float:
    """The largest difference of stage 3's gradients with and without a process group of one, as a part of the largest
    gradient."""
    stage = STAGES[3](setting.size._replace(batch=2, patch=12).options(3)).place(setting.device)
    stage.train()
    hr = patches(setting.size._replace(batch=2, patch=12)).to(setting.device) / 255
    seeds = {hr.device: 1}
    dist.init_process_group('nccl' if setting.device.type == 'cuda' else 'gloo', store=dist.HashStore(), rank=0,
                            world_size=1)
    found = []
    for network in stage, DistributedDataParallel(stage):
        stage.zero_grad()
        network(hr, seeds, 'sr')['loss'].mean().backward()
        found.append([p.grad.clone() for p in stage.trained.parameters() if p.requires_grad])
    dist.destroy_process_group()
    largest = max(float(each.abs().max()) for each in found[0])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) / largest
