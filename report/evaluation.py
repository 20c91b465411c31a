"""Scoring a stage on test sets: metrics of each image, means of each set, saved images."""
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.dataset import TestSet
from data.degradation import Pipeline
from data.images import write_rgb
from data.pairs import slug
from model.inference import self_ensemble
from report import metric
from stage import Stage
from store.files import write_bytes
from utility import luma, quantize


class Score(NamedTuple):
    """The scores of one image: its name, {metric: value}."""
    image: str
    values: dict


class SetScores(NamedTuple):
    """Scores of one test set under one degradation. by_step: a list of Score for each adaptation step."""
    name: str
    degradation: Pipeline
    by_step: list

    def mean(self, step: int = -1) -> dict[str, float]:
        """{metric: mean over the images} after adaptation step `step`."""
        return _mean([score.values for score in self.by_step[step]])


def _mean(values: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in values) for name in values[0]}


def to_float(image: Tensor, rgb_range: float, device: torch.device, n_colors: int = 3) -> Tensor:
    """uint8 (B, 3, H, W), or several images concatenated along channels → float in [0, rgb_range] on `device`; with
    n_colors 1 their luma, rounded to 8 bits, (B, 1, H, W)."""
    image = image.to(device, non_blocking=True).float()
    if n_colors == 1:
        image = torch.cat([luma(each).round_() for each in image.split(3, 1)], 1)
    return image * (rgb_range / 255)


def to_uint8(image: Tensor, rgb_range: float) -> np.ndarray:
    """float (1, 3, H, W) or (1, 1, H, W) in [0, rgb_range] → uint8 array (H, W, 3)."""
    levels = quantize(image, rgb_range).expand(-1, 3, -1, -1)[0] * (255 / rgb_range)       # (3, H, W)
    return levels.round().byte().permute(1, 2, 0).cpu().numpy()


class Evaluator:
    """Scores a stage's super-resolved images under fixed degradations; each test image is decoded once.

    pairs: (set, image, hr, degradation) → (lq, up), a Degraded or Files of data.pairs; metrics: names of METRICS.
    """

    def __init__(self, pairs: Callable, degradations: list[Pipeline], scale: int, rgb_range: float,
                 device: torch.device, ensemble: bool = False, results: Path | None = None,
                 metrics: Sequence[str] = metric.DEFAULT, n_colors: int = 3) -> None:
        self.pairs, self.degradations = pairs, degradations
        self.scale, self.rgb_range, self.device = scale, rgb_range, device
        self.ensemble, self.metrics, self.n_colors = ensemble, metrics, n_colors
        self.results = results  # folder for the images, None: do not save them

    @torch.no_grad()
    def score(self, stage: Stage, testset: TestSet, check: Callable[[], None] = lambda: None,
              watch: Callable[..., None] = lambda *_: None) -> list[SetScores]:
        """Scores of `stage` on `testset`: a SetScores for each degradation. check(): called before each image;
        watch(name, up, sr, hr): called with each super-resolved image."""
        scores = [SetScores(testset.name, degradation, []) for degradation in self.degradations]
        for image, hr8 in testset:
            check()
            hr = to_float(hr8, self.rgb_range, self.device, self.n_colors)                 # (1, 3, H, W)
            for each in scores:
                lq, up = self.pairs(testset.name, image, hr, each.degradation)             # (1, 3, h, w), (1, 3, H, W)
                steps = self._super_resolve(stage, lq, up, hr)
                self._note(each, image, hr, steps)
                watch(f'{testset.name}/{image}', up, steps[-1], hr)
        return scores

    def _note(self, scores, image, hr, steps):
        """Add the scores of one image, and save the image if --save_results. steps: sr after each adaptation step."""
        for step, sr in enumerate(steps):
            if step == len(scores.by_step):
                scores.by_step.append([])
            values = metric.scores(self.metrics, sr, hr, self.scale, self.rgb_range)
            scores.by_step[step].append(Score(image, values))
        if self.results:
            folder = self.results / slug(scores.name, scores.degradation)
            write_rgb(folder / f'{image}_x{self.scale}.png', to_uint8(steps[-1], self.rgb_range))

    def _super_resolve(self, stage, lq, up, hr):
        if self.ensemble:
            return [self_ensemble(lambda *images: stage.predict(*images)[-1], lq, up, hr)]
        return stage.predict(lq, up, hr)

    def protocol(self, oracle: bool) -> str:
        """One line on how the scores are computed. oracle: whether the stage adapts on the ground truth."""
        single = f'{self.degradations[0]}; ' if len(self.degradations) == 1 else ''
        return (f'{single}{self.pairs.label(self.degradations[0])}; noise on the 0-255 scale; '
                f'HR cropped to a multiple of {self.scale}, '
                f'LR rounded to 8 bits; {metric.definitions(self.metrics)}, of 8-bit images, '
                f'{self.scale} border pixels shaved'
                + '; self-ensemble x8' * self.ensemble
                + '; an oracle: it adapts on the ground truth' * oracle)


def write_csv(folder: Path, scores: SetScores) -> None:
    """Write <set>_<degradation>.csv with a row per image of a SetScores; what UTF-8 cannot encode is escaped.

    Raises UserError if it cannot be written.
    """
    text, pipeline = io.StringIO(), json.dumps(scores.degradation.to_dict())
    rows = csv.writer(text)
    rows.writerow(['set', 'degradation', 'image', *scores.by_step[-1][0].values, 'pipeline'])
    rows.writerows([scores.name, scores.degradation, score.image,
                    *(metric.number(name, value, 2) for name, value in score.values.items()), pipeline]
                   for score in scores.by_step[-1])
    data = text.getvalue().encode(errors='backslashreplace')
    write_bytes(folder / f'{slug(scores.name, scores.degradation)}.csv', data)


def overall(scored: list[SetScores], step: int = -1) -> dict[str, float]:
    """{metric: mean} of one set over its degradations. scored: a SetScores for each."""
    return _mean([scores.mean(step) for scores in scored])


def lines(scored: list[SetScores]) -> Iterator[str]:
    """Log lines for one set: the mean over its degradations, preceded by those after each adaptation step."""
    name, steps = scored[0].name, len(scored[0].by_step)
    if steps > 1:
        yield from (f'{name} after {step} adaptation steps: {_text(overall(scored, step))}' for step in range(steps))
    yield f'{name} {_text(overall(scored))}'


def _text(means):
    """'PSNR: 31.982 SSIM: 0.8872', as in published logs, then further metrics."""
    return ' '.join(f'{metric.title(name)}: {metric.logged(name, mean)}' for name, mean in means.items())
