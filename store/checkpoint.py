"""The run folder: log, options, weights, checkpoints. docs/reliability.md lists every file in it."""
import json
import re
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch
from tqdm import tqdm

from store import lock
from store.files import append_text, reserve, sweep, write_bytes
from store.tensors import load_checkpoint, save_checkpoint, save_weights
from store.upgrade import upgraded
from utility import UserError

WEIGHTS = {1: 'model', 2: 'model_meta', 3: 'model_TA', 4: 'model_ST',
           5: 'model_GAN'}  # published names, by the stage that writes them


Position = tuple[int, int]  # (epochs done, batches done of the next one)


def run_folder(name: str, args: Namespace, blur_type: str | None = None) -> Path:
    """experiment/<name>_x<scale>_<mode>_<iso|aniso> for --degradation classic, else
    experiment/<name>_x<scale>_<degradation>. blur_type: replaces that of the options, and implies classic."""
    if args.degradation != 'classic' and not blur_type:
        return Path('experiment') / f'{name}_x{args.scale}_{args.degradation}'
    blur = (blur_type or args.blur_type).split('_')[0]
    return Path('experiment') / f'{name}_x{args.scale}_{args.mode}_{blur}'


def keeps_weights(args: Namespace, epoch: int) -> bool:
    """Whether the weights of `epoch` are also kept under the epoch's number."""
    return args.save_models or epoch > args.st_save_epoch


class Run:
    """One run's folder. Nothing is written before open().

    is_rank0: whether this process writes; other ranks write and print nothing.
    """

    def __init__(self, folder: str | Path, stage: int, is_rank0: bool = True) -> None:
        self.is_rank0 = is_rank0
        self.folder = Path(folder)
        self.results = self.folder / 'results'
        self._weights = WEIGHTS[stage]
        self._model = self.folder / 'model'

    def lock(self) -> AbstractContextManager:
        """A context in which no other training may use the folder. Raises UserError if one does."""
        return lock.locked(self.folder) if self.is_rank0 else nullcontext()

    def open(self, config: str, clear: bool = False) -> None:
        """Create the folder, emptied first if `clear`, and append the options of this start to config.txt."""
        if not self.is_rank0:
            return
        try:
            for entry in self.folder.iterdir() if clear and self.folder.is_dir() else ():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != lock.NAME:
                    entry.unlink()
            self._model.mkdir(parents=True, exist_ok=True)
            append_text(self.folder / 'config.txt', f'{time.strftime("%Y-%m-%d %H:%M:%S")}\n{config}\n\n')
        except OSError as error:
            raise UserError(f'{self.folder}: the run folder cannot be written ({error.strerror})') from error

    def prepare(self, n_bytes: int) -> None:
        """Remove partial files of a killed training; check that a checkpoint of n_bytes can be written.

        Raises UserError if it cannot.
        """
        if not self.is_rank0:
            return
        for folder in self.folder, self._model:
            sweep(folder)
        reserve(self._model, f'a checkpoint of {n_bytes:,} bytes', n_bytes)

    def log(self, text: str = '') -> None:
        """Print `text` and append it to log.txt."""
        if not self.is_rank0:
            return
        say(text)
        append_text(self.folder / 'log.txt', text + '\n')

    def positions(self) -> list[Position]:
        """The positions of all checkpoints, in order."""
        found = (re.fullmatch(r'state_(\d+)(?:_(\d+))?\.pt', path.name) for path in self._model.glob('state_*.pt'))
        return sorted((int(match[1]), int(match[2] or 0)) for match in found if match)

    def start(self, resume: int, reset: bool, note: Callable[[str], None]) -> dict | None:
        """The checkpoint to resume from, or None to start a new training. Changes nothing.

        resume: -1: from the newest, 0: start a new training, N: from that of epoch N; reset: the run will be deleted;
        note(text): called for each damaged checkpoint that is skipped for an older one.
        Raises UserError rather than overwrite an existing run, or start again if all checkpoints are damaged.
        """
        if reset:
            return None
        positions = self.positions()
        if resume > 0 and (resume, 0) not in positions:
            epochs = ', '.join(str(epoch) for epoch, batch in positions if not batch)
            raise UserError(f'--resume {resume}: {self._model} holds checkpoints of epochs {epochs or "(none)"}')
        if resume == 0 and any(self._model.glob('*.pt')):
            raise UserError(f'--resume 0: {self.folder} already holds a run; add --reset to delete it, '
                            'or choose another --save')
        if resume == -1 and not positions and any(self._model.glob('*.pt')):
            raise UserError(f'{self.folder} holds weights but no checkpoint to resume from; add --reset to delete '
                            'them, or choose another --save')
        if resume > 0:
            return upgraded(load_checkpoint(self._path((resume, 0))))
        return self._newest(positions, note) if positions else None

    def _newest(self, positions: list[Position], note: Callable[[str], None]) -> dict:
        """The newest checkpoint that is not damaged."""
        damaged = []
        for position in reversed(positions):
            try:
                checkpoint = upgraded(load_checkpoint(self._path(position)))
            except UserError as error:
                damaged.append(str(error))
                continue
            for each in damaged:
                note(f'{each}; using {self._path(position).name} instead')
            return checkpoint
        raise UserError(f'{self._model}: every checkpoint is damaged; restore one from a backup, or add --reset to '
                        f'start again ({damaged[0]})')

    def supersede(self, position: Position) -> None:
        """Rename the checkpoints after `position`, newest first, so that no later start resumes from them."""
        for later in reversed(self.positions()) if self.is_rank0 else ():
            if later > position:
                self._path(later).replace(self._path(later).with_suffix('.superseded'))

    def save(self, position: Position, checkpoint: dict, n_kept: int) -> None:
        """Write the checkpoint of `position`; only then remove older ones, and superseded ones up to `position`.

        Kept are the n_kept newest at ends of epochs (0: all of them), and the two newest of all.
        """
        if not self.is_rank0:
            return
        save_checkpoint(self._path(position), checkpoint)
        positions = self.positions()
        at_ends = [each for each in positions if not each[1]]
        for old in set(positions) - {*at_ends[-n_kept:], *positions[-2:]}:
            self._path(old).unlink()
        for aside in self._model.glob('state_*.superseded'):
            epoch, batch = map(int, f'{aside.stem}_0'.split('_')[1:3])
            if (epoch, batch) <= position:
                aside.unlink()

    def save_weights(self, epoch: int, weights: dict[str, torch.Tensor], keep_weights: bool) -> None:
        """Write weights under their published name and, if keep_weights, under the epoch's number as well. To be called
        before save(), so that the weights of every epoch that has a checkpoint exist."""
        if not self.is_rank0:
            return
        save_weights(self._model / f'{self._weights}_last.pt', weights)
        if keep_weights:
            save_weights(self._model / f'{self._weights}_{epoch}.pt', weights)

    def save_best(self, weights: dict, facts: dict) -> Path:
        """Write the best weights, and `facts` about them to best.json beside them; returns the path of the weights."""
        path = self._model / f'{self._weights}_best.pt'
        save_weights(path, weights)
        write_bytes(self._model / 'best.json', json.dumps(facts).encode())
        return path

    def best(self) -> dict:
        """The facts that save_best() wrote, {} if there are none."""
        try:
            return json.loads((self._model / 'best.json').read_bytes())
        except (OSError, ValueError):  # ValueError: damaged
            return {}

    def _path(self, position: Position) -> Path:
        epoch, batch = position
        return self._model / (f'state_{epoch}_{batch}.pt' if batch else f'state_{epoch}.pt')


def say(text: str) -> None:
    """Print `text`, above the progress bar if there is one. Does nothing once stdout is a closed pipe."""
    with suppress(BrokenPipeError):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
