"""The map of known degradations that belongs to shipped weights, and where a photo lies on it."""
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from model import zoo
from utility import UserError, shown

COMPONENTS = 8  # principal components that are kept; the map shows two
NEIGHBOURS = 5  # nearest known images whose median is the estimate
WIDTH, HEIGHT, MARGIN = 480, 300, 14  # of the picture, in its own units


@dataclass
class DegradationMap:
    """Representations of photos under known degradations, as principal components.

    mean (R,), axes (K, R): of the representations; shares (K,): of the variance. points (n, K): one for each photo
    and degradation; blurs (n, 3): standard deviations along both axes in pixels, angle in degrees; noises (n,): on the
    0–255 scale. blur_error, noise_error: mean absolute errors of estimate() for photos left out; blur_guess,
    noise_guess: the same of always guessing the median. sha256: of the weights' file.
    """
    sha256: str
    mean: np.ndarray
    axes: np.ndarray
    shares: np.ndarray
    points: np.ndarray
    blurs: np.ndarray
    noises: np.ndarray
    blur_error: float = math.nan
    blur_guess: float = math.nan
    noise_error: float = math.nan
    noise_guess: float = math.nan

    @classmethod
    def fit(cls, representations: np.ndarray, blurs: np.ndarray, noises: np.ndarray, sha256: str) -> 'DegradationMap':
        """The map of (n, R) representations. Signs are fixed: the weight that is largest in size is positive."""
        mean = representations.mean(0)
        _, s, v = np.linalg.svd(representations - mean, full_matrices=False)
        axes = v[:COMPONENTS] * np.sign(v[np.arange(len(v)), np.abs(v).argmax(1)])[:COMPONENTS, None]
        shares = s[:COMPONENTS]**2 / max((s**2).sum(), np.finfo(float).tiny)
        return cls(sha256, mean, axes, shares, (representations - mean) @ axes.T, blurs, noises)

    @classmethod
    def of(cls, name: str) -> 'DegradationMap | None':
        """The map of the shipped weights `name`; None if there is none, or it is of other weights."""
        path, facts = path_of(name), zoo.index().get(name, {})
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            found = cls(**{key: np.array(value) if isinstance(value, list) else value
                           for key, value in content.items()})
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f'{shown(path)}: no map of degradations ({" ".join(str(error).split())}); take it from the '
                            'project again') from error
        return found if found.sha256 == facts.get('sha256') else None

    def text(self) -> str:
        """The map as the text of a JSON file, numbers with as many digits as a picture needs."""
        def rounded(value):
            return [rounded(each) for each in value] if isinstance(value, list) else float(f'{value:.3g}')
        content = {key: rounded(value.tolist()) if isinstance(value, np.ndarray) else value
                   for key, value in asdict(self).items()}
        return '{\n' + ',\n'.join(f'"{key}": {json.dumps(value)}' for key, value in content.items()) + '\n}\n'

    def place(self, representation: Sequence[float]) -> np.ndarray:
        """Where a representation (R,) lies: (K,)."""
        return (np.asarray(representation, float) - self.mean) @ self.axes.T

    def estimate(self, place: np.ndarray) -> tuple[float, float]:
        """(standard deviation of the blur in pixels, noise level) at a place (K,): medians of its neighbours."""
        nearest = np.argsort(((self.points - place)**2).sum(1), kind='stable')[:NEIGHBOURS]
        return float(np.median(self.sizes[nearest])), float(np.median(self.noises[nearest]))

    @property
    def sizes(self) -> np.ndarray:
        """Of each blur: the geometric mean of its standard deviations (n,)."""
        return np.sqrt(self.blurs[:, 0] * self.blurs[:, 1])

    def words(self, place: np.ndarray) -> str:
        """What the neighbours of a place say, and how far that can be trusted."""
        blur, noise = self.estimate(place)
        noisy = self.noises.max() > 0
        text = f'Nearest known images: blur σ {blur:.1f} px' + (f', noise {noise:.0f}' if noisy else '')
        text += f'. For photos left out this is off by {self.blur_error:.1f} px (guessing: {self.blur_guess:.1f})'
        return text + (f' and {self.noise_error:.0f} (guessing: {self.noise_guess:.0f}).' if noisy else '.')

    def picture(self, place: np.ndarray | None = None) -> str:
        """The map as SVG, in the page's text colour; a ring marks `place`. Colour: size of the blur; shape: noise."""
        low, high = self.points[:, :2].min(0), self.points[:, :2].max(0)
        if place is not None:
            low, high = np.minimum(low, place[:2]), np.maximum(high, place[:2])
        box = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])

        def at(point):
            x, y = MARGIN + (point[:2] - low) / np.maximum(high - low, 1e-12) * box
            return x, HEIGHT - y

        levels, largest = np.unique(self.noises), max(self.sizes.max(), 1e-6)
        marks = [shape(*at(point), int(np.searchsorted(levels, noise)), colour(size / largest))
                 for point, size, noise in zip(self.points, self.sizes, self.noises, strict=True)]
        ring = '' if place is None else ring_at(*at(place))
        frame = f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="8" class="frame"/>'
        return (f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of known degradations">'
                f'{frame}{"".join(marks)}{ring}</svg>')

    def legend(self) -> str:
        """What colours, shapes and axes mean, as HTML."""
        ramp = ', '.join(colour(i / 4) for i in range(5))
        levels = np.unique(self.noises)
        shapes = [f'<span><svg viewBox="0 0 12 12" width="12" height="12">{shape(6, 6, i, "currentColor")}</svg>'
                  f'noise {level:g}</span>' for i, level in enumerate(levels) if len(levels) > 1]
        return (f'<div class="legend"><span>blur σ 0 <i style="background:linear-gradient(90deg, {ramp})"></i>'
                f'{self.sizes.max():g} px</span>{"".join(shapes)}<span>PCA: {self.shares[0]:.1%} and '
                f'{self.shares[1]:.1%} of the variance</span></div>')


def path_of(name: str) -> Path:
    """The file of the map of the shipped weights `name`."""
    return zoo.ZOO / f'{name}.map.json'


def colour(share: float) -> str:
    """Viridis as '#rrggbb', from 0 to 1."""
    return '#' + bytes(colormaps['viridis'](float(share), bytes=True)[:3]).hex()


def shape(x: float, y: float, kind: int, fill: str) -> str:
    """The SVG element of a point: a circle, square, triangle or diamond."""
    if kind % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"/>'
    corners = {1: ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)), 2: ((-4, 3.5), (4, 3.5), (0, -4)),
               3: ((0, -5), (4, 0), (0, 5), (-4, 0))}[kind % 4]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}" fill="{fill}"/>'


def ring_at(x: float, y: float) -> str:
    """The SVG element that marks the photo."""
    anchor, dx = ('end', -13) if x > WIDTH / 2 else ('start', 13)
    at = f'cx="{x:.1f}" cy="{y:.1f}"'
    return (f'<circle {at} r="9" class="ring"/><circle {at} r="3" class="dot"/>'
            f'<text x="{x + dx:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">this photo</text>')
