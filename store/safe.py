"""Weights as .safetensors files, which cannot contain code, with text metadata; also with 8 bits a weight."""
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utility import UserError

SUFFIX = '.safetensors'
CHECKSUM = 'sha256'  # metadata key of the tensors' checksum in files that this project writes
SCALE = '.int8_scale'  # of a quantized tensor: appended to its key
LARGE = 1024  # elements from which a tensor is quantized: the others are 0.2 % of a student
LEVELS = 127
STEPS = 20  # of a quantized tensor in its standard deviation: finer ones score the same and make files compress worse


def packed(weights: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """The bytes of a file of CPU tensors {key: tensor} and metadata `about` them."""
    return save(weights, {**about, CHECKSUM: _checksum(weights)})


def unpacked(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the file `path`, quantized ones as float32, and its metadata.

    Raises UserError if it is damaged or of another format.
    """
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
    return _restored(weights), about


def quantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, {key: tensor}, for packed(), with about 8 bits each: large tensors as int8, others in half precision.

    An int8 tensor q with its scale s, the float32 scalar of the key with SCALE appended, stands for s * q.
    """
    result = {}
    for key, tensor in weights.items():
        if tensor.numel() < LARGE:
            result[key] = tensor.detach().cpu().half().contiguous()
            continue
        tensor = tensor.detach().cpu().float()
        least = torch.finfo(torch.float32).tiny
        result[key + SCALE] = torch.maximum(tensor.abs().max() / LEVELS, tensor.std() / STEPS).clamp(min=least)
        result[key] = (tensor / result[key + SCALE]).round().to(torch.int8).contiguous()
    return result


def _restored(weights):
    scales = {key: weights[key + SCALE] for key, tensor in weights.items()
              if tensor.dtype == torch.int8 and key + SCALE in weights and weights[key + SCALE].ndim == 0}
    return {key: tensor.float() * scales[key] if key in scales else tensor
            for key, tensor in weights.items() if not (key.endswith(SCALE) and key.removesuffix(SCALE) in scales)}


def _checksum(weights):
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.items()):
        digest.update(f'{key} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
