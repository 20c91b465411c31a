"""The steps of y = Q(bicubic↓s(x ⊗ k) + n) after the blur: downsampling, Gaussian noise, rounding to 8 bits."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from data.degradation.resize import resize
from data.degradation.step import Context, Step, Value, tensors, text
from utility import quantize_, send


@dataclass(frozen=True)
class Downsample(Step, name='downsample'):
    """Downsampling by scale. mode: 'bicubic': MATLAB's, antialiased; 's-fold': every scale-th pixel from 0."""
    per_image = True
    scale: int
    mode: str = 'bicubic'

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        if self.mode == 's-fold':
            return image[..., ::self.scale, ::self.scale].clone(memory_format=torch.contiguous_format)
        return resize(image, self.scale, downsample=True)

    def __str__(self) -> str:
        return ''

    @property
    def setting(self) -> str:
        return f'{self.mode} x1/{self.scale}'


@dataclass(frozen=True)
class Noise(Step, name='noise'):
    """Gaussian noise. level: standard deviation on the 0-255 scale; 0: none. gray: the same in all channels."""
    per_image = True
    level: Value
    gray: bool = False

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        if not isinstance(self.level, torch.Tensor) and not self.level:
            return image
        generator = context.source()
        deviation = send(tensors(self.level)[0], image.device).to(image.dtype) * (context.rgb_range / 255)    # (n,)
        shape = (len(image), 1, *image.shape[2:]) if self.gray else image.shape
        noise = torch.randn(shape, generator=generator, device=generator.device).to(image)
        noise = noise.mul_(deviation[:, None, None, None])
        return noise + image if self.gray else noise.add_(image)

    def __str__(self) -> str:
        return f'noise {text(self.to_dict()["level"])}' + ' gray' * self.gray


@dataclass(frozen=True)
class Round(Step, name='round'):
    """Rounding to 8 bits, clamped to the data range. The last step of every pipeline."""
    per_image = True
    in_place = True

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        return quantize_(image, context.rgb_range)

    def __str__(self) -> str:
        return ''
