"""First- and second-order degradations, mixed: photos that were degraded once, mildly, and twice."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from data.degradation.camera import JPEG
from data.degradation.pipeline import Pipeline
from data.degradation.second_order import RandomBlur, RandomNoise, Varying, second_order, uniform
from data.degradation.step import Step
from data.degradation.steps import Downsample, Round


@dataclass(frozen=True)
class RandomJPEG(Varying, name='random_jpeg'):
    """With `probability` JPEG compression of a quality from the range `quality`."""
    quality: tuple[float, float]
    probability: float

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        return (JPEG(uniform(generator, *self.quality)),) if uniform(generator) < self.probability else ()


@dataclass(frozen=True)
class RandomOrder(Varying, name='random_order'):
    """The steps of first_order() with probability `first`, else those of second_order()."""
    scale: int
    first: float = 0.5

    def draw(self, generator: torch.Generator, n: int = 1) -> tuple[Step, ...]:
        order = first_order if uniform(generator) < self.first else second_order
        return order(self.scale).draw(generator, n).steps[:-1]

    @property
    def setting(self) -> str:
        return f'sampled for each image, x1/{self.scale}'


def first_order(scale: int) -> Pipeline:
    """One Gaussian blur, bicubic downsampling, noise up to level 15 and, three times in four, JPEG: what a photo went
    through between a camera and the web."""
    return Pipeline('first_order', scale, (
        RandomBlur((0.2, 3.0), sinc=0.0, kinds=(0.6, 0.4)),
        Downsample(scale),
        RandomNoise((0.0, 15.0), (0.0, 0.0), gaussian=1.0),
        RandomJPEG((40.0, 95.0), 0.75),
        Round()))


def mixed_order(scale: int) -> Pipeline:
    """first_order() or second_order(), equally likely."""
    return Pipeline('mixed_order', scale, (RandomOrder(scale), Round()))
