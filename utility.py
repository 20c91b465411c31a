"""Shared helpers: the version, the error for users, random seeds, the device, 8-bit rounding."""
import hashlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

# Of the project, from pyproject.toml: for --version, checkpoints, reports and cards.
VERSION = re.search(r'^version = "(.+)"$', Path(__file__).with_name('pyproject.toml').read_text(encoding='utf-8'),
                    re.M)[1]
ROUNDED = {'single': None, 'bf16': torch.bfloat16, 'half': torch.float16}  # --precision: dtype of autocast
PRECISIONS = ('auto', *ROUNDED)  # where images are only upscaled

LUMA = 0.299, 0.587, 0.114  # weights of red, green and blue
STDERR = threading.RLock()


class UserError(Exception):
    """An error for the user. Its text is one line: what is wrong, in which file or flag, what to do."""
    status = 2  # exit status of the program


class Unavailable(UserError):
    """An error that may be temporary, such as a disk that does not answer: running again may work."""
    status = 75  # EX_TEMPFAIL of sysexits.h, as of a training stopped by a signal


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory, on a GPU or the CPU."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """A context that captures standard error, also of C libraries; its list holds the lines after the block.

    One thread at a time, as the process has one standard error.
    """
    with STDERR:
        yield from _captured()


def _captured() -> Iterator[list[str]]:
    lines = []
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors='replace').splitlines()


def shown(path: str | Path) -> str:
    """`path` as text that any terminal can show on one line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def expand(path: str | Path) -> Path:
    """`path` as a Path, ~ and ~user replaced by the home folder. Raises UserError if that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f'{shown(path)}: no such user or home folder; write the path without ~') from error


def expanded(text: str) -> str:
    """An argparse type: a path with ~ expanded, which shells do at the start of a word but not after --flag=."""
    return str(expand(text)) if text.startswith('~') else text


expanded.__name__ = 'path'  # what --help shows as the value


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone.

    Every random number comes from a generator with a seed derived from its purpose, such as
    (seed, 'crop', epoch, position). No generator state is saved, and a run can stop anywhere and resume bit for bit.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def seeded(device: torch.device | str, seed: int) -> torch.Generator:
    """A torch.Generator on `device`, seeded by `seed`."""
    return torch.Generator(device).manual_seed(seed)


def generator(device: torch.device | str, *parts: object) -> torch.Generator:
    """The same, seeded by `parts` as derive_seed does."""
    return seeded(device, derive_seed(*parts))


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` of the host on `device`; neither waits for the other."""
    if values.device.type == 'cpu' and device.type == 'cuda':
        values = values.pin_memory()  # from other memory the copy waits until the device has done all before it
    return values.to(device, non_blocking=True)


def luma(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) → (B, 1, H, W), the full-range luma of ITU-R BT.601, by which gray keeps its value."""
    return torch.einsum('c,bchw->bhw', send(torch.tensor(LUMA, dtype=image.dtype), image.device), image)[:, None]


def quantize(image: torch.Tensor, rgb_range: int = 1) -> torch.Tensor:
    """Round to 8 bits, as writing the image to a file would: values in [0, rgb_range] on a grid of 255 steps."""
    return quantize_(image.clone(), rgb_range)


def quantize_(image: torch.Tensor, rgb_range: int = 1) -> torch.Tensor:
    """The same in place: taking memory anew costs more than the rounding."""
    return image.mul_(255 / rgb_range).round_().clamp_(0, 255).mul_(rgb_range / 255)


def memory_format(device: torch.device, rounded: torch.dtype | None = None) -> torch.memory_format:
    """The fastest memory format of feature maps: channels last on the CPU, as measured, and on CUDA with 16-bit
    arithmetic on tensor cores; contiguous otherwise."""
    last = device.type == 'cpu' or (device.type == 'cuda' and rounded)
    return torch.channels_last if last else torch.contiguous_format


def place(network: nn.Module, device: torch.device, rounded: torch.dtype | None = None) -> nn.Module:
    """Move `network` to `device`, in the memory format that is fastest there. Returns it.

    Raises UserError for a GPU without bfloat16.
    """
    if (device.type, rounded) == ('cuda', torch.bfloat16) and torch.cuda.get_device_capability(device)[0] < 8:
        raise UserError('--precision bf16: this GPU does not support bfloat16; use --precision half')
    return network.to(device, memory_format=memory_format(device, rounded))


def rounding(precision: str, device: torch.device) -> torch.dtype | None:
    """The entry of ROUNDED for --precision; for 'auto' bfloat16 on a CPU with instructions for it, else None."""
    if precision != 'auto':
        return ROUNDED[precision]
    found = getattr(torch.cpu, 'get_capabilities', dict)() if device.type == 'cpu' else {}  # older PyTorch: absent
    return torch.bfloat16 if found.get('amx_bf16') or found.get('avx512_bf16') else None


def arithmetic(device: torch.device, rounded: torch.dtype | None = None) -> AbstractContextManager:
    """A context of the arithmetic of --precision; rounded: its entry in ROUNDED."""
    if not rounded:
        return nullcontext()
    return torch.autocast(device.type, rounded, cache_enabled=False)  # no weight is used twice


def unrounded(device: torch.device) -> AbstractContextManager:
    """A context in which arithmetic() does not apply."""
    return torch.autocast(device.type, enabled=False) if device.type in ('cpu', 'cuda') else nullcontext()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """A context with one CPU thread: for small tensors several threads cost more than they save."""
    threads = torch.get_num_threads()
    if device.type == 'cpu':
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """torch.device for --device auto, cpu, cuda or mps.

    auto: the first of cuda, mps, cpu that is available. Raises UserError if the named one is not.
    """
    present = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available(), 'cpu': True}
    if name == 'auto':
        name = next(device for device, there in present.items() if there)
    if not present.get(name):
        raise UserError(f'--device {name}: not available to PyTorch on this machine; use --device auto or cpu')
    return torch.device(name)


def present_gpus(wanted: int, device: torch.device) -> int:
    """The number of replicas: --n_GPUs, at most the number of GPUs present, 1 without any."""
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if device.type == 'cuda' and wanted > present:
        print(f'--n_GPUs {wanted}: only {present} present; using {present}')
    return min(wanted, present)
