"""Which of two shipped students suits an image: that for clean images, or that for noise and JPEG artefacts."""
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import uniform_filter
from torch import Tensor, cat

from model import zoo
from photo.upscaler import Upscaler
from utility import LUMA, UserError, shown

FILE = 'choice.json'  # in zoo/
AUTOMATIC = 'automatic'  # in place of a name of weights, in app.py
WINDOW = 1024  # pixels: side of the part in the middle of an image that is looked at
SMALLEST = 32  # pixels: side of an image below which nothing can be told
PATCH = 7  # pixels: side of the patches of which the noise is estimated
PERCENTILES = 2, 10, 50, 90  # of the noise of patches: noise is in all of them, texture in some
BLOCK = 8  # pixels: side of the blocks of JPEG
BAND = 3, 10  # first and last sum of the two frequencies of the coefficients that are counted
LEVEL = 0.6  # size of a coefficient that JPEG did not round to zero: the decoded image is rounded to whole levels
STEEPEST = 8  # levels: larger steps between pixels are edges of the image, and count as this
FLOORS = 0.1, 0.01  # added to noise levels and to shares before their logarithm


@dataclass(frozen=True)
class Choice:
    """A rule: the weights `clean` for images of which coefficients · statistics exceeds `threshold`, else `degraded`.

    clean, degraded: names in zoo/. coefficients: (S,). measured: how often the rule is right, and mean PSNR.
    """
    clean: str
    degraded: str
    coefficients: list[float]
    threshold: float
    measured: dict

    @classmethod
    def shipped(cls) -> 'Choice | None':
        """The rule in zoo/, None if there is none. Raises UserError if it cannot be read."""
        path = zoo.ZOO / FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f'{shown(path)}: no rule to choose weights by ({" ".join(str(error).split())}); copy zoo/ '
                            'from the project again') from error

    def prefers_clean(self, found: np.ndarray) -> np.ndarray:
        """Whether statistics (..., S) are those of clean images: (...)."""
        return found @ np.array(self.coefficients) > self.threshold

    def name(self, image: np.ndarray) -> str:
        """The name of the weights for an image (h, w, C) of uint8, uint16 or floats in [0, 1]."""
        found = statistics(image)
        return self.clean if found is not None and self.prefers_clean(found) else self.degraded


class Automatic:
    """Upscalers of one scale by the name of their weights; each image is upscaled by the one that a rule names."""

    def __init__(self, choice: Choice, upscalers: dict[str, Upscaler]) -> None:
        self.choice, self.upscalers = choice, upscalers
        self.scale = upscalers[choice.degraded].scale
        notes = zip(*(each.notes for each in upscalers.values()), strict=True)
        self.notes = list(dict.fromkeys(note for pair in notes for note in pair))

    def chosen(self, image: np.ndarray) -> tuple[str, Upscaler]:
        """The name of the weights for an image (h, w, C), and their upscaler."""
        name = self.choice.name(image)
        return name, self.upscalers[name]

    def array(self, image: np.ndarray) -> np.ndarray:
        """As Upscaler.array."""
        return self.chosen(image)[1].array(image)

    def bands(self, image: np.ndarray, tick: Callable[[int], object] = lambda n: None) -> Iterator[np.ndarray]:
        """As Upscaler.bands."""
        return self.chosen(image)[1].bands(image, tick)

    def tensor(self, lq: Tensor) -> Tensor:
        """As Upscaler.tensor; each image of the batch has its own weights."""
        images = lq.detach().float().cpu().permute(0, 2, 3, 1).numpy()                          # (B, h, w, 3)
        return cat([self.chosen(image)[1].tensor(one) for image, one in zip(images, lq.split(1), strict=True)])


def statistics(image: np.ndarray) -> np.ndarray | None:
    """What tells noise and JPEG artefacts in an image (h, w, C) of uint8, uint16 or floats in [0, 1]: (S,).

    The first is 0 without JPEG, and negative with it: the logarithm of the share of coefficients that are not zero on
    the grid of its blocks, relative to that on a grid between them. The others are logarithms of percentiles of the
    noise level in patches (Immerkaer, "Fast noise variance estimation", 1996), without plain ones unless most are
    plain. None for images below SMALLEST.
    """
    h, w, c = image.shape
    if min(h, w) < SMALLEST:
        return None
    top, left = max(0, h - WINDOW) // 2, max(0, w - WINDOW) // 2
    image = image[top:top + WINDOW, left:left + WINDOW, :1 if c < 3 else 3]
    peak = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
    levels = image.astype(np.float64) * (255 / peak) @ (LUMA if c > 2 else (1.0,))              # (h, w)
    noise = noise_levels(levels)
    busy = noise[noise > FLOORS[0] / 2]
    noise = np.percentile(busy if 2 * busy.size > noise.size else noise, PERCENTILES)
    row, column = grid_line(levels.T), grid_line(levels)
    on, between = (share(levels[(row + shift) % BLOCK:, (column + shift) % BLOCK:]) for shift in (0, BLOCK // 2))
    return np.log([(on + FLOORS[1]) / (between + FLOORS[1]), *(noise + FLOORS[0])])


def noise_levels(levels: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise in patches of an image (h, w): (n,)."""
    across = levels[:, :-2] - 2 * levels[:, 1:-1] + levels[:, 2:]
    high = (across[:-2] - 2 * across[1:-1] + across[2:]) / 6                                    # (h - 2, w - 2)
    mean, square = uniform_filter(high, PATCH), uniform_filter(high**2, PATCH)
    inside = slice(PATCH // 2, -(PATCH // 2), PATCH // 2)
    return np.sqrt((square - mean**2).clip(0))[inside, inside].ravel()


def grid_line(levels: np.ndarray) -> int:
    """The column of an image (h, w), 0 to 7, at which blocks of JPEG start: steps are largest there."""
    step = levels[:, 2:-1] - levels[:, 1:-2]
    slope = (levels[:, 1:-2] - levels[:, :-3] + levels[:, 3:] - levels[:, 2:-1]) / 2
    excess = np.abs(step - slope).clip(max=STEEPEST).mean(0)                                    # at columns 2, 3, …
    return (int(np.argmax([excess[first::BLOCK].mean() for first in range(BLOCK)])) + 2) % BLOCK


def share(levels: np.ndarray) -> float:
    """The share of DCT coefficients of an image (h, w), in blocks from its top left, that are not near zero."""
    h, w = (side // BLOCK for side in levels.shape)
    blocks = levels[:h * BLOCK, :w * BLOCK].reshape(h, BLOCK, w, BLOCK)
    frequency = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    counted = (BAND[0] <= frequency) & (frequency <= BAND[1])
    found = dctn(blocks, axes=(1, 3), norm='ortho').swapaxes(1, 2)[:, :, counted]
    return float((np.abs(found) > LEVEL).mean())
