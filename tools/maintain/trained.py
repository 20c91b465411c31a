"""What runs of main.py did: steps, LR pixels, hours, scores, and the command line; for the status and for cards."""
import json
import shlex
from pathlib import Path
from typing import NamedTuple

from run.starts import read_starts
from store.tensors import load_checkpoint
from utility import UserError, shown

# Options that say where a run was made, not what was trained.
LOCAL = {'save', 'device', 'n_threads', 'save_every_min', 'keep_states', 'print_every', 'data_test', 'accept_changes',
         'sig', 'lambda_1', 'lambda_2', 'theta', 'n_GPUs', 'recompute', 'reset', 'resume', 'load'}


class Trained(NamedTuple):
    """A training. argv: flags of its newest start; options: those that change the result, of its newest checkpoint;
    pixels: LR pixels in millions; scores: [(pixels, {test set: PSNR})], of the averaged weights if there are any."""
    folder: Path
    newest: Path  # checkpoint
    argv: list[str]
    options: dict
    steps: int
    pixels: float
    hours: float
    scores: list[tuple[float, dict[str, float]]]

    def row(self) -> dict:
        """Its entry in the index of zoo/."""
        return {'command': command(self.argv), 'steps': self.steps, 'pixels': round(self.pixels, 1),
                'hours': round(self.hours, 2), 'precision': self.options['precision']}


def journal(folder: Path) -> list[dict]:
    """The rows of a run's log.jsonl, [] before it has begun."""
    path = folder / 'log.jsonl'
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()] if path.exists() else []


def read_trained(folder: Path, current: bool = False) -> Trained:
    """The training in a run folder. current: with the scores of the current weights, though there are averaged ones.
    Raises UserError if the folder holds no training."""
    states = sorted((folder / 'model').glob('state_*.pt'), key=lambda path: path.stat().st_mtime)
    starts = [start for start in read_starts(folder) if start.trains]
    if not states or not starts:
        raise UserError(f'{shown(folder)}: holds no training; give run folders of main.py')
    options = load_checkpoint(states[-1])['options']
    rows = journal(folder)
    steps, patch = newest_step(rows), options['batch_size'] * options['patch_size'] ** 2 / 1e6
    tests = [row for row in rows if row['kind'] == 'test' and row['step']]
    averaged = [row for row in tests if all('(EMA)' in name for name in row['scores'])]
    chosen = [row for row in tests if row not in averaged] if current or not averaged else averaged
    scores = [(row['step'] * patch, {name.removesuffix(' (EMA)'): values['psnr_y']
                                     for name, values in row['scores'].items() if 'psnr_y' in values})
              for row in chosen]
    return Trained(folder, states[-1], starts[-1].argv(), options, steps, steps * patch,
                   seconds(rows, options['batch_size']) / 3600, scores)


def newest_step(rows: list[dict]) -> int:
    """The number of steps done, by the rows of a log.jsonl."""
    return max((row['step'] or 0 for row in rows if row['kind'] in ('step', 'test')), default=0)


def seconds(rows: list[dict], batch_size: int) -> float:
    """The time of all steps, by the rows of a log.jsonl, each of which holds the mean speed of its epoch so far."""
    steps = [row for row in rows if row['kind'] == 'step']
    return sum(batch_size * max(0, row['step'] - before) / row['images_per_s']
               for before, row in zip([0, *(row['step'] for row in steps)], steps, strict=False))


def command(argv: list[str]) -> str:
    """'python main.py ...' without local options and their values."""
    pairs = [word.removeprefix('--').split('=', 1) for word in argv]
    kept = [part for name, value in pairs if name not in LOCAL and not name.startswith(('dir_', 'pre_train'))
            for part in (f'--{name}', value)]
    return shlex.join(['python', 'main.py', *kept])
