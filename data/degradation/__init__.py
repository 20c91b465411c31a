"""Degradations: pipelines of steps, with random parameters, applied on the device of hr.

DEGRADATIONS[name](args, testing) builds the pipeline of --degradation name from the options: with the ranges that
training samples from, or with the fixed parameters of a test.
"""
import math
from argparse import Namespace
from collections.abc import Callable

from data.degradation.blurs import AnisoGaussian, Blur, GeneralisedGaussian, IsoGaussian, Plateau, Sinc
from data.degradation.camera import JPEG, Clamp, PoissonNoise, Resize
from data.degradation.mixed_order import mixed_order
from data.degradation.own_kernels import OwnKernel, own_kernels
from data.degradation.pipeline import Pipeline, bicubic, classic
from data.degradation.resize import resize
from data.degradation.second_order import second_order
from data.degradation.step import Context, Step, Value
from data.degradation.steps import Downsample, Noise, Round

__all__ = ['DEGRADATIONS', 'JPEG', 'AnisoGaussian', 'Blur', 'Clamp', 'Context', 'Downsample', 'GeneralisedGaussian',
           'IsoGaussian', 'Noise', 'OwnKernel', 'Pipeline', 'Plateau', 'PoissonNoise', 'Resize', 'Round', 'Sinc',
           'Step', 'Value', 'bicubic', 'classic', 'classic_of', 'mixed_order', 'resize', 'second_order']


def classic_of(args: Namespace, testing: bool) -> Pipeline:
    """classic() with blur and noise of the options."""
    if args.blur_type == 'file':
        blur = own_kernels(args.kernels, args.kernel_index if testing else None)
    elif args.blur_type == 'iso_gaussian':
        blur = IsoGaussian(args.sig if testing else (args.sig_min, args.sig_max), args.blur_kernel)
    elif testing:
        blur = AnisoGaussian(args.lambda_1, args.lambda_2, math.radians(args.theta), args.blur_kernel)
    else:
        spread = args.lambda_min, args.lambda_max
        blur = AnisoGaussian(spread, spread, (0.0, math.pi), args.blur_kernel)
    return classic(blur, args.scale, args.noise if testing or not args.noise else (0.0, args.noise), args.mode)


DEGRADATIONS: dict[str, Callable[[Namespace, bool], Pipeline]] = {
    'classic': classic_of,
    'second_order': lambda args, testing: second_order(args.scale),
    'mixed_order': lambda args, testing: mixed_order(args.scale),
}
