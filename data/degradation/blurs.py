"""Blur steps: the kernels of the papers' degradation and of real-world super-resolution."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from data.degradation import kernels
from data.degradation.resize import blur, blur_and_downsample, exact
from data.degradation.step import DEGREES, Context, Step, Value, tensors, text
from utility import send


class Blur(Step):
    """Correlation of all channels with one kernel, reflecting at the borders. Subclasses define the kernel.

    size: side of the kernel in pixels, odd; a field of every subclass. isotropic: whether the kernel is the outer
    product of one profile, which selects the fast path without reading values back from the device.
    """
    per_image = True
    isotropic: ClassVar[bool] = False
    size: int

    def kernels(self) -> torch.Tensor:
        """(n, size, size), each with sum 1, on the device of the parameters."""
        raise NotImplementedError

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        return blur(image, self._placed(image.device))

    def downsampled(self, image: torch.Tensor, scale: int, mode: str) -> torch.Tensor:
        """(B, C, H, W) → (B, C, H/s, W/s): blur and downsampling in one operation, much faster than in two."""
        return blur_and_downsample(image, self._placed(image.device), self.isotropic, scale, mode)

    def _placed(self, device):
        return send(self.kernels().to(exact(device)), device)

    @property
    def setting(self) -> str:
        return f'{self.size}x{self.size} kernel'


@dataclass(frozen=True)
class IsoGaussian(Blur, name='iso_gaussian'):
    """Isotropic Gaussian blur. sigma: standard deviation in pixels; 0: no blur."""
    isotropic = True
    sigma: Value
    size: int = 21

    def kernels(self) -> torch.Tensor:
        sigma, = tensors(self.sigma)
        return kernels.gaussian(sigma, sigma, torch.zeros_like(sigma), self.size)

    def __str__(self) -> str:
        return f'sigma {text(self.to_dict()["sigma"])}'


@dataclass(frozen=True)
class AnisoGaussian(Blur, name='aniso_gaussian'):
    """Anisotropic Gaussian blur. lambda_1, lambda_2: standard deviations in pixels along and across theta (radians)."""
    lambda_1: Value
    lambda_2: Value
    theta: Value = field(metadata=DEGREES)
    size: int = 21

    def kernels(self) -> torch.Tensor:
        return kernels.gaussian(*tensors(self.lambda_1, self.lambda_2, self.theta), self.size)

    def __str__(self) -> str:
        lambda_1, lambda_2, theta = (text(self.to_dict()[name]) for name in ('lambda_1', 'lambda_2', 'theta'))
        return f'lambda {lambda_1}/{lambda_2}, theta {theta}'


@dataclass(frozen=True)
class _WithExponent(Blur):
    """An anisotropic blur whose profile has an exponent beta. lambda_1, lambda_2, theta: as in AnisoGaussian."""
    profile: ClassVar[Callable[..., torch.Tensor]]
    lambda_1: Value
    lambda_2: Value
    theta: Value = field(metadata=DEGREES)
    beta: Value
    size: int = 21

    def kernels(self) -> torch.Tensor:
        return type(self).profile(*tensors(self.lambda_1, self.lambda_2, self.theta, self.beta), self.size)

    def __str__(self) -> str:
        kind = self.name.removesuffix('_gaussian')
        return f'{kind} {AnisoGaussian.__str__(self)}, beta {text(self.to_dict()["beta"])}'


@dataclass(frozen=True)
class GeneralisedGaussian(_WithExponent, name='generalised_gaussian'):
    """Gaussian blur with exponent beta: 1 is a Gaussian, smaller has longer tails, larger is flatter."""
    profile = staticmethod(kernels.generalised)


@dataclass(frozen=True)
class Plateau(_WithExponent, name='plateau'):
    """Blur by 1 / (1 + q^beta), a plateau in the centre."""
    profile = staticmethod(kernels.plateau)


@dataclass(frozen=True)
class Sinc(Blur, name='sinc'):
    """The ideal low-pass filter truncated to the kernel's size, which rings. cutoff: radians per pixel, up to pi."""
    cutoff: Value
    size: int = 21

    def kernels(self) -> torch.Tensor:
        return kernels.sinc(*tensors(self.cutoff), self.size)

    def __str__(self) -> str:
        return f'sinc {text(self.to_dict()["cutoff"])}'
