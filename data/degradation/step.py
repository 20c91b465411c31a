"""The interface of a step: samples its parameters, processes images, converts to and from a dict and to text."""
from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple

import torch

from utility import UserError

# A parameter of a step: fixed; sampled uniformly from (low, high); or, once sampled, one for each image, (n,).
Value = float | tuple[float, float] | torch.Tensor
DEGREES = {'unit': 'degrees'}  # metadata of a field in radians that is written in degrees
STEPS: dict[str, type[Step]] = {}  # by the name in dicts


class Context(NamedTuple):
    """What a step may need besides the images: a generator, for example for noise (None: nothing is random), the data
    range, the size of the pipeline's hr."""
    generator: torch.Generator | None
    rgb_range: float
    height: int
    width: int

    def source(self) -> torch.Generator:
        """The generator. ValueError if there is none."""
        if self.generator is None:
            raise ValueError('a degradation with noise needs a generator')
        return self.generator


@dataclass(frozen=True)
class Step:
    """One step of a degradation. A subclass is a frozen dataclass, declared as `class JPEG(Step, name='jpeg')`; its
    fields are Values, or settings of other types that are not sampled; it implements __call__.

    per_image: if True, sampled values are tensors (n,), one for each image, on the device of the generator; otherwise
    numbers that all images of a call share.
    in_place: whether the result may share memory with the input image.
    varies: whether draw() decides which steps are applied, so that only the pipeline's name describes it.
    """
    name: ClassVar[str]
    per_image: ClassVar[bool] = False
    in_place: ClassVar[bool] = False
    varies: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name:
            cls.name, STEPS[name] = name, cls

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, C, H, W) in [0, context.rgb_range] → the same after this step."""
        raise NotImplementedError

    def draw(self, generator: torch.Generator | None, n: int = 1) -> tuple[Step, ...]:
        """The step with parameters sampled from its ranges, in the order of its fields. Usually one step; none or
        several if the steps themselves are random. ValueError if there is something to sample and no generator."""
        ranges = {name: value for name, value in vars(self).items() if isinstance(value, tuple)}
        if ranges and generator is None:
            raise ValueError(f'{self.name}: sampling from a range needs a generator')
        return (replace(self, **{name: self._uniform(*ends, generator, n) for name, ends in ranges.items()}),)

    def _uniform(self, low, high, generator, n):
        if self.per_image:
            return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()

    def to_dict(self) -> dict:
        """{'step': name, field: number, [low, high] or setting} for JSON, which from_dict() reads.

        Angles are in degrees. RuntimeError if a value was sampled for more than one image.
        """
        return {'step': self.name} | {each.name: _plain(getattr(self, each.name), each.metadata == DEGREES)
                                      for each in fields(self)}

    @staticmethod
    def from_dict(content: dict) -> Step:
        """The step of a dict by to_dict(). Raises UserError if there is no step of that name with these fields."""
        kind = STEPS.get(content.get('step'))
        angles = {each.name for each in fields(kind) if each.metadata == DEGREES} if kind else ()
        try:
            return kind(**{name: _parsed(value, name in angles) for name, value in content.items() if name != 'step'})
        except TypeError as error:
            raise UserError(f'{content} is not a step of a degradation; known steps: {", ".join(STEPS)}') from error

    def __str__(self) -> str:
        """The parameters in tables and file names: 'noise 10'; '' for a step without any."""
        numbers = (value for key, value in self.to_dict().items() if key != 'step')
        return ' '.join([self.name, *map(text, numbers)])

    @property
    def setting(self) -> str:
        """What is the same in every degradation of a protocol, for the line beneath a table: 'bicubic x1/4'."""
        return ''


def text(value: float | list | str) -> str:
    """A number with four digits, a range as low-high, anything else unchanged."""
    if isinstance(value, list):
        return '-'.join(map(text, value))
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def tensors(*values: Value) -> list[torch.Tensor]:
    """Sampled or fixed values as float32 tensors (n,)."""
    return [value if isinstance(value, torch.Tensor) else torch.tensor([value], dtype=torch.float32)
            for value in values]


def _plain(value, degrees):
    if isinstance(value, tuple):
        return [_plain(each, degrees) for each in value]
    if isinstance(value, torch.Tensor):
        value = value.item()
    return _in_degrees(value) if degrees else value


def _in_degrees(radians):
    """Degrees, with as few digits as convert back to the same number."""
    exact = math.degrees(radians)
    return next((short for n in range(17) if math.radians(short := round(exact, n)) == radians), exact)


def _parsed(value, degrees):
    if isinstance(value, list):
        return tuple(_parsed(each, degrees) for each in value)
    return math.radians(value) if degrees else value
