"""The cases to measure: each as a call that does its work once, in our implementation and in the reference."""
import itertools
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
import skimage
import torch

from data.cache import PixelCache
from data.degradation import AnisoGaussian, Blur, Context, IsoGaussian, Pipeline, classic, second_order
from data.images import read_rgb, write_rgb
from data.sampling import PatchDataset
from model import FAMILIES
from model.adapt import step_sizes
from option import parse
from process.group import Process
from process.signals import Stopper
from reference import method as plain
from reference.networks import MLN, kdsr, mrda
from stages import STAGES
from trainer import Trainer
from utility import choose_device, generator

PHOTO, PHOTOS = (1404, 2040), ('astronaut.png', 'coffee.png', 'chelsea.png', 'rocket.jpg', 'retina.jpg')


class Size(NamedTuple):
    """Sizes and device of the cases. batch: patches of patch x patch LR pixels; lq: height and width of the image to
    super-resolve; folder: of the photos to read patches from."""
    batch: int = 4
    patch: int = 48
    n_feats: int = 128
    n_blocks: int = 27
    scale: int = 4
    lq: tuple[int, int] = (180, 320)
    model: str = 'mrda'
    device: str = 'auto'
    precision: str = 'single'
    compile: bool = False
    folder: str = ''

    def options(self, stage: int, *more: str) -> Namespace:
        """The options of main.py for `stage` at this size."""
        options = {'stage': stage, 'model': self.model, 'batch_size': self.batch, 'patch_size': self.patch,
                   'n_feats': self.n_feats, 'n_blocks': self.n_blocks, 'scale': self.scale, 'device': self.device,
                   'precision': self.precision, 'compile': self.compile, 'data_train': 'benchmark'}
        return parse([f'--{name}={value}' for name, value in options.items()] + list(more))


def patches(size: Size) -> torch.Tensor:
    """A batch of smooth random uint8 patches (B, 3, P, P)."""
    coarse = torch.rand(size.batch, 3, size.patch // 2, size.patch // 2, generator=generator('cpu', 'benchmark'))
    side = size.patch * size.scale
    return (torch.nn.functional.interpolate(coarse, (side, side), mode='bicubic').clamp(0, 1) * 255).byte()


def our_step(size: Size, number: int, encoder_only: bool = False, more: Sequence[str] = ()) -> Callable:
    """One training step of stage `number` by Trainer; more: further flags."""
    args = size.options(number, f'--epochs_encoder={int(encoder_only)}', *more)
    device = choose_device(size.device)
    stage = STAGES[number](args).place(device)
    trainer = Trainer(args, stage, (), None, None, Process(device, Stopper()))
    trainer.begin_epoch(1)
    hr, steps = patches(size), itertools.count()

    def step():
        trainer.batch = next(steps)
        return trainer.step(hr, math.inf)

    return step


def plain_step(size: Size, number: int, encoder_only: bool = False) -> Callable:
    """The same step by reference/."""
    args, device = size.options(number), choose_device(size.device)
    hr, draw = patches(size), generator('cpu', 'plain')
    sigmas = IsoGaussian((args.sig_min, args.sig_max))

    def degrade(hr):
        sigma = sigmas.draw(draw)[0].sigma.item()
        return plain.degrade(hr, size.scale, None if number == 1 else plain.gaussian(sigma, sigma, 0))

    networks = {'mln': size.model == 'mrda' and MLN(size.n_feats, size.scale),
                'teacher': number > 2 and plain_network(size, student=False),
                'student': number > 3 and plain_network(size, student=True)}
    mln, teacher, student = (network and network.to(device) for network in networks.values())
    cue = plain.adapted_features(mln, step_sizes(args.test_iter), number == 4) if mln else plain.pair_cue(size.scale)
    trained, gradient = {
        1: (mln, partial(plain.stage1, mln)),
        2: (mln, partial(plain.stage2, mln, n_tasks=args.meta_batch_size, rates=[args.lr_task] * args.task_iter)),
        3: (teacher, partial(plain.stage3, teacher, cue)),
        4: (student, partial(plain.stage4, student, teacher, cue, encoder_only=encoder_only,
                             feature_l1=FAMILIES[size.model].feature_l1))}[number]
    optimizer = torch.optim.Adam(trained.parameters(), lr=args.lr_sr)

    def step():
        optimizer.zero_grad()
        loss = gradient(hr=hr.to(device).float() / 255, degrade=degrade)
        optimizer.step()
        return loss.item()
    return step


def plain_network(size: Size, student: bool) -> torch.nn.Module:
    """The teacher or the student of reference/."""
    if size.model == 'kdsr':
        return kdsr(size.scale, size.n_feats, size.n_blocks, 9, student)
    return mrda(size.scale, size.n_feats, size.n_blocks, student)


def our_super_resolution(size: Size) -> Callable:
    """The student on one lq, as evaluation calls it."""
    device = choose_device(size.device)
    stage = STAGES[4](size.options(4, '--test_only')).place(device)
    lq = torch.rand(1, 3, *size.lq, device=device)
    return torch.no_grad()(lambda: stage.predict(lq)[-1].cpu())


def plain_super_resolution(size: Size) -> Callable:
    """The student of reference/ on one lq."""
    device = choose_device(size.device)
    student, lq = plain_network(size, student=True).to(device), torch.rand(1, 3, *size.lq, device=device)
    return torch.no_grad()(lambda: student(lq, lq)[0].cpu())


def degradations(size: Size, isotropic: bool, n: int = 16) -> Iterator[Pipeline]:
    """The first random degradations of a training without noise, the same for both sides."""
    spread = 0.2, 4.0
    blur = IsoGaussian(spread) if isotropic else AnisoGaussian(spread, spread, (0.0, math.pi))
    return itertools.cycle([classic(blur, size.scale).draw(generator('cpu', 'benchmark', i)) for i in range(n)])


def our_degradation(size: Size, isotropic: bool) -> Callable:
    """Degradation of one batch, including synchronisation."""
    draws, hr = degradations(size, isotropic), patches(size).to(choose_device(size.device)).float() / 255
    return lambda: next(draws)(hr)[1][0, 0, 0, 0].item()


def plain_degradation(size: Size, isotropic: bool) -> Callable:
    """The same by reference/."""
    draws, hr = degradations(size, isotropic), patches(size).to(choose_device(size.device)).float() / 255

    def degrade():
        blur = next(draws).find(Blur)
        values = (blur.sigma, blur.sigma, 0.0) if isotropic else (blur.lambda_1, blur.lambda_2, blur.theta)
        return plain.degrade(hr, size.scale, plain.gaussian(*map(float, values)))[1][0, 0, 0, 0].item()
    return degrade


def our_second_order(size: Size) -> Callable:
    """A batch whose images are degraded independently."""
    random, hr = second_order(size.scale), patches(size).to(choose_device(size.device)).float() / 255
    draw = generator(hr.device, 'benchmark')
    return lambda: random(hr, draw, per_sample=True)[1][0, 0, 0, 0].item()


def all_taps(image: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Correlation of (1, 3, H, W) with (1, k, k); NumPy reflects as often as a small image needs."""
    around = (kernels.shape[-1] // 2,) * 2
    return plain.correlate(torch.from_numpy(np.pad(image, [(0, 0), (0, 0), around, around], 'reflect')), kernels)


def plain_second_order(size: Size) -> Callable:
    """The same degradations; blurs use all taps of their kernels."""
    random, hr = second_order(size.scale), patches(size).to(choose_device(size.device)).float() / 255
    draw = generator(hr.device, 'benchmark')

    def degrade():
        for image in hr.split(1):
            context = Context(draw, 1, *hr.shape[-2:])
            for step in random.draw(draw).steps:
                image = all_taps(image, step.kernels()) if isinstance(step, Blur) else step(image, context)
            plain.resize(image, size.scale)[0, 0, 0, 0].item()
    return degrade


def write_photos(folder: Path) -> None:
    """Write PNGs of DIV2K's size to `folder`: photos of scikit-image, extended by mirroring."""
    for name in PHOTOS:
        photo = read_rgb(Path(skimage.__file__).parent / 'data' / name)
        grown = [(0, max(0, side - have)) for side, have in zip(PHOTO, photo.shape[:2], strict=True)]
        photo = np.pad(photo, [*grown, (0, 0)], 'symmetric')[:PHOTO[0], :PHOTO[1]]
        write_rgb(folder / f'{Path(name).stem}.png', np.ascontiguousarray(photo))


def loading(size: Size, read: Callable[[Path], np.ndarray]) -> Callable:
    """One batch of patches, read sequentially, each from another photo."""
    files = sorted(Path(size.folder).glob('*.png'))
    dataset, positions = PatchDataset(files, size.patch * size.scale, 1, read), itertools.count()
    return lambda: [dataset[1, next(positions), i % len(files)] for i in range(size.batch)]


def our_loading(size: Size) -> Callable:
    """Crops from the cache of decoded images, filled by the first call."""
    return loading(size, PixelCache(Path(size.folder) / 'cache').read)


def plain_loading(size: Size) -> Callable:
    """Crops of photos decoded for every patch."""
    return loading(size, imageio.imread)


CASES = {  # name: (what one call does, our side, the plain side)
    'stage1': ('step', partial(our_step, number=1), partial(plain_step, number=1)),
    'stage2': ('step', partial(our_step, number=2), partial(plain_step, number=2)),
    'stage3': ('step', partial(our_step, number=3), partial(plain_step, number=3)),
    'stage4': ('step', partial(our_step, number=4), partial(plain_step, number=4)),
    'encoder': ('step of stage 4, encoder only', partial(our_step, number=4, encoder_only=True),
                partial(plain_step, number=4, encoder_only=True)),
    'student': ('image super-resolved', our_super_resolution, plain_super_resolution),
    'isotropic': ('batch degraded', partial(our_degradation, isotropic=True),
                  partial(plain_degradation, isotropic=True)),
    'anisotropic': ('batch degraded', partial(our_degradation, isotropic=False),
                    partial(plain_degradation, isotropic=False)),
    'second_order': ('batch degraded', our_second_order, plain_second_order),
    'data': ('batch of patches read', our_loading, plain_loading),
}
