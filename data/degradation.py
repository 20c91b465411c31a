"""How a low-quality image comes about: lq = Q(bicubic↓s(hr ⊗ k) + n), on the device of hr.

Blur and bicubic resizing are linear. A kernel that separates makes both together, borders included, two small matrices:
lq = A_h @ hr @ A_w^T. An isotropic kernel does; any other one is a sum of few that do, found by its singular value
decomposition, and so is its lq a sum.
"""
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from utility import quantize_

BLOCKS = (64, 512)  # rows and columns of the longer side that one matrix product covers: the matrices are banded
NEGLIGIBLE = 1e-6  # of a kernel's sum, 1: what leaving out singular values may take from it
SHARP = 1e-3  # pixels: a Gaussian this narrow is exactly one pixel, so no blur needs no case of its own


@dataclass(frozen=True)
class Degradation:
    """What images undergo: float tensors of shape (n,), with n = 1 (all images alike) or one entry per image.

    lambda_1, lambda_2: standard deviations in pixels along and across theta (radians); noise: grey levels 0-255.
    isotropic and noisy are known beforehand, so that no value has to come back from the device to choose the fast way.
    """
    lambda_1: torch.Tensor
    lambda_2: torch.Tensor
    theta: torch.Tensor
    noise: torch.Tensor
    isotropic: bool = False
    noisy: bool = True

    @classmethod
    def iso(cls, sigma, noise=0):
        return cls(*torch.tensor([[sigma], [sigma], [0.0], [noise]]), isotropic=True, noisy=noise > 0)

    @classmethod
    def aniso(cls, lambda_1, lambda_2, theta_degrees, noise=0):
        values = [[lambda_1], [lambda_2], [math.radians(theta_degrees)], [noise]]
        return cls(*torch.tensor(values), noisy=noise > 0)

    @classmethod
    def bicubic(cls):
        return cls.iso(0)

    def __str__(self):
        """'sigma 2.6, noise 0' or 'lambda 3.5/1.5, theta 20, noise 10'; several are joined by '; '."""
        values = torch.stack([self.lambda_1, self.lambda_2, self.theta.rad2deg(), self.noise], 1).tolist()
        blur_text = 'sigma {0:.4g}' if self.isotropic else 'lambda {0:.4g}/{1:.4g}, theta {2:.4g}'
        return '; '.join((blur_text + ', noise {3:.4g}').format(*row) for row in values)


@dataclass(frozen=True)
class DegradationRange:
    """What training draws from, uniformly; theta in [0, pi), level in [0, noise]. Default: stage 1, bicubic."""
    blur_type: str = 'iso_gaussian'
    sig_min: float = 0.0
    sig_max: float = 0.0
    lambda_min: float = 0.0
    lambda_max: float = 0.0
    noise: float = 0.0

    def sample(self, generator, n=1):
        """n degradations on the generator's device."""
        def draw(low, high):
            return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)

        isotropic, noisy = self.blur_type == 'iso_gaussian', self.noise > 0
        lambda_1 = draw(self.sig_min, self.sig_max) if isotropic else draw(self.lambda_min, self.lambda_max)
        lambda_2 = lambda_1 if isotropic else draw(self.lambda_min, self.lambda_max)
        theta = torch.zeros_like(lambda_1) if isotropic else draw(0, math.pi)
        noise = draw(0, self.noise) if noisy else torch.zeros_like(lambda_1)
        return Degradation(lambda_1, lambda_2, theta, noise, isotropic, noisy)


def _exact(device):
    """The dtype of kernels and matrices: MPS has no float64."""
    return torch.float32 if device.type == 'mps' else torch.float64


def kernel(degradation, size):
    """Gaussian kernels (n, size, size), sum 1, float64: exp(-p^T Sigma^-1 p / 2), p = (column, row) from the centre.

    Sigma = U diag(lambda_1^2, lambda_2^2) U^T, U the rotation by theta.
    """
    values = torch.stack([degradation.lambda_1, degradation.lambda_2, degradation.theta])
    lambda_1, lambda_2, theta = values.to(_exact(values.device))[:, :, None, None]  # (n, 1, 1) each
    x = torch.arange(size, device=theta.device, dtype=theta.dtype) - (size - 1) / 2
    y = x[:, None]
    along = (x * theta.cos() + y * theta.sin()) / lambda_1.clamp(min=SHARP)         # (n, size, size)
    across = (y * theta.cos() - x * theta.sin()) / lambda_2.clamp(min=SHARP)
    weights = torch.exp(-(along ** 2 + across ** 2) / 2)
    return weights / weights.sum((-2, -1), keepdim=True)


def _reflected(size, radius, device):
    """Where each of size + 2 * radius pixels of a reflected line comes from; repeatedly, if the line is that short."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-radius, size + radius, device=device) % period
    return torch.minimum(index, period - index).clamp(max=size - 1)


def separate(kernels):
    """(n, k, k) as sums of separable kernels: vertical and horizontal profiles (n, r, k), whose outer products add up.

    On the CPU r is as small as the kernels allow, 1 to k and mostly below 10. Elsewhere it is k, each row a term of its
    own: neither a decomposition nor a wait for its result pays there.
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
    """(out, size): 'shrink' and 'enlarge' are MATLAB's bicubic, 's-fold' takes every scale-th pixel from 0."""
    with torch.inference_mode(False):  # what is cached must serve later callers in any mode
        if method == 's-fold':
            return torch.eye(size, dtype=_exact(device), device=device)[::scale]
        out, stretch = (size // scale, scale) if method == 'shrink' else (size * scale, 1)
        centre = (torch.arange(out, dtype=torch.float64)[:, None] + 0.5) * (size / out) - 0.5
        taps = (centre - 2 * stretch).ceil() + torch.arange(4 * stretch + 1)        # (out, taps)
        weights = _cubic((centre - taps) / stretch)
        weights /= weights.sum(1, keepdim=True)
        matrix = torch.zeros(out, size, dtype=torch.float64).scatter_add_(1, taps.long().clamp(0, size - 1), weights)
        return matrix.to(_exact(device)).to(device)


def _blurred(matrix, scale, profiles):
    """(n, r, out, size): correlates a line with each profile (n, r, k), reflecting at its ends, then applies matrix."""
    (out, size), (n, r, k) = matrix.shape, profiles.shape
    length = min(size, 5 * scale)  # of the window outside of which a row of matrix is 0
    start = (torch.arange(-2, out - 2, device=matrix.device) * scale).clamp(0, size - length)[:, None]
    offset = torch.arange(length + k - 1, device=matrix.device)
    window = matrix.gather(1, start + offset[:length])                              # (out, length)
    taps = profiles.flip(-1).reshape(n * r, 1, k)  # conv1d correlates, too, but here the matrix moves over the image
    window = F.conv1d(window[:, None], taps, padding=k - 1).transpose(0, 1)         # (n·r, out, length + k - 1)
    index = _reflected(size, k // 2, matrix.device)[start + offset]
    blurred = window.new_zeros(n * r, out, size).scatter_add_(-1, index.expand_as(window), window)
    return blurred.view(n, r, out, size)


def _bands(out, size, reach, step):
    """Slices (of `step` outputs, of the inputs that they need) of a matrix (out, size), 0 beyond `reach` inputs from
    its diagonal."""
    for start in range(0, out, step):
        stop = min(start + step, out)
        yield slice(start, stop), slice(max(0, start * size // out - reach), min(size, -(-stop * size // out) + reach))


def _apply(image, rows, columns, reach):
    """Sum over r of rows @ image @ columns^T, (n, r, h, H) and (n, r, w, W), n = 1 or B.

    On the CPU band by band; where launching costs more than multiplying, in two products. On CUDA in float64, which
    TF32 leaves alone.
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


def resize(image, scale, shrink):
    """MATLAB's bicubic imresize of (B, C, H, W), by 1 / scale (antialiased) if shrink, else by scale; not rounded."""
    method, reach = ('shrink', 2 * scale + 1) if shrink else ('enlarge', 3)
    rows, columns = (_resize_matrix(side, scale, method, image.device)[None, None] for side in image.shape[-2:])
    with torch.autocast(image.device.type, enabled=False):
        return _apply(image, rows, columns, reach)


class Degrader:
    """Turns hr into the pair that training and tests use. mode: 'bicubic' shrinking, or 's-fold' = every s-th pixel."""

    def __init__(self, scale, kernel_size=21, mode='bicubic', rgb_range=1):
        self.scale = scale
        self.kernel_size = kernel_size
        self.method = {'bicubic': 'shrink', 's-fold': 's-fold'}[mode]
        self.rgb_range = rgb_range
        self.label = f'{kernel_size}x{kernel_size} kernel, {mode} x1/{scale}'

    def __str__(self):
        return self.label

    @torch.no_grad()
    def __call__(self, hr, degradation, generator=None):
        """hr (B, 3, H, W) in [0, rgb_range] → lq (B, 3, H/s, W/s) and its bicubic enlargement up (B, 3, H, W), 8-bit.

        up is made before lq is rounded. generator, on the device of hr, draws the noise map, if there is noise.
        ValueError if H or W is no multiple of the scale.
        """
        if hr.shape[-2] % self.scale or hr.shape[-1] % self.scale:
            raise ValueError(f'height and width of {tuple(hr.shape)} are no multiples of scale {self.scale}: crop it')
        lq = self._shrink(hr, degradation)                                          # (B, 3, h, w)
        if degradation.noisy:
            if generator is None:
                raise ValueError('a noisy degradation needs a generator to draw its noise from')
            deviation = degradation.noise.to(lq) * (self.rgb_range / 255)           # (n,)
            noise = torch.randn(lq.shape, generator=generator, device=generator.device).to(lq)
            lq += noise * deviation[:, None, None, None]
        up = resize(lq, self.scale, shrink=False)                                   # (B, 3, H, W)
        return quantize_(lq, self.rgb_range), quantize_(up, self.rgb_range)

    def _shrink(self, hr, degradation):
        kernels = kernel(degradation, self.kernel_size).to(_exact(hr.device)).to(hr.device)
        rows, columns = (_resize_matrix(side, self.scale, self.method, hr.device) for side in hr.shape[-2:])
        reach = 2 * self.scale + 1 + self.kernel_size // 2
        with torch.autocast(hr.device.type, enabled=False):
            if degradation.isotropic:
                vertical = horizontal = kernels.sum(-1)[:, None]                    # (n, 1, k)
            else:
                vertical, horizontal = separate(kernels)                            # (n, r, k) each
            return _apply(hr, _blurred(rows, self.scale, vertical), _blurred(columns, self.scale, horizontal), reach)
