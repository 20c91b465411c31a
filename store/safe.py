"""Weights as .safetensors files, which cannot contain code, with text metadata; also of 8 bits a weight, and as .xz."""
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from utility import UserError

SUFFIX = '.safetensors'
COMPRESSED = SUFFIX + '.xz'
FILTERS = [{'id': lzma.FILTER_LZMA2, 'preset': 6 | lzma.PRESET_EXTREME, 'pb': 0}]  # bytes that are not words of four
LIMIT = 2**30  # bytes of a file that is decompressed, and of the memory that it takes to do so
CHECKSUM = 'sha256'  # metadata key of the tensors' checksum in files that this project writes
SCALE = '.int8_scale'  # of a quantized tensor: appended to its key
LARGE = 4096  # elements from which a tensor is quantized: errors of the smaller first and last layers change brightness
LEVELS = 127
STEPS = 16  # of a quantized tensor in its standard deviation: finer ones score the same and make files compress worse


def is_safe(path: Path | str) -> bool:
    """Whether a path is that of a .safetensors file, compressed or not, by its ending."""
    return str(path).endswith((SUFFIX, COMPRESSED))


def packed(path: Path | str, weights: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """The bytes of the file `path`, compressed if its name says so, of CPU tensors {key: tensor} and metadata `about`
    them."""
    data = save(weights, {**about, CHECKSUM: _checksum(weights)})
    return lzma.compress(data, filters=FILTERS) if str(path).endswith(COMPRESSED) else data


def unpacked(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the file `path`, quantized ones as float32, and its metadata.

    Raises UserError if it is damaged or of another format.
    """
    try:
        data = Path(path).read_bytes()
        if str(path).endswith(COMPRESSED):
            data = _decompressed(data)
        weights = load(data)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except (SafetensorError, lzma.LZMAError) as error:
        raise UserError(f'{path}: damaged, or not a safetensors file ({error})') from error
    about = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')]).get('__metadata__', {})
    if about.get(CHECKSUM, '') not in ('', _checksum(weights)):
        raise UserError(f'{path}: damaged (checksum mismatch); copy or download it again')
    return _restored(weights), about


def _decompressed(data):
    """Raises LZMAError if `data` is not all of an xz file, or that of one larger than LIMIT."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LIMIT)
    content = decoder.decompress(data, LIMIT)
    if not decoder.eof or decoder.unused_data:
        raise lzma.LZMAError('cut off, too long or too large')
    return content


def quantized(weights: dict[str, Tensor], steps: Callable[[str], float] = lambda key: STEPS) -> dict[str, Tensor]:
    """`weights`, {key: tensor}, for packed(), with about 8 bits each: large tensors as int8, others in half precision.

    An int8 tensor q with its scale s, the float32 scalar of the key with SCALE appended, stands for s * q. steps: the
    number of steps s in the standard deviation of the tensor of a key, fewer if s * q reaches no largest weight then.
    """
    result = {}
    for key, tensor in weights.items():
        if tensor.numel() < LARGE:
            result[key] = tensor.detach().cpu().half().contiguous()
            continue
        tensor = tensor.detach().cpu().float()[None]
        result[key + SCALE] = scale(tensor.flatten(1), steps(key))[0]
        result[key] = rounded(tensor / result[key + SCALE])[0].to(torch.int8).contiguous()
    return result


def scale(weights: Tensor, steps: float) -> Tensor:
    """The scales (n,) of n flat tensors (n, m); steps: in a standard deviation, as quantized() takes them."""
    least = torch.finfo(torch.float32).tiny
    return torch.maximum(weights.abs().amax(1) / LEVELS, weights.std(1) / steps).clamp(min=least)


def rounded(tensors: Tensor) -> Tensor:
    """n tensors (n, ...) as integers. In weights of convolutions (n, out, in, k, k) the sum of each kernel is rounded,
    too: it is the response to plain areas, where errors of all kernels would add up to another brightness."""
    if tensors.ndim < 5:
        return tensors.round()
    kernels = tensors.flatten(3)                                                     # (n, out, in, k²)
    below = kernels.floor()
    rest = kernels - below
    rank = rest.argsort(-1, descending=True).argsort(-1)
    return (below + (rank < rest.sum(-1, keepdim=True).round())).view_as(tensors)


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
