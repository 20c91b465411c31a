"""Shared by the parts: sizes for a GPU and for a rehearsal, arithmetic and memory format, timing, the report."""
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

import utility
from benchmark.cases import Size
from benchmark.side import seconds

# name: (--precision, whether float32 products may be TF32)
ARITHMETIC = {'float32': ('single', False), 'TF32': ('single', True), 'bf16': ('bf16', True), 'half': ('half', True)}
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels last': torch.channels_last}
PAPER = Size(batch=16, patch=64)
QUICK = Size(batch=2, patch=12, n_feats=8, n_blocks=1, lq=(18, 32))


class LeftOut(Exception):
    """Raised if a part cannot be run on this device; the text says why."""


class Setting(NamedTuple):
    """device: where; quick: small sizes and few repetitions, to see that every line runs."""
    device: torch.device
    quick: bool

    @property
    def size(self) -> Size:
        """Of the networks and batches: the paper's, or small ones."""
        return (QUICK if self.quick else PAPER)._replace(device=self.device.type)

    @property
    def arithmetic(self) -> dict[str, tuple[str, bool]]:
        """The part of ARITHMETIC that the device has."""
        return {name: each for name, each in ARITHMETIC.items() if self.device.type == 'cuda' or name != 'TF32'}

    @property
    def timed(self) -> dict[str, tuple[str, bool]]:
        """The part that is worth timing: CPUs compute half slowly, in float32."""
        return {name: each for name, each in self.arithmetic.items() if self.device.type == 'cuda' or name != 'half'}

    def needs_cuda(self, why: str) -> None:
        """Raises LeftOut on any other device."""
        if self.device.type != 'cuda':
            raise LeftOut(f'needs CUDA: {why}')


class Report:
    """Rows and notes of one part, written to `path` whenever one is added: a part that is cut short keeps them."""

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, {'rows': [], 'notes': [], 'failed': []}

    def add(self, **row: object) -> None:
        """A row of the part's table: {column: value}."""
        self._append('rows', row)

    def note(self, text: str) -> None:
        """A line below the table."""
        self._append('notes', text)

    def check(self, good: bool, text: str) -> str:
        """'ok' if it is `good`; otherwise the part has failed, with `text`."""
        if not good:
            self._append('failed', text)
        return 'ok' if good else 'FAILED'

    def leave_out(self, reason: str) -> None:
        """The part cannot be run here."""
        self.content['left out'] = f'left out: {reason}'
        self._append('notes', f'left out: {reason}')

    def _append(self, name, value):
        self.content[name].append(value)
        self.path.write_text(json.dumps(self.content, indent=1) + '\n', encoding='utf-8')


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """A context in which float32 convolutions and products may, or must not, be computed in TF32."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = allowed
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@contextmanager
def layout(name: str) -> Iterator[None]:
    """A context in which networks are placed in this memory format."""
    before = utility.memory_format
    utility.memory_format = lambda *_: LAYOUTS[name]
    try:
        yield
    finally:
        utility.memory_format = before


def own_layout(device: torch.device, precision: str) -> str:
    """The memory format that utility.memory_format chooses."""
    chosen = utility.memory_format(device, utility.ROUNDED[precision])
    return next(name for name, each in LAYOUTS.items() if each == chosen)


def timed(make: Callable[[], Callable], setting: Setting, budget: float = 2.0) -> tuple[float, float | None]:
    """Seconds of one call of what make() returns, a mean over about `budget` seconds after two that warm up, or five on
    a GPU, where the fourth may capture a graph, and the peak memory on the GPU in MiB (None elsewhere). The device is
    idle before and after."""
    gc.collect()
    if setting.device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    call = make()
    for _ in range(5 if setting.device.type == 'cuda' else 2):
        first = seconds(call, 1)
    mean = seconds(call, 1 if setting.quick else max(3, min(200, round(budget / max(first, 1e-5)))))
    return mean, torch.cuda.max_memory_allocated() / 2**20 if setting.device.type == 'cuda' else None


class Clock:
    """Whether `share` of a part's time is over."""

    def __init__(self, limit: float) -> None:
        self.end = time.monotonic() + limit

    def over(self) -> bool:
        """Whether it is."""
        return time.monotonic() > self.end
