"""Scoring a stage on test sets: luma PSNR and SSIM per image, means per set, the images themselves."""
import csv
import io
from statistics import fmean
from typing import NamedTuple

import torch

from data.degradation import Degradation
from data.images import write_rgb
from data.pairs import slug
from model.inference import self_ensemble
from report.metric import psnr_y, ssim_y
from store.files import write_bytes
from utility import quantize


class Score(NamedTuple):
    """One image: luma PSNR in dB, luma SSIM."""
    image: str
    psnr: float
    ssim: float


class SetScores(NamedTuple):
    """Scores of one test set under one Degradation. by_step: a list of Score per adaptation step that is shown."""
    name: str
    degradation: Degradation
    by_step: list

    def mean(self, step=-1):
        """Mean PSNR and mean SSIM over the images, after adaptation step `step`."""
        scores = self.by_step[step]
        return fmean(score.psnr for score in scores), fmean(score.ssim for score in scores)


def to_float(image, rgb_range, device):
    """uint8 (B, 3, H, W) → float in [0, rgb_range] on `device`."""
    return image.to(device, non_blocking=True).float() * (rgb_range / 255)


def to_uint8(image, rgb_range):
    """float (1, 3, H, W) in [0, rgb_range] → uint8 array (H, W, 3)."""
    return (quantize(image, rgb_range)[0] * (255 / rgb_range)).round().byte().permute(1, 2, 0).cpu().numpy()


class Evaluator:
    """Scores a stage's restored images under fixed degradations; every image is decoded once for all of them.

    pairs: (set, image, hr, degradation) → (lq, up), a Degraded or Files of data.pairs.
    """

    def __init__(self, pairs, degradations, scale, rgb_range, device, ensemble=False, results=None):
        self.pairs, self.degradations = pairs, degradations
        self.scale, self.rgb_range, self.device = scale, rgb_range, device
        self.ensemble = ensemble
        self.results = results  # folder for the images, None to keep none

    @torch.no_grad()
    def score(self, stage, testset, check=lambda: None, watch=lambda *_: None):
        """Scores of `stage` on `testset`: a SetScores for each degradation. check(): called before each image;
        watch(name, up, sr, hr): with each restored one."""
        scores = [SetScores(testset.name, degradation, []) for degradation in self.degradations]
        for image, hr8 in testset:
            check()
            hr = to_float(hr8, self.rgb_range, self.device)                                # (1, 3, H, W)
            for each in scores:
                lq, up = self.pairs(testset.name, image, hr, each.degradation)             # (1, 3, h, w), (1, 3, H, W)
                steps = self._restore(stage, lq, up, hr)
                self._note(each, image, hr, steps)
                watch(f'{testset.name}/{image}', up, steps[-1], hr)
        return scores

    def _note(self, scores, image, hr, steps):
        """Add the scores of one image, restored after each of `steps`, and keep the last one if images are wanted."""
        for step, sr in enumerate(steps):
            if step == len(scores.by_step):
                scores.by_step.append([])
            scores.by_step[step].append(Score(image, psnr_y(sr, hr, self.scale, self.rgb_range),
                                              ssim_y(sr, hr, self.scale, self.rgb_range)))
        if self.results:
            folder = self.results / slug(scores.name, scores.degradation)
            write_rgb(folder / f'{image}_x{self.scale}.png', to_uint8(steps[-1], self.rgb_range))

    def _restore(self, stage, lq, up, hr):
        if self.ensemble:
            return [self_ensemble(lambda *images: stage.enlarge(*images)[-1], lq, up, hr)]
        return stage.enlarge(lq, up, hr)

    def protocol(self, oracle):
        """One line that says how the scores were made. oracle: whether the stage adapts on the ground truth."""
        single = f'{self.degradations[0]}; ' if len(self.degradations) == 1 else ''
        return (f'{single}{self.pairs}; noise in grey levels; HR cut to a multiple of {self.scale}, lq rounded to '
                '8 bits; PSNR and SSIM on BT.601 luma of 8-bit images, '
                f'{self.scale} border pixels cut, SSIM window 11x11 Gaussian sigma 1.5'
                + '; self-ensemble x8' * self.ensemble
                + '; an oracle: it adapts on the ground truth' * oracle)


def write_csv(folder, scores):
    """One row per image of a SetScores, in <set>_<degradation>.csv; names that UTF-8 cannot hold as escapes.

    Raises UserError if it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(['set', 'degradation', 'image', 'psnr_y', 'ssim_y'])
    rows.writerows([scores.name, scores.degradation, s.image, f'{s.psnr:.4f}', f'{s.ssim:.6f}']
                   for s in scores.by_step[-1])
    data = text.getvalue().encode(errors='backslashreplace')
    write_bytes(folder / f'{slug(scores.name, scores.degradation)}.csv', data)


def overall(scored, step=-1):
    """Mean PSNR and mean SSIM of one set over its degradations, from the list of their SetScores."""
    return tuple(fmean(values) for values in zip(*(scores.mean(step) for scores in scored), strict=True))


def lines(scored):
    """The log's lines for one set under all its degradations: the mean, before it those after each adaptation step."""
    name, steps = scored[0].name, len(scored[0].by_step)
    if steps > 1:
        yield from (f'{name} after {step} adaptation steps: {_means(*overall(scored, step))}' for step in range(steps))
    yield f'{name} {_means(*overall(scored))}'


def _means(psnr, ssim):
    return f'PSNR: {psnr:.3f} SSIM: {ssim:.4f}'
