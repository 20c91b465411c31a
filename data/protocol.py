"""PROTOCOLS, the table of test protocols: their degradations and published results."""
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import NamedTuple

from data.dataset import canonical
from data.degradation import JPEG, AnisoGaussian, Blur, Downsample, IsoGaussian, OwnKernel, Pipeline, classic
from utility import UserError

GAUSSIAN8 = {2: (0.80, 1.60), 3: (1.35, 2.40), 4: (1.8, 3.2)}  # scale: first and last of eight evenly spaced sigma
# lambda_1 and lambda_2 (standard deviations in pixels), theta in degrees; x4 only.
DASR9 = ((2, 0.5, 0), (2, 1, 10), (3.5, 1.5, 30), (3.5, 2, 45), (3.5, 2, 90), (4, 1.5, 120), (4, 2, 135), (4, 3, 165),
         (4, 4, 180))
# Not published as numbers: recovered by fitting the kernels pictured in the papers.
MRDA9 = ((4, 1, 0), (3.5, 1.5, 20), (3, 2, 40), (2.5, 2.5, 60), (3, 2, 0), (3.5, 1.5, 20), (4, 1, 40), (3.5, 2.5, 60),
         (4, 4, 0))

SOURCE = 'MRDA (TIP 2023, arXiv 2207.13963) and KDSR (ICLR 2023, arXiv 2211.16928)'
SETS = ('Set5', 'Set14', 'B100', 'Urban100', 'Manga109')
GAUSSIAN8_X4 = {  # (PSNR, SSIM) on each of SETS, mean over sigma
    'bicubic': ((24.57, 0.7108), (22.79, 0.6032), (23.29, 0.5786), (20.35, 0.5532), (21.50, 0.6933)),
    'DASR': ((31.46, 0.8789), (28.11, 0.7603), (27.44, 0.7214), (25.36, 0.7506), (29.39, 0.8861)),
    'MRDA_S': ((31.98, 0.8872), (28.42, 0.7671), (27.55, 0.7254), (25.90, 0.7734), (30.51, 0.9088)),
    'KDSR_S-M': ((32.02, 0.8892), (28.46, 0.7761), (27.52, 0.7281), (25.96, 0.7760), (30.58, 0.9026)),
    'KDSR_S-L': ((32.11, 0.8933), (28.68, 0.7867), (27.64, 0.7300), (26.15, 0.7830), (30.99, 0.9069)),
}
MRDA9_SET14_X4 = {  # PSNR of each degradation, in the protocol's order
    'DASR': (27.20, 27.62, 27.74, 27.85, 27.82, 27.62, 27.38, 27.44, 26.27,
             25.26, 25.57, 25.64, 25.69, 25.62, 25.54, 25.42, 25.20, 24.37,
             23.68, 23.87, 24.20, 24.32, 24.09, 23.91, 23.76, 23.81, 22.87),
    'MRDA_S': (27.45, 27.85, 28.04, 28.09, 28.01, 27.85, 27.64, 27.63, 26.29,
               25.66, 25.81, 25.90, 25.92, 25.86, 25.80, 25.68, 25.41, 24.56,
               24.71, 24.79, 24.87, 24.86, 24.90, 24.80, 24.69, 24.54, 23.81),
    'KDSR_S': (27.67, 27.99, 28.14, 28.20, 28.12, 27.99, 27.80, 27.87, 26.52,
               25.74, 25.91, 25.97, 26.00, 25.96, 25.88, 25.75, 25.50, 24.67,
               24.72, 24.89, 24.92, 24.89, 24.92, 24.82, 24.70, 24.59, 23.84),
}


class Published(NamedTuple):
    """A published result on one test set. psnr: mean in dB; ssim: mean, None if not published; each: PSNR of every
    degradation in the protocol's order, () if only means were published."""
    method: str
    psnr: float
    ssim: float | None = None
    each: tuple = ()


@dataclass(frozen=True)
class Protocol:
    """A named sequence of test degradations.

    title: a short description. scales: the scales it is defined at. degradations: from the Pipeline of 'single', which
    the options set, to the Pipelines of the protocol, in order. published: {(scale, test set): [Published]}.
    """
    title: str
    scales: tuple[int, ...]
    degradations: Callable[[Pipeline], list[Pipeline]]
    published: dict[tuple[int, str], list[Published]] = field(default_factory=dict)


def alike(single: Pipeline, blur: Blur, noise: float = 0.0) -> Pipeline:
    """classic() with the scale, the size of the Gaussian kernel and the downsampling mode of `single`."""
    own, downsampling = single.find(Blur), single.find(Downsample)
    blur = replace(blur, size=own.size) if isinstance(own, IsoGaussian | AnisoGaussian) else blur
    return classic(blur, single.scale, noise, downsampling.mode if downsampling else 'bicubic')


def each_kernel(single: Pipeline) -> list[Pipeline]:
    """The degradation itself or, if it draws from several kernels of a file, one degradation per kernel."""
    own = single.find(OwnKernel)
    indices = own.index if own and isinstance(own.index, tuple) else ()
    each = (tuple(replace(step, index=index) if step is own else step for step in single.steps) for index in indices)
    return [replace(single, steps=steps) for steps in each] or [single]


def gaussian8(single: Pipeline) -> list[Pipeline]:
    """The eight isotropic blurs of DASR (CVPR 2021), without noise."""
    first, last = GAUSSIAN8[single.scale]
    return [alike(single, IsoGaussian((first * (7 - i) + last * i) / 7)) for i in range(8)]


def nine(kernels: tuple, levels: tuple) -> Callable[[Pipeline], list[Pipeline]]:
    """Degradations with the anisotropic kernels (lambda_1, lambda_2, theta in degrees), for each noise level."""
    blurs = [AnisoGaussian(float(along), float(across), math.radians(theta)) for along, across, theta in kernels]
    return lambda single: [alike(single, blur, level) for level in levels for blur in blurs]


def jpeg8(single: Pipeline) -> list[Pipeline]:
    """What small photos from the web went through: isotropic blur of 0.3 or 0.6 times the scale, noise 3 or 10, JPEG
    quality 80 or 50."""
    return [alike(single, IsoGaussian(width * single.scale), noise).then(JPEG(quality), name='jpeg')
            for width in (0.3, 0.6) for noise in (3.0, 10.0) for quality in (80, 50)]


PROTOCOLS = {
    'single': Protocol('one degradation, from the options or of the given LR images', (2, 3, 4), each_kernel),
    'gaussian8': Protocol(
        'eight isotropic blurs without noise', tuple(GAUSSIAN8), gaussian8,
        {(4, name): [Published(method, *scores[i]) for method, scores in GAUSSIAN8_X4.items()]
         for i, name in enumerate(SETS)}),
    'jpeg8': Protocol('two isotropic blurs, noise 3/10, then JPEG of quality 80/50', (2, 3, 4), jpeg8),
    'dasr9': Protocol('the nine anisotropic blurs of DASR, noise 0/5/10', (4,), nine(DASR9, (0.0, 5.0, 10.0))),
    'mrda9': Protocol(
        'the nine anisotropic blurs of MRDA, recovered from the figure, noise 0/10/20', (4,),
        nine(MRDA9, (0.0, 10.0, 20.0)),
        {(4, 'Set14'): [Published(method, fmean(each), None, each) for method, each in MRDA9_SET14_X4.items()]}),
}


def label(name: str) -> str:
    """The name and title of a protocol."""
    return f'{name}: {PROTOCOLS[name].title}'


def degradations(name: str, single: Pipeline) -> list[Pipeline]:
    """The degradations of protocol `name` in order. single: the one that the options set, with the same scale.

    Raises UserError if the protocol is not defined at that scale.
    """
    protocol = PROTOCOLS[name]
    if single.scale not in protocol.scales:
        raise UserError(f'--protocol {name} is not defined at --scale {single.scale}, only at '
                        f'{", ".join(map(str, protocol.scales))}')
    return protocol.degradations(single)


def published(name: str, scale: int, set_name: str) -> list[Published]:
    """The published results of a protocol on a test set, [] if there are none."""
    return PROTOCOLS[name].published.get((scale, canonical(set_name)), [])
