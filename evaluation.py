"""Scoring a stage on test sets: luma PSNR and SSIM per image, means per set, the images themselves."""
import csv
import io
import math
import re
from typing import NamedTuple

import torch

from data.images import write_rgb
from metric import psnr_y, ssim_y
from model.inference import self_ensemble
from store import write_bytes
from utility import generator, quantize


class Score(NamedTuple):
    image: str
    psnr: float
    ssim: float


class SetScores(NamedTuple):
    """Scores of one test set. by_step: for each adaptation step that the stage shows, the list of Score."""
    name: str
    by_step: list

    def mean(self, step=-1):
        """Mean PSNR and mean SSIM over the images, after adaptation step `step`."""
        scores = self.by_step[step]
        return tuple(sum(values) / len(scores) for values in ([s.psnr for s in scores], [s.ssim for s in scores]))


def to_float(image, rgb_range, device):
    """uint8 (B, 3, H, W) → float in [0, rgb_range] on `device`."""
    return image.to(device, non_blocking=True).float() * (rgb_range / 255)


def to_uint8(image, rgb_range):
    """float (1, 3, H, W) in [0, rgb_range] → uint8 array (H, W, 3)."""
    return (quantize(image, rgb_range)[0] * (255 / rgb_range)).round().byte().permute(1, 2, 0).cpu().numpy()


class Evaluator:
    """Scores a stage's restored images under one fixed degradation.

    Test noise is drawn per image from (seed, set, image), so no score depends on the order of the images.
    """

    def __init__(self, degrader, degradation, scale, rgb_range, seed, device, ensemble=False, results=None):
        self.degrader, self.degradation = degrader, degradation
        self.scale, self.rgb_range, self.seed, self.device = scale, rgb_range, seed, device
        self.ensemble = ensemble
        self.results = results  # folder for the images, None to keep none

    @torch.no_grad()
    def score(self, stage, testset):
        """Scores of `stage` on `testset`, a SetScores."""
        by_step = []
        for image, hr8 in testset:
            hr = to_float(hr8, self.rgb_range, self.device)                            # (1, 3, H, W)
            noise = generator(self.device, self.seed, 'test noise', testset.name, image)
            lq, up = self.degrader(hr, self.degradation, noise)                        # (1, 3, h, w), (1, 3, H, W)
            steps = self._restore(stage, lq, up, hr)
            by_step = by_step or [[] for _ in steps]
            for scores, sr in zip(by_step, steps, strict=True):
                scores.append(Score(image, psnr_y(sr, hr, self.scale, self.rgb_range),
                                    ssim_y(sr, hr, self.scale, self.rgb_range)))
            if self.results:
                write_rgb(self.results / self._slug(testset.name) / f'{image}_x{self.scale}.png',
                          to_uint8(steps[-1], self.rgb_range))
        return SetScores(testset.name, by_step)

    def _restore(self, stage, lq, up, hr):
        if self.ensemble:
            return [self_ensemble(stage.restore, lq, up, hr)]
        return stage.restore_by_step(lq, up, hr)

    def _slug(self, name):
        return f'{name}_' + re.sub(r'[^\w.]+', '_', str(self.degradation))

    def protocol(self):
        """One line that says how the scores were made."""
        return (f'{self.degradation}; {self.degrader}; PSNR and SSIM on BT.601 luma of 8-bit images, '
                f'{self.scale} border pixels cut, SSIM window 11x11 Gaussian sigma 1.5'
                + ('; self-ensemble x8' if self.ensemble else ''))

    def write_csv(self, folder, scores):
        """One row per image; returns the file's path."""
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(['set', 'degradation', 'image', 'psnr_y', 'ssim_y'])
        rows.writerows([scores.name, self.degradation, s.image, f'{s.psnr:.4f}', f'{s.ssim:.6f}']
                       for s in scores.by_step[-1])
        path = folder / f'{self._slug(scores.name)}.csv'
        write_bytes(path, text.getvalue().encode())
        return path


def lines(scores):
    """The log's lines for a set: its means, and those after each adaptation step where there are several."""
    if len(scores.by_step) > 1:
        yield from (f'{scores.name} after {step} adaptation steps: {_means(*scores.mean(step))}'
                    for step in range(len(scores.by_step)))
    yield f'{scores.name} {_means(*scores.mean())}'


def _means(psnr, ssim):
    return f'PSNR: {psnr:.3f} SSIM: {ssim:.4f}'


def undefined(scores):
    """Whether a set has no finite mean, so that it cannot be plotted."""
    return not math.isfinite(scores.mean()[0])
