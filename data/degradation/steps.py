"""The steps of y = Q(bicubic↓s(x ⊗ k) + n): blur, downsampling, Gaussian noise, rounding to 8 bits."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from data.degradation import kernels
from data.degradation.resize import blur_and_downsample, exact, resize
from data.degradation.step import DEGREES, Step, Value, tensors, text
from utility import quantize_


class Blur(Step):
    """Correlation with a kernel, the same for all channels, reflecting at the borders. Subclasses say the kernel.

    size: side of the kernel in pixels, odd, a field of every subclass. isotropic: whether the kernel is the outer
    product of one profile, so that no value has to come back from the device to choose the fast way.
    """
    per_image = True
    isotropic: ClassVar[bool] = False
    size: int

    def kernels(self) -> torch.Tensor:
        """(n, size, size), each of sum 1, on the device of the values."""
        raise NotImplementedError

    def __call__(self, image: torch.Tensor, generator: torch.Generator | None, rgb_range: float) -> torch.Tensor:
        return self.downsampled(image, 1, 's-fold')

    def downsampled(self, image: torch.Tensor, scale: int, mode: str) -> torch.Tensor:
        """(B, C, H, W) → (B, C, H/s, W/s): blur and downsampling in one, much faster than both in turn."""
        made = self.kernels().to(exact(image.device)).to(image.device)
        return blur_and_downsample(image, made, self.isotropic, scale, mode)

    @property
    def setting(self) -> str:
        return f'{self.size}x{self.size} kernel'


@dataclass(frozen=True)
class IsoGaussian(Blur, name='iso_gaussian'):
    """Isotropic Gaussian blur. sigma: standard deviation in pixels; 0 = none."""
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
class Downsample(Step, name='downsample'):
    """To 1 / scale of the size. mode: 'bicubic', MATLAB's, antialiased; 's-fold', every scale-th pixel from 0."""
    per_image = True
    scale: int
    mode: str = 'bicubic'

    def __call__(self, image: torch.Tensor, generator: torch.Generator | None, rgb_range: float) -> torch.Tensor:
        if self.mode == 's-fold':
            return image[..., ::self.scale, ::self.scale].clone(memory_format=torch.contiguous_format)
        return resize(image, self.scale, shrink=True)

    def __str__(self) -> str:
        return ''

    @property
    def setting(self) -> str:
        return f'{self.mode} x1/{self.scale}'


@dataclass(frozen=True)
class Noise(Step, name='noise'):
    """Gaussian noise, independent in every value. level: standard deviation on the 0-255 scale; 0 draws nothing."""
    per_image = True
    level: Value

    def __call__(self, image: torch.Tensor, generator: torch.Generator | None, rgb_range: float) -> torch.Tensor:
        if not isinstance(self.level, torch.Tensor) and not self.level:
            return image
        if generator is None:
            raise ValueError('a noisy degradation needs a generator to draw its noise from')
        deviation = tensors(self.level)[0].to(image) * (rgb_range / 255)            # (n,)
        noise = torch.randn(image.shape, generator=generator, device=generator.device).to(image)
        return noise.mul_(deviation[:, None, None, None]).add_(image)


@dataclass(frozen=True)
class Round(Step, name='round'):
    """Rounding to 8 bits, clamped to the data range. The last step of every pipeline."""
    per_image = True
    in_place = True

    def __call__(self, image: torch.Tensor, generator: torch.Generator | None, rgb_range: float) -> torch.Tensor:
        return quantize_(image, rgb_range)

    def __str__(self) -> str:
        return ''
