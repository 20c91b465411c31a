"""Memory: out of memory is one line, tiles work within what is left, and planned memory matches the measured one."""
import math
import resource

import torch

from benchmark.cases import our_step, patches
from benchmark.gpu.part import Report, Setting, timed
from model import build
from model.inference import super_resolve
from process.group import Process
from process.signals import Stopper
from run.plan import MARGIN, training_plan
from stages import STAGES
from store.journal import peak_memory
from trainer import Trainer
from utility import UserError, place


def limit(setting: Setting, left: int) -> None:
    """Let no more than about `left` MiB be taken from now on."""
    if setting.device.type == 'cuda':
        torch.cuda.init()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(left * 2**20 / total)
    else:
        with open('/proc/self/statm', encoding='ascii') as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + left * 2**20, resource.RLIM_INFINITY))


def shortage(setting: Setting, report: Report) -> None:
    """A training step that is too large, a small one after it, and a student on an image that is too large."""
    left, batch, side = (256, 64, 512) if setting.quick else (1024, 256, 1600)
    size = setting.size._replace(n_feats=64, n_blocks=2 if setting.quick else 8, patch=48)
    student = place(build(size.options(4), 'student'), setting.device).eval()
    our_step(size._replace(batch=1), 1)()
    limit(setting, left)
    said = ''
    try:
        our_step(size._replace(batch=batch), 1)()
    except UserError as error:
        said = str(error)
    good = report.check(said.startswith('out of memory') and '\n' not in said, f'a step too large: {said!r}')
    report.add(what=f'training step, batch {batch} of 48x48', expected='one line', said=said, result=good)
    our_step(size._replace(batch=1), 1)()
    report.add(what='the next step, batch 1', expected='works', said='', result='ok')
    lq = torch.rand(1, 3, side // 2, side, device=setting.device)
    with torch.no_grad():
        sr = super_resolve(student, lq, size.scale, None)
    good = report.check(bool(sr.isfinite().all()), 'tiles hold values that are not finite')
    report.add(what=f'student on {side // 2}x{side}', expected='works, in tiles where needed',
               said=f'{tuple(sr.shape)}', result=good)


def plan(setting: Setting, report: Report) -> None:
    """The planned peak of a step beside the measured one: what --recompute auto relies on."""
    for number in (1, 3) if setting.quick else (1, 2, 3, 4):
        for recompute in (True, False) if number > 2 else (True,):
            args = setting.size.options(number, '--epochs_encoder=0', f'--recompute={recompute}')
            planned = training_plan(args, setting.device, args.batch_size).peak / 2**20

            def make(args=args, number=number):
                stage = STAGES[number](args).place(setting.device)
                trainer = Trainer(args, stage, (), None, None, Process(setting.device, Stopper()))
                trainer.begin_epoch(1)
                hr = patches(setting.size)
                return lambda: trainer.step(hr, math.inf)

            _, measured = timed(make, setting)
            row = {'stage': number, '--recompute': recompute, 'planned, MiB': round(planned, 1)}
            if measured is None:
                report.add(**row, **{'measured, MiB': ''})
                continue
            good = report.check(measured <= MARGIN * planned, f'stage {number}: {measured:.0f} of {planned:.0f} MiB')
            report.add(**row, **{'measured, MiB': round(measured, 1), 'of the plan': round(measured / planned, 2),
                                 'result': good})
    if setting.device.type != 'cuda':
        report.note(f'measured on CUDA only; the peak of this process: {peak_memory(setting.device) / 2**20:.0f} MiB')
