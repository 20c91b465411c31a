"""The recipes of shipped weights: the phases of a training, their options, and a plan for a given time."""
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import torch

from optim.update import make_optimizer
from option import parse
from stages import STAGES
from store.files import write_bytes
from utility import UserError, choose_device, derive_seed, shown

GROWN = 27  # blocks of the paper's SR network, to which a smaller one is grown


class Phase(NamedTuple):
    """A run of one stage: its fraction of the time, its epochs, its flags. grown: it starts from the networks of the
    phases before it, grown to GROWN blocks."""
    stage: int
    share: float
    epochs: int
    flags: tuple = ()
    grown: bool = False

    def line(self, flags: list[str]) -> list[str]:
        """The command line of the phase, without --save and what the plan adds. flags: those of every phase."""
        own = ['--stage', str(self.stage), '--epochs_sr', str(self.epochs), '--print_every', '100']
        return [*own, *flags, *self.flags]


class Recipe(NamedTuple):
    """flags: of every phase; phases: {name: Phase}, in their order."""
    flags: tuple
    phases: dict[str, Phase]


AVERAGED = 20  # the moving average spans at most 1/20 of a phase's steps
CPU = ('--n_feats', '48', '--batch_size', '8', '--patch_size', '48', '--n_threads', '1', '--meta_batch_size', '3')
# The learning rate ends at 0, with a moving average: the best result from few steps.
STAGE1 = Phase(1, 0.03, 8, ('--decay_type', 'linear_4', '--lr_sr', '1e-3'))
STAGE2 = Phase(2, 0.07, 8, ('--decay_type', 'linear_4', '--lr_sr', '5e-4'))


def muon(rate: str) -> tuple[str, ...]:
    """The flags of a phase trained by Muon. rate: 2e-3 diverges with GROWN blocks; stage 2 was measured with 1e-3."""
    return '--optimizer', 'Muon', '--lr_sr', rate, '--decay_type', 'linear_0', '--warmup', '20'


RECIPES = {
    'small': Recipe(('--n_blocks', '8', *CPU), {
        'stage1': STAGE1,
        'stage2': STAGE2,  # of a few dozen steps, in which Muon gains nothing
        'stage3': Phase(3, 0.25, 16, muon('2e-3')),
        'stage4': Phase(4, 0.60, 32, (*muon('2e-3'), '--epochs_encoder', '3', '--lr_encoder', '2e-3')),
    }),
    # Few blocks train several times faster; more blocks are added later.
    'grown': Recipe(CPU, {
        'stage1': STAGE1,
        'stage2': STAGE2._replace(flags=muon('1e-3')),
        'stage3': Phase(3, 0.15, 16, (*muon('2e-3'), '--n_blocks', '8')),
        'stage4': Phase(4, 0.20, 16, (*muon('2e-3'), '--epochs_encoder', '3', '--lr_encoder', '2e-3',
                                      '--n_blocks', '8')),
        'stage4_grown': Phase(4, 0.52, 80, (*muon('1e-3'), '--epochs_encoder', '0', '--n_blocks', str(GROWN)),
                              grown=True),
    }),
    'full': Recipe(('--n_blocks', str(GROWN), '--n_feats', '128', '--batch_size', '32', '--patch_size', '64',
                    '--n_threads', '8'), {
        'stage1': STAGE1,
        'stage2': STAGE2._replace(flags=muon('1e-3')),
        'stage3': Phase(3, 0.28, 40, muon('1e-3')),
        'stage4': Phase(4, 0.58, 80, (*muon('1e-3'), '--epochs_encoder', '4', '--lr_encoder', '1e-3')),
    }),
}


def make_plan(path: Path, size: str, flags: list[str], minutes: float) -> dict:
    """The plan in the file `path`, written first if there is none. flags: of main.py, for every phase.

    Its 'phases' are {name: flags for its fraction of the minutes}. Raises UserError.
    """
    if path.exists():
        return read_plan(path)
    flags = [*RECIPES[size].flags, *flags]
    plan = {'size': size, 'minutes': minutes, 'started': time.time(), 'commit': commit(), 'flags': flags, 'phases': {}}
    for name, phase in RECIPES[size].phases.items():
        line = phase.line(flags)
        device = choose_device(parse(line).device)
        seconds = {precision: seconds_per_step([*line, '--precision', precision], device)
                   for precision in precisions(device)}
        precision = min(seconds, key=seconds.get)
        batches = max(1, round(phase.share * minutes * 60 / seconds[precision] / phase.epochs))
        plan['device'] = device_text(device)
        print(f'{name}: {seconds[precision]:.3f} s per step in {precision}, {phase.epochs} epochs of {batches}',
              flush=True)
        decay = max(0.0, min(0.999, 1 - AVERAGED / (batches * phase.epochs)))
        plan['phases'][name] = ['--test_every', str(batches), '--precision', precision, '--ema', f'{decay:.4g}']
    write_bytes(path, (json.dumps(plan, indent=1) + '\n').encode())
    return plan


def read_plan(path: Path) -> dict:
    """The plan in the file `path`. Raises UserError if it is missing or damaged."""
    try:
        plan = json.loads(path.read_text(encoding='utf-8'))
        if plan['size'] in RECIPES and plan['phases'].keys() == RECIPES[plan['size']].phases.keys():
            return plan
        reason = 'of another version of the recipe'
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise UserError(f'{shown(path)}: not a training plan ({reason}); run scripts/train_zoo.sh, and remove this file '
                    'first if it is damaged')


def precisions(device: torch.device) -> tuple[str, str]:
    """The values of --precision to choose the fastest from."""
    if device.type == 'cpu' or (device.type == 'cuda' and torch.cuda.get_device_capability(device)[0] >= 8):
        return 'single', 'bf16'
    return 'single', 'half'  # GPUs without bfloat16


def seconds_per_step(line: list[str], device: torch.device) -> float:
    """Median time in seconds of a training step of the command line's stage, on patches of noise."""
    args = parse(line)
    stage = STAGES[args.stage](args).place(device)
    stage.begin_epoch(args.epochs_sr)
    optimizer = make_optimizer(args, [p for p in stage.trained.parameters() if p.requires_grad])
    side = args.patch_size * args.scale
    rng = torch.Generator().manual_seed(derive_seed(args.seed, 'timing'))
    hr = torch.rand(args.batch_size, 3, side, side, generator=rng).to(device) * args.rgb_range
    times = []
    for step in range(6):
        start = time.monotonic()
        optimizer.zero_grad()
        loss = stage(hr, {hr.device: step}, 'sr')['loss'].sum()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        times.append(time.monotonic() - start)
    return sorted(times[1:])[2]


def device_text(device: torch.device) -> str:
    """The device as text."""
    if device.type == 'cuda':
        return f'{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}'
    threads = torch.get_num_threads()
    return f'{device.type.upper()}, {threads} thread{"s" * (threads > 1)}, PyTorch {torch.__version__}'


def commit() -> str:
    """The commit of the code, or 'unknown' outside a repository."""
    if not shutil.which('git'):
        return 'unknown'
    root = Path(__file__).resolve().parent
    found = subprocess.run(['git', '-C', root, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    return found.stdout.strip() or 'unknown'
