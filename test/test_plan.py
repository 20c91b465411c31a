"""The plan of a training step's memory against what the CPU's allocator gave out in one, and what --recompute auto
makes of it."""
import math

import cost
import pytest
import torch
from conftest import SMALL
from torch.profiler import ProfilerActivity, profile

from option import parse
from process.group import Process
from process.signals import Stopper
from run import plan
from run.plan import MARGIN, choose_recompute, supported, training_plan
from stages import STAGES
from trainer import Trainer

CPU = torch.device('cpu')
NEWER = pytest.mark.skipif(not supported(), reason='this PyTorch does not checkpoint gradients on the meta device')
SIZE = ['--scale', '4', '--n_feats', '32', '--n_blocks', '3', '--patch_size', '24', '--batch_size', '2']


def allocated(args):
    """Bytes at the peak of the second step of a training: of what it holds before, and of what is allocated in it."""
    stage = STAGES[args.stage](args).place(CPU)
    trainer = Trainer(args, stage, (), None, None, Process(CPU, Stopper()))
    trainer.begin_epoch(args.epochs_encoder + 1)
    side = args.patch_size * args.scale
    hr = torch.randint(256, (args.batch_size, args.n_colors, side, side), dtype=torch.uint8)
    trainer.step(hr, math.inf)
    moments = []
    for update in trainer.updates.values():
        update.optimizer.zero_grad()
        moments += [value for state in update.optimizer.state.values() for value in state.values()]
    average = trainer.ema.state_dict().values() if trainer.ema else ()
    held = [*stage.parameters(), *stage.buffers(), *moments, *average]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.batch = 1
        trainer.step(hr, math.inf)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = sum(tensor.untyped_storage().nbytes() for tensor in held)
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@NEWER
@pytest.mark.parametrize('flags', [
    '--stage 1', '--stage 2', '--stage 3', '--stage 3 --recompute False', '--stage 3 --model kdsr --n_resblocks 2',
    '--stage 4 --ema 0.9', '--stage 4 --precision bf16'])
def test_plan_is_within_5_percent_of_what_is_allocated(flags):
    args = parse([*SMALL, *SIZE, *flags.split()])
    planned = training_plan(args, CPU, args.batch_size)
    assert planned.peak == pytest.approx(allocated(args), rel=0.05)
    assert planned.networks + planned.state < planned.peak and 0 < planned.kept < planned.peak


@NEWER
def test_auto_recomputes_where_memory_is_short(monkeypatch):
    flags = [*SMALL, *SIZE, '--stage', '3', '--recompute', 'auto']
    needed = MARGIN * training_plan(parse([*flags, '--recompute', 'False']), torch.device('cuda'), 2).peak
    for free, expected in (needed + 1, False), (needed - 1, True):
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda _, free=free: (int(free), 0))
        args = parse(flags)
        note, = choose_recompute(args, Process(torch.device('cuda'), Stopper()))
        assert args.recompute is expected and note.startswith(f'--recompute auto: {expected}, ')
    args = parse(flags)
    assert choose_recompute(args, Process(CPU, Stopper())) == [] and args.recompute is True
    args = parse([*flags, '--recompute', 'False'])
    assert choose_recompute(args, Process(CPU, Stopper())) == [] and args.recompute is False


def test_without_support_auto_recomputes_and_a_plan_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(plan, 'supported', lambda: False)
    args = parse([*SMALL, *SIZE, '--stage', '3', '--recompute', 'auto'])
    assert choose_recompute(args, Process(torch.device('cuda'), Stopper())) == [] and args.recompute is True
    assert cost.main([*SMALL, '--stage', '3']) == 2
    assert 'cannot be planned by PyTorch' in capsys.readouterr().err


@NEWER
def test_cost_prints_the_plan(capsys):
    assert not cost.main([*SMALL, '--stage', '3', '--model', 'kdsr', '--precision', 'half'])
    assert 'batch 4 of 12x12 LR pixels, half, --recompute True' in (printed := capsys.readouterr().out)
    assert [line.split('  ')[1] for line in printed.splitlines()[1:]] == [
        'all weights', 'optimisation', 'kept activations', 'peak of tensors']
