"""The machine-readable log of a run: log.jsonl and, with --tensorboard, curves and pictures."""
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Iterator

import torch

from store.checkpoint import Run
from store.files import append_text, write_bytes
from utility import UserError, out_of_memory, quantize

try:
    import resource
except ImportError:  # Windows
    resource = None

NAME = 'log.jsonl'
SIDE = 256  # pixels of a test image that TensorBoard keeps, so that hundreds of tests take little space


class Journal:
    """One JSON object a line: `kind` (step, epoch or test), its position in the run, and its values.

    A row's position is that of a checkpoint at the same point: a resumed run first drops the rows after its checkpoint,
    since these steps are repeated. run: the run to log; device: whose peak memory is logged.
    Raises UserError if --tensorboard is given and tensorboard is not installed.
    """

    def __init__(self, args: Namespace, run: Run, device: torch.device) -> None:
        self.args, self.device, self.is_rank0 = args, device, run.is_rank0
        self.path, self.curves = run.folder / NAME, run.folder / 'tensorboard'
        self.training = not args.test_only
        self.drawn = args.tensorboard and self.training and run.is_rank0
        self.writer = self.picture = None
        if self.drawn:
            _summary_writer()

    def begin(self, epoch: int, batch: int, tested: bool = True) -> None:
        """Drop incomplete lines, rows after the position (epochs done, batches done of the next one), and the last
        epoch's test unless it was `tested`."""
        if not self.is_rank0:
            return
        old = self.path.read_bytes() if self.path.exists() else b''
        kept = b''.join(line for line in old.splitlines(keepends=True) if _stands(line, (epoch, batch, tested)))
        if kept != old:
            write_bytes(self.path, kept)
        if self.drawn:
            purged = epoch * self.args.test_every + batch + 1  # TensorBoard hides everything from this step on
            self.writer = _summary_writer()(str(self.curves), purge_step=purged)

    def step(self, epoch: int, batch: int, **values: object) -> None:
        """Add a row within `epoch`: losses {name: mean of the epoch so far}, lr, images_per_s, data_wait (fraction of
        the time), skipped (batches so far)."""
        self._add('step', epoch, batch, values)

    def epoch(self, epoch: int, **values: object) -> None:
        """Add the row of a whole epoch, before its checkpoint: losses {name: mean}, lr, skipped."""
        self._add('epoch', epoch, self.args.test_every, values)

    def test(self, epoch: int | None, scores: dict[str, dict[str, float]], **values: object) -> None:
        """Add the row of a test: scores {test set: {metric: mean}}; epoch: None outside a training."""
        self._add('test', epoch, None if epoch is None else self.args.test_every, {'scores': scores, **values})

    def watch(self, name: str, up: torch.Tensor, sr: torch.Tensor, hr: torch.Tensor) -> None:
        """Keep a test's first image for TensorBoard: the centres of bicubic, super-resolved and ground truth.

        name: its title; up, sr, hr: (1, 3, H, W) in [0, rgb_range].
        """
        if self.writer and self.picture is None:
            parts = [quantize(_middle(image), self.args.rgb_range) / self.args.rgb_range for image in (up, sr, hr)]
            self.picture = name, torch.cat(parts, 3)[0].cpu()                      # (3, side, 3 · side)

    def rates(self) -> dict[float, float]:
        """{epochs done: learning rate} of every logged step."""
        lines = self.path.read_text(encoding='utf-8').splitlines() if self.path.exists() else []
        rows = (json.loads(line) for line in lines)
        return {row['step'] / self.args.test_every: row['lr'] for row in rows if row['kind'] == 'step'}

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.writer:
            self.writer.close()
            self.writer = None

    def _add(self, kind: str, epoch: int | None, batch: int | None, values: dict) -> None:
        if not self.is_rank0:
            return
        step = None if epoch is None else (epoch - 1) * self.args.test_every + batch
        row = {'kind': kind, 'time': time.strftime('%Y-%m-%dT%H:%M:%S'), 'stage': self.args.stage, 'epoch': epoch,
               'batch': batch, 'step': step, **values, 'peak_memory_bytes': peak_memory(self.device)}
        append_text(self.path, json.dumps(_plain(row), allow_nan=False) + '\n')
        if self.writer:
            self._draw(kind, step, values)

    def _draw(self, kind: str, step: int | None, values: dict) -> None:
        for name, number in _numbers(values):
            self.writer.add_scalar(f'{kind}/{name}', number, step)
        if kind == 'test' and self.picture:
            name, picture = self.picture
            self.writer.add_image(f'test/{name}: bicubic, super-resolved, ground truth', picture, step)
            self.picture = None
        self.writer.flush()  # so that a killed run loses nothing


def peak_memory(device: torch.device) -> int | None:
    """The peak memory so far, in bytes: of tensors on CUDA, else of this process. None where unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else None


def peak_text(device: torch.device) -> str:
    """The peak memory so far, as text."""
    peak = peak_memory(device)
    return 'CPU' if peak is None else f'peak {peak / 2**30:.1f} GiB' + ' on the GPU' * (device.type == 'cuda')


def explain_shortage(error: Exception, device: torch.device, remedy: str) -> None:
    """Raises UserError where `error` says that memory ran out: how much was taken, and the remedy."""
    if out_of_memory(error):
        raise UserError(f'out of memory ({peak_text(device)}) {remedy}') from error


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError('--tensorboard: the package tensorboard is missing or unusable '
                        f'({str(error).splitlines()[0]}); pip install -r requirements-extra.txt, '
                        'or leave the flag out: log.jsonl holds the same numbers') from error
    return SummaryWriter


def _stands(line: bytes, position: tuple[int, int, bool]) -> bool:
    """Whether a line is complete and belongs to the run up to `position`, or to no training."""
    try:
        row = json.loads(line)
        if row['epoch'] is None:
            return line.endswith(b'\n')
        test = row['kind'] == 'test'
        place = (row['epoch'] - 1, row['batch'], 0) if row['kind'] == 'step' else (row['epoch'], 0, test)
    except (ValueError, KeyError, TypeError):
        return False
    return place <= position and line.endswith(b'\n')


def _numbers(values: dict, prefix: str = '') -> Iterator[tuple[str, float]]:
    """(name, number) of every number in nested dicts: 'scores/Set5/psnr_y'."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f'{prefix}{name}/')
        else:
            yield prefix + name, value


def _plain(value: object) -> object:
    """`value` with inf and nan, which JSON lacks, as text."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _middle(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    top, left = max(height - SIDE, 0) // 2, max(width - SIDE, 0) // 2
    return image[..., top:top + SIDE, left:left + SIDE]
