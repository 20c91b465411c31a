"""Blur by kernels from a .mat, .npy, .npz or .pt file, or a folder of them."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from data.degradation.blurs import Blur
from data.degradation.resize import exact
from data.degradation.step import Step
from store.tensors import load_checked
from utility import UserError, expanded, send, shown

SUFFIXES = '.mat', '.npy', '.npz', '.pt'
TOLERANCE = 0.01  # deviation of a kernel's sum from 1: files often hold few digits


@dataclass(frozen=True)
class OwnKernel(Blur, name='own_kernel'):
    """Correlation with the kernel `index` of a file or folder; of several indices one is sampled."""
    file: str
    index: int | tuple[int, ...] | torch.Tensor

    def draw(self, generator: torch.Generator | None, n: int = 1) -> tuple[Step, ...]:
        if not isinstance(self.index, tuple):
            return (self,)
        if generator is None:
            raise ValueError('several kernels: a generator is needed to sample one')
        choices = send(torch.tensor(self.index), generator.device)
        picks = torch.randint(len(choices), (n,), generator=generator, device=generator.device)
        return (replace(self, index=choices[picks]),)

    def kernels(self) -> torch.Tensor:
        made = load_kernels(self.file)                                              # (n, size, size)
        index = self.index if isinstance(self.index, torch.Tensor) else torch.tensor([self.index])
        return send(made.to(exact(index.device)), index.device)[index]

    @property
    def size(self) -> int:
        return load_kernels(self.file).shape[-1]

    def __str__(self) -> str:
        index = self.to_dict()['index']
        return f'kernel {Path(self.file).stem}' + f' {index}' * isinstance(index, int)


def own_kernels(file: str | None, chosen: str | None = None) -> OwnKernel:
    """All kernels of --kernels, or those of --kernel_index, such as '0,3,7'. Raises UserError about either."""
    if not file:
        raise UserError('--blur_type file needs --kernels: a .mat, .npy, .npz or .pt file, or a folder of them')
    count = len(load_kernels(file))
    index = tuple(range(count)) if chosen is None else tuple(int(part) for part in chosen.split(','))
    if beyond := [each for each in index if each >= count]:
        raise UserError(f'--kernel_index {beyond[0]}: {shown(file)} holds {count} kernels, 0 to {count - 1}')
    return OwnKernel(file, index if len(index) > 1 else index[0])


@lru_cache(maxsize=8)
def load_kernels(file: str) -> torch.Tensor:
    """All kernels of a file or folder, sorted by name: (n, k, k) float64, smaller ones zero-padded.

    Raises UserError if there is none, or an array is not a kernel.
    """
    path = Path(expanded(file))
    if not path.exists():
        raise UserError(f'--kernels {shown(file)}: no such file or folder')
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
    found = [kernel for each in files for kernel in _kernels_of(each)]
    if not found:
        raise UserError(f'--kernels {shown(file)}: no .mat, .npy, .npz or .pt file in this folder')
    size = max(kernel.shape[-1] for kernel in found)
    padded = [F.pad(torch.from_numpy(kernel), ((size - kernel.shape[-1]) // 2,) * 4) for kernel in found]
    return torch.stack(padded)


def _kernels_of(path: Path) -> Iterator[np.ndarray]:
    """The kernels of one file, float64 (k, k) each. A cell array of MATLAB is a list of kernels."""
    for name, array in _arrays(path).items():
        kernels = array.ravel() if array.dtype == object else array[None] if array.ndim == 2 else array
        if np.ndim(kernels[0]) != 2:
            raise UserError(f'--kernels {shown(path)}: {name or "array"} has shape {array.shape}; save it as (k, k) or '
                            '(n, k, k)')
        for i, kernel in enumerate(kernels):
            where = f'--kernels {shown(path)}: kernel {i}' + f' of {name}' * bool(name)
            yield _checked(np.asarray(kernel, np.float64), where)


def _checked(kernel, where):
    height, width = kernel.shape
    if height != width or not width % 2:
        raise UserError(f'{where} is {height}x{width}; sides must be equal and odd: pad it with zeros')
    if not np.isfinite(kernel).all():
        raise UserError(f'{where} has values that are not finite; remove it')
    if abs(kernel.sum() - 1) > TOLERANCE:
        raise UserError(f'{where} sums to {kernel.sum():.4g}, not 1; divide it by its sum')
    return kernel


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a file, {'': array} for one without names. Raises UserError if it cannot be read."""
    if path.suffix not in SUFFIXES:
        raise UserError(f'--kernels {shown(path)}: give a {", ".join(SUFFIXES)} file or a folder of them')
    try:
        if path.suffix == '.mat':
            found = {name: value for name, value in loadmat(path).items() if not name.startswith('__')}
        elif path.suffix == '.pt':
            with open(path, 'rb') as file:
                found = load_checked(path, file, 'kernel', 'save the kernels as a tensor by torch.save')
        else:
            found = np.load(path, allow_pickle=False)
        found = dict(found) if isinstance(found, dict | np.lib.npyio.NpzFile) else {'': found}
        return {name: np.atleast_1d(np.asarray(value)) for name, value in found.items()}
    except OSError as error:
        raise UserError(f'--kernels {shown(path)}: {error.strerror or "damaged"}') from error
    except NotImplementedError as error:
        raise UserError(f'--kernels {shown(path)}: in the format of MATLAB 7.3; save it with the option -v7') from error
    except (ValueError, TypeError, EOFError, KeyError, RuntimeError, BadZipFile, MatReadError) as error:
        raise UserError(f'--kernels {shown(path)}: damaged, or holds no arrays of kernels') from error
