"""Real-ESRGAN's second-order degradation: twice blur, resizing, noise and JPEG, then a sinc filter and JPEG.

Steps and parameters are sampled on the CPU, to avoid synchronisation; images are processed on their device.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from data.degradation.blurs import AnisoGaussian, GeneralisedGaussian, IsoGaussian, Plateau, Sinc
from data.degradation.camera import JPEG, Clamp, PoissonNoise, Resize
from data.degradation.pipeline import Pipeline
from data.degradation.step import Step
from data.degradation.steps import Noise, Round

SIZES = range(7, 22, 2)  # sides of kernels in pixels
MODES = 'area', 'bilinear', 'bicubic'
GRAY = 0.4  # probability of noise that is the same in all channels


class Varying(Step):
    """A step for which draw() returns no, one or several other steps."""
    varies = True

    def __str__(self) -> str:
        return ''


@dataclass(frozen=True)
class RandomBlur(Varying, name='random_blur'):
    """With `probability` a blur of random size: a sinc filter with probability `sinc`, else one of six kinds of kernels
    with probabilities `kinds` (Gaussian, generalised, plateau; each isotropic, anisotropic). sigma: pixels."""
    sigma: tuple[float, float]
    probability: float = 1.0
    sinc: float = 0.1
    kinds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalised: tuple[float, float] = (0.5, 4.0)
    plateau: tuple[float, float] = (1.0, 2.0)

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        if uniform(generator) >= self.probability:
            return ()
        size = SIZES[choice(generator, [1] * len(SIZES))]
        if uniform(generator) < self.sinc:
            return (Sinc(uniform(generator, math.pi / (3 if size < 13 else 5), math.pi), size),)
        kind = choice(generator, self.kinds)
        lambda_1 = lambda_2 = uniform(generator, *self.sigma)
        theta = 0.0
        if kind % 2:
            lambda_2, theta = uniform(generator, *self.sigma), uniform(generator, -math.pi, math.pi)
        if kind == 0:
            return (IsoGaussian(lambda_1, size),)
        if kind == 1:
            return (AnisoGaussian(lambda_1, lambda_2, theta, size),)
        shape, ends = (GeneralisedGaussian, self.generalised) if kind < 4 else (Plateau, self.plateau)
        return (shape(lambda_1, lambda_2, theta, _exponent(generator, *ends), size),)


@dataclass(frozen=True)
class RandomResize(Varying, name='random_resize'):
    """Resizing up, down or not at all with probabilities `ways`, by a factor from the range `up` or `down`, relative to
    `base` times the size of hr."""
    ways: tuple[float, float, float]
    up: tuple[float, float]
    down: tuple[float, float]
    base: float = 1.0

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        ends = (self.up, self.down, (1.0, 1.0))[choice(generator, self.ways)]
        factor = uniform(generator, *ends) * self.base
        return (Resize(factor, MODES[choice(generator, [1] * len(MODES))]),)


@dataclass(frozen=True)
class RandomNoise(Varying, name='random_noise'):
    """Gaussian noise with probability `gaussian`, its level (0-255 scale) from the range `level`, else Poisson noise,
    its scale from the range `scale`; then clipping."""
    level: tuple[float, float]
    scale: tuple[float, float]
    gaussian: float = 0.5

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        gray = uniform(generator) < GRAY
        if uniform(generator) < self.gaussian:
            return Noise(uniform(generator, *self.level), gray), Clamp()
        return PoissonNoise(uniform(generator, *self.scale), gray), Clamp()


@dataclass(frozen=True)
class RandomEnd(Varying, name='random_end'):
    """Resizing to 1 / scale, and a sinc filter with probability `sinc`; before or after JPEG, equally likely."""
    scale: int
    quality: tuple[float, float]
    sinc: float = 0.8

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        resized = [Resize(1 / self.scale, MODES[choice(generator, [1] * len(MODES))])]
        if uniform(generator) < self.sinc:
            size = SIZES[choice(generator, [1] * len(SIZES))]
            resized.append(Sinc(uniform(generator, math.pi / 3, math.pi), size))
        jpeg = JPEG(uniform(generator, *self.quality))
        return (*resized, jpeg) if uniform(generator) < 0.5 else (jpeg, *resized)

    @property
    def setting(self) -> str:
        return f'sampled for each image, x1/{self.scale}'


def second_order(scale: int) -> Pipeline:
    """The degradation of Real-ESRGAN, with the published ranges."""
    quality = 30.0, 95.0
    return Pipeline('second_order', scale, (
        RandomBlur((0.2, 3.0)),
        RandomResize((0.2, 0.7, 0.1), (1.0, 1.5), (0.15, 1.0)),
        RandomNoise((1.0, 30.0), (0.05, 3.0)),
        JPEG(quality),
        RandomBlur((0.2, 1.5), probability=0.8),
        RandomResize((0.3, 0.4, 0.3), (1.0, 1.2), (0.3, 1.0), 1 / scale),
        RandomNoise((1.0, 25.0), (0.05, 2.5)),
        RandomEnd(scale, quality),
        Round()))


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A random number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def choice(generator: torch.Generator, weights: list[float] | tuple[float, ...]) -> int:
    """A random index, with probabilities proportional to weights."""
    return int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator))


def _exponent(generator, low, high):
    """A random number below or above 1 with equal probability, uniform in either part."""
    return uniform(generator, low, 1.0) if uniform(generator) < 0.5 else uniform(generator, 1.0, high)
