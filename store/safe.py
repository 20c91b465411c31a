"""Weights as .safetensors files, which cannot contain code, with text metadata."""
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utility import UserError

SUFFIX = '.safetensors'
CHECKSUM = 'sha256'  # metadata key of the tensors' checksum in files that this project writes


def packed(weights: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """The bytes of a file of CPU tensors {key: tensor} and metadata `about` them."""
    return save(weights, {**about, CHECKSUM: _checksum(weights)})


def unpacked(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the file `path` and its metadata. Raises UserError if it is damaged or of another format."""
    try:
        with safe_open(path, 'pt') as file:
            names = file.keys()
            weights, about = {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except SafetensorError as error:
        raise UserError(f'{path}: damaged, or not a safetensors file ({error})') from error
    if about.get(CHECKSUM, '') not in ('', _checksum(weights)):
        raise UserError(f'{path}: damaged (checksum mismatch); copy or download it again')
    return weights, about


def _checksum(weights):
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.items()):
        digest.update(f'{key} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
