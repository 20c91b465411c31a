"""Bicubic resizing, and blur followed by resizing, as banded matrices: lq = A_h @ hr @ A_w^T, borders included.

Both are linear. For a separable kernel, blur and resizing together are two small matrices. Any other kernel is a sum of
a few separable ones, found by its singular value decomposition, and lq is the sum of theirs.
"""
from functools import lru_cache

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len

BLOCKS = (64, 512)  # rows and columns of the longer side that one matrix product covers: the matrices are banded
NEGLIGIBLE = 1e-6  # largest sum of the singular values that are left out, of a kernel with sum 1


def exact(device: torch.device) -> torch.dtype:
    """The dtype of kernels and matrices: MPS has no float64."""
    return torch.float32 if device.type == 'mps' else torch.float64


def resize(image: torch.Tensor, scale: int, downsample: bool) -> torch.Tensor:
    """MATLAB's bicubic imresize of (B, C, H, W), unrounded; by 1 / scale (antialiased) if downsample, else by scale."""
    method, reach = ('downsample', 2 * scale + 1) if downsample else ('upsample', 3)
    rows, columns = (_resize_matrix(side, scale, method, image.device)[None, None] for side in image.shape[-2:])
    with torch.autocast(image.device.type, enabled=False):
        return _apply(image, rows, columns, reach)


def blur(image: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Correlate (B, C, H, W) with kernels (n, k, k), n = 1 or B, reflecting at the borders. → (B, C, H, W)

    By FFT, which is faster than k² taps.
    """
    (height, width), radius = image.shape[-2:], kernels.shape[-1] // 2
    if radius < min(height, width):
        padded = F.pad(image, (radius,) * 4, mode='reflect')
    else:
        rows, columns = (_reflected(side, radius, image.device) for side in (height, width))
        padded = image[..., rows, :][..., columns]
    with torch.autocast(image.device.type, enabled=False):
        size = [8 * next_fast_len(-(-side // 8)) for side in padded.shape[-2:]]
        spectrum = torch.fft.rfft2(padded, size) * torch.fft.rfft2(kernels.to(image)[:, None], size).conj()
        return torch.fft.irfft2(spectrum, size)[..., :height, :width].contiguous()


def blur_and_downsample(image: torch.Tensor, kernels: torch.Tensor, isotropic: bool, scale: int,
                        mode: str) -> torch.Tensor:
    """Correlate (B, C, H, W) with kernels (n, k, k), n = 1 or B, reflecting at the borders, and downsample by `scale`.

    mode: 'bicubic' as in resize(), or 's-fold', every scale-th pixel from 0. isotropic: the kernels are known to be
    outer products of one profile. → (B, C, H/s, W/s), not rounded.
    """
    method = {'bicubic': 'downsample', 's-fold': 's-fold'}[mode]
    rows, columns = (_resize_matrix(side, scale, method, image.device) for side in image.shape[-2:])
    reach = 2 * scale + 1 + kernels.shape[-1] // 2
    with torch.autocast(image.device.type, enabled=False):
        if isotropic:
            vertical = horizontal = kernels.sum(-1)[:, None]                        # (n, 1, k)
        else:
            vertical, horizontal = separate(kernels)                                # (n, r, k) each
        return _apply(image, _blurred(rows, scale, vertical), _blurred(columns, scale, horizontal), reach)


def separate(kernels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k, k) as sums of r separable kernels: vertical and horizontal profiles (n, r, k).

    On the CPU r is as small as the kernels allow, 1 to k and mostly below 10, by singular value decomposition. On other
    devices r is k, one term per row, as the decomposition and the synchronisation would cost more than they save.
    """
    if kernels.device.type != 'cpu':
        rows = torch.eye(kernels.shape[-1], dtype=kernels.dtype, device=kernels.device)
        return rows.expand_as(kernels), kernels
    u, s, v = torch.linalg.svd(kernels)
    rest = s.flip(-1).cumsum(-1).flip(-1).amax(0)                                   # (k,): left out from this one on
    r = max(1, int((rest > NEGLIGIBLE).sum()))
    return (u * s[:, None])[..., :r].mT, v[:, :r]


def _cubic(x):
    """Keys' cubic convolution kernel with a = -0.5."""
    x = x.abs()
    return torch.where(x <= 1, (1.5 * x - 2.5) * x ** 2 + 1, torch.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))


@lru_cache(maxsize=32)
def _resize_matrix(size, scale, method, device):
    """(out, size): 'downsample' and 'upsample' are MATLAB's bicubic, 's-fold' takes every scale-th pixel from 0."""
    with torch.inference_mode(False):  # the cached matrix must be usable in any mode
        if method == 's-fold':
            return torch.eye(size, dtype=exact(device), device=device)[::scale]
        out, stretch = (size // scale, scale) if method == 'downsample' else (size * scale, 1)
        centre = (torch.arange(out, dtype=torch.float64)[:, None] + 0.5) * (size / out) - 0.5
        taps = (centre - 2 * stretch).ceil() + torch.arange(4 * stretch + 1)        # (out, taps)
        weights = _cubic((centre - taps) / stretch)
        weights /= weights.sum(1, keepdim=True)
        matrix = torch.zeros(out, size, dtype=torch.float64).scatter_add_(1, taps.long().clamp(0, size - 1), weights)
        return matrix.to(exact(device)).to(device)


def _reflected(size, radius, device):
    """Source indices of the size + 2 * radius pixels of a reflected line, reflected repeatedly if it is short."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-radius, size + radius, device=device) % period
    return torch.minimum(index, period - index).clamp(max=size - 1)


def _blurred(matrix, scale, profiles):
    """(n, r, out, size): correlates a line with each profile (n, r, k), reflecting at its ends, then applies matrix."""
    (out, size), (n, r, k) = matrix.shape, profiles.shape
    length = min(size, 5 * scale)  # of the window that holds the nonzero values of a row of matrix
    start = (torch.arange(-2, out - 2, device=matrix.device) * scale).clamp(0, size - length)[:, None]
    offset = torch.arange(length + k - 1, device=matrix.device)
    window = matrix.gather(1, start + offset[:length])                              # (out, length)
    taps = profiles.flip(-1).reshape(n * r, 1, k)  # flipped, as conv1d correlates
    window = F.conv1d(window[:, None], taps, padding=k - 1).transpose(0, 1)         # (n·r, out, length + k - 1)
    index = _reflected(size, k // 2, matrix.device)[start + offset]
    blurred = window.new_zeros(n * r, out, size).scatter_add_(-1, index.expand_as(window), window)
    return blurred.view(n, r, out, size)


def _bands(out, size, reach, step):
    """Slices (of `step` outputs, of the inputs that they need) of a banded matrix (out, size) that is 0 beyond `reach`
    inputs from its diagonal."""
    for start in range(0, out, step):
        stop = min(start + step, out)
        yield slice(start, stop), slice(max(0, start * size // out - reach), min(size, -(-stop * size // out) + reach))


def _apply(image, rows, columns, reach):
    """Sum over r of rows @ image @ columns^T, (n, r, h, H) and (n, r, w, W), n = 1 or B.

    On the CPU band by band; on other devices, where kernel launches dominate, in two products. On CUDA in float64,
    which TF32 does not affect.
    """
    kind, dtype = image.dtype, torch.float64 if image.is_cuda else image.dtype
    (b, c, height, width), (n, r, out_h, _), out_w = image.shape, rows.shape, columns.shape[2]
    steps = [max(1, block * out // max(size, out)) if image.device.type == 'cpu' else out
             for block, out, size in zip(BLOCKS, (out_h, out_w), (height, width), strict=True)]
    image, rows, columns = image.to(dtype), rows.to(dtype).transpose(1, 2), columns.to(dtype).transpose(2, 3)
    result = image.new_empty(b, c, out_h, out_w)
    for out, into in _bands(out_h, height, reach, steps[0]):
        factor = rows[:, out, :, into].flatten(1, 2)[:, None]                       # (n, 1, o·r, span)
        tall = (factor @ image[:, :, into]).view(b, -1, r, width)                   # (B, C·o, r, W)
        for _out, _into in _bands(out_w, width, reach, steps[1]):
            factor = columns[:, :, _into, _out].flatten(1, 2)                       # (n, r·span, p)
            part = tall[..., _into].flatten(2) @ (factor if n > 1 else factor[0])   # (B, C·o, p)
            result[:, :, out, _out] = part.view(b, c, -1, part.shape[2])
    return result.to(kind)                                                          # (B, C, h, w)
