"""A degradation as a named list of steps, applied to hr on its device to give lq and its bicubic upsampling."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from data.degradation.blurs import Blur, IsoGaussian
from data.degradation.resize import resize
from data.degradation.step import Context, Step
from data.degradation.steps import Downsample, Noise, Round
from utility import UserError, derive_seed, one_thread


@dataclass(frozen=True)
class Pipeline:
    """A degradation that downsamples by scale. The parameters of its steps are ranges (training) or numbers (tests).

    Raises ValueError if the last step is not Round().
    """
    name: str
    scale: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.steps[-1], Round):
            raise ValueError(f'degradation {self.name}: the last step must be Round()')

    @property
    def per_image(self) -> bool:
        """Whether every step supports one parameter per image."""
        return all(step.per_image for step in self.steps)

    def draw(self, generator: torch.Generator | None, n: int = 1) -> Pipeline:
        """The pipeline with parameters sampled from its ranges: n of each, or one where a step's images share them."""
        host = None if generator is None or self.per_image else _on_host(generator)
        drawn = [each for step in self.steps for each in step.draw(generator if step.per_image else host, n)]
        return Pipeline(self.name, self.scale, tuple(drawn))

    @torch.no_grad()
    def __call__(self, hr: torch.Tensor, generator: torch.Generator | None = None, rgb_range: float = 1,
                 per_sample: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """hr (B, 3, H, W) in [0, rgb_range] → lq (B, 3, H/s, W/s) and its bicubic upsampling up (B, 3, H, W), 8-bit.

        up is computed before lq is rounded. generator: on the device of hr; for the parameters, of the whole batch or,
        with per_sample, of each image, and for noise. ValueError if H or W is not a multiple of the scale.
        """
        if hr.shape[-2] % self.scale or hr.shape[-1] % self.scale:
            raise ValueError(f'height and width of {tuple(hr.shape)} must be multiples of scale {self.scale}: crop it')
        if not self.per_image and len(hr) > 1 and (per_sample or hr.device.type == 'cpu'):  # one fits into the cache
            each = self if per_sample else self.draw(generator)
            with one_thread(hr.device):
                pairs = [each(image, generator, rgb_range) for image in hr.split(1)]
            lq, up = map(torch.cat, zip(*pairs, strict=True))
            return lq, up
        *steps, last = _fused(self.draw(generator, len(hr) if per_sample else 1).steps)
        context, lq = Context(generator, rgb_range, *hr.shape[-2:]), hr
        for step in steps:
            lq = step(lq.clone() if lq is hr and step.in_place else lq, context)
        up = resize(lq, self.scale, downsample=False)                                   # (B, 3, H, W)
        return last(lq.clone() if lq is hr else lq, context), last(up, context)

    def then(self, *steps: Step, name: str) -> Pipeline:
        """The pipeline `name`: this one with `steps` added before the last rounding."""
        return Pipeline(name, self.scale, (*self.steps[:-1], *steps, self.steps[-1]))

    def find(self, kind: type[Step]) -> Step | None:
        """The first step of a class, None if there is none."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def columns(self) -> tuple[str, float | None]:
        """The columns of a table: the text of all steps but the noise, and the noise level, None if it is a range."""
        noise = self.find(Noise)
        level = noise and noise.to_dict()['level']
        if not isinstance(level, int | float):
            return str(self), None
        return ', '.join(str(step) for step in self.steps if step is not noise and str(step)), level

    def to_dict(self) -> dict:
        """The pipeline as a dict for JSON, which from_dict() reads."""
        return {'name': self.name, 'scale': self.scale, 'steps': [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, content: dict) -> Pipeline:
        """The pipeline of a dict by to_dict(). Raises UserError if it is not valid."""
        try:
            return cls(content['name'], content['scale'], tuple(map(Step.from_dict, content['steps'])))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(f'{content} is not a degradation ({error!r})') from error

    def __str__(self) -> str:
        """'sigma 2.6, noise 0' or 'lambda 3.5/1.5, theta 20, noise 10'; the name if the steps themselves are random."""
        if any(step.varies for step in self.steps):
            return self.name
        return ', '.join(filter(None, map(str, self.steps)))

    @property
    def setting(self) -> str:
        """'21x21 kernel, bicubic x1/4': what all degradations of a protocol have in common."""
        return ', '.join(step.setting for step in self.steps if step.setting)


@dataclass(frozen=True)
class _BlurAndDownsample:
    """Blur and downsampling as one step."""
    blur: Blur
    downsample: Downsample
    in_place = False

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        return self.blur.downsampled(image, self.downsample.scale, self.downsample.mode)


def _fused(steps):
    """The steps, with each blur and the downsampling that follows it as one step."""
    fused = []
    for step in steps:
        if isinstance(step, Downsample) and fused and isinstance(fused[-1], Blur):
            step = _BlurAndDownsample(fused.pop(), step)
        fused.append(step)
    return fused


def _on_host(generator):
    """A CPU generator seeded by the state of `generator`, which is then advanced, without waiting for the device."""
    if generator.device.type == 'cpu':
        return generator
    state = generator.get_state().numpy().tobytes()
    torch.rand(1, generator=generator, device=generator.device)
    return torch.Generator().manual_seed(derive_seed('host', state))


def classic(blur: Blur, scale: int, noise: float | tuple[float, float] = 0.0, mode: str = 'bicubic') -> Pipeline:
    """The papers' y = Q(bicubic↓s(x ⊗ k) + n). noise: on the 0-255 scale; mode: 'bicubic' or 's-fold'."""
    return Pipeline('classic', scale, (blur, Downsample(scale, mode), Noise(noise), Round()))


def bicubic(scale: int, size: int = 21) -> Pipeline:
    """classic() without blur and noise."""
    return classic(IsoGaussian(0.0, size), scale)
