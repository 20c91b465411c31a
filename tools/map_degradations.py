"""Map the degradation features of a student (--stage 4) or a teacher (--stage 3) over a grid of degradations.

    python tools/map_degradations.py --stage 4 --data_test Set5 --pre_train_ST student.pt --noises 0,10
    python tools/map_degradations.py --stage 3 --load mine_stage3_x4_bicubic_iso --data_test Set5 --out teacher.png

Every image is degraded by every degradation of the grid; the encoder's features (256 with the published networks) are
plotted in two dimensions by PCA and, if scikit-learn is installed, by t-SNE. A CSV file beside the figure holds the
coordinates. All other flags are main.py's.
"""
import argparse
import csv
import io
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import make_loaders
from data.dataset import TestSet
from data.degradation import AnisoGaussian, IsoGaussian, Pipeline, classic_of
from data.pairs import Degraded
from data.protocol import alike
from option import level, parse
from process.arguments import Parser, amount, positive
from process.command import command_line
from report.evaluation import to_float
from run.pretrained import initialise
from stage import Stage
from stages import STAGES
from store.files import write_bytes
from utility import UserError, choose_device, expanded

ROLES = {3: 'teacher', 4: 'student', 5: 'student'}
MARKERS = 'os^DvP*X'  # one for each noise level
PERPLEXITY = 30  # of t-SNE: roughly the number of neighbours of a point


def numbers(convert: Callable) -> Callable:
    """An argparse type: 'A,B' → [convert('A'), convert('B')]."""
    def several(text):
        return [convert(part) for part in text.split(',')]
    several.__name__ = 'A,B,...'
    return several


def blur_kernel(text: str) -> tuple[float, float, float]:
    """'4/1/45' → (4.0, 1.0, 45.0)."""
    with suppress(ValueError):
        along, across, theta = text.split('/')
        return positive(along), positive(across), float(theta)
    raise argparse.ArgumentTypeError(f'{text!r} is not of the form 4/1/45: two standard deviations and an angle')


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    own = Parser(prog='tools/map_degradations.py', description=__doc__,
                 formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    own.add_argument('--sigmas', type=numbers(amount), help='isotropic blurs: standard deviations in pixels: 0.4,1.2,2')
    own.add_argument('--kernels', type=numbers(blur_kernel),
                     help='anisotropic blurs: along/across/angle, in pixels and degrees: 4/1/0,4/1/90')
    own.add_argument('--noises', type=numbers(level), help='noise levels on the 0–255 scale: 0,10,20')
    own.add_argument('--out', type=expanded, default='degradations.png', help='figure to write: .png, .pdf or .svg')
    mine, rest = own.parse_known_args(argv)
    write(mine, parse([*rest, '--test_only']))


def write(mine: argparse.Namespace, args: argparse.Namespace) -> None:
    """Write the figure and the CSV file. Raises UserError for stages without an encoder or a wrong grid."""
    out = Path(mine.out)
    if args.stage not in ROLES:
        raise UserError(f'--stage {args.stage} has no degradation encoder; give 3 (the teacher) or 4 (the student)')
    if out.suffix not in ('.png', '.pdf', '.svg'):
        raise UserError(f'--out {out}: the name must end in .png, .pdf or .svg')
    grid = degradations(mine, args)
    names, features = measure(grid, args)
    ways, images = origins(features, len(grid))
    maps = project(features, args.seed)
    scores = silhouettes(features, len(grid))
    line = 'Silhouette by ' + ', by '.join(f'{kind} {score:.3f}' for kind, score in scores.items())
    title = (f'{args.model.upper()} {ROLES[args.stage]}, x{args.scale}: {features.shape[1]} features of '
             f'{len(names)} images ({args.data_test}) under {len(grid)} degradations\n{line}')
    write_bytes(out, picture(title, maps, [grid[way] for way in ways], out.suffix[1:]))
    table = out.with_suffix('.csv')
    write_bytes(table, coordinates(maps, [names[image] for image in images], [grid[way] for way in ways]))
    rank = order(maps['PCA'][0][:, 0], [grid[way] for way in ways])
    print(f'{title}\nRank correlation of component 1 with the size of the blur: {rank:.2f}\n{out} {table}')


def degradations(mine: argparse.Namespace, args: argparse.Namespace) -> list[Pipeline]:
    """The grid: every blur at every noise level; by default over the ranges of training."""
    iso = args.blur_type == 'iso_gaussian'
    low, high = (args.sig_min, args.sig_max) if iso else (args.lambda_min, args.lambda_max)
    sigmas, kernels = mine.sigmas, mine.kernels
    if sigmas is None and kernels is None:
        sigmas = [round(float(sigma), 3) for sigma in np.linspace(low, high, 9 if iso else 5)]
        kernels = [] if iso else [(high, max(low, high / 4), theta) for theta in (0, 45, 90, 135)]
    noises = mine.noises or ([0.0, args.noise / 2, args.noise] if args.noise >= 2 else [args.noise])
    if len(noises) > len(MARKERS):
        raise UserError(f'--noises: give at most {len(MARKERS)} levels, one per marker')
    single = classic_of(args, testing=True)
    blurs = [*map(IsoGaussian, sigmas or ()),
             *(AnisoGaussian(along, across, math.radians(theta)) for along, across, theta in kernels or ())]
    grid = [alike(single, blur, noise) for noise in noises for blur in blurs]
    if len({str(degradation) for degradation in grid}) < max(2, len(grid)):
        raise UserError('--sigmas, --kernels, --noises: give two or more different degradations')
    return grid


def measure(grid: list[Pipeline], args: argparse.Namespace) -> tuple[list[str], np.ndarray]:
    """represent() by the network and with the test sets of `args`."""
    stage = STAGES[args.stage](args)
    initialise(stage, args, print)
    return represent(stage.place(choose_device(args.device)), make_loaders(args)[1], grid, args)


@torch.no_grad()
def represent(stage: Stage, sets: list[TestSet], grid: list[Pipeline],
              args: argparse.Namespace) -> tuple[list[str], np.ndarray]:
    """Names of the images, and the encoder's features of each under each degradation: float64 (images · grid, F)."""
    pair = Degraded(args.seed, args.rgb_range)
    device, names, rows = choose_device(args.device), [], []
    for testset in sets:
        for image, hr8 in testset:
            names.append(f'{testset.name}/{image}')
            hr = to_float(hr8, args.rgb_range, device, args.n_colors)                     # (1, 3, H, W)
            for degradation in grid:
                lq, up = pair(testset.name, image, hr, degradation)             # (1, 3, h, w), (1, 3, H, W)
                with stage.arithmetic(device):
                    shown = lq if args.stage >= 4 else stage.cue(lq, up, hr)
                    _, feature = stage.trained.encoder(shown)                   # (1, F)
                rows.append(feature[0].double().cpu().numpy())
    if not np.isfinite(rows).all():
        raise UserError('the encoder returns values that are not finite: these weights are damaged; use others')
    return names, np.stack(rows)


def project(features: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, list[str]]]:
    """{kind of map: (points (n, 2), names of its axes)}; t-SNE if scikit-learn is installed."""
    points, shares = principal(features)
    maps = {'PCA': (points, [f'component {i + 1} ({share:.1%} of the variance)' for i, share in enumerate(shares)])}
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        print(f'no t-SNE, which needs scikit-learn ({error}): pip install -r requirements-extra.txt')
        return maps
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init='pca', random_state=seed % 2**32)
    return maps | {'t-SNE': (tsne.fit_transform(features.astype(np.float32)), ['t-SNE 1', 't-SNE 2'])}


def order(component: np.ndarray, ways: list[Pipeline]) -> float:
    """How strictly a component (n,) follows the size of the blur of each image's degradation: the absolute rank
    correlation, 0 if one of them does not vary."""
    sizes = [math.sqrt(along * across) for along, across, *_ in map(blur_and_noise, ways)]
    return abs(spearmanr(component, sizes).statistic) if np.ptp(component) and np.ptp(sizes) else 0.0


def principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of (n, F): coordinates (n, 2), explained variance ratios (2,). Signs are
    fixed: the loading with the largest magnitude is positive."""
    centred = features - features.mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(1)])
    points = np.zeros((len(features), 2))
    points[:, :len(s)] = (u * s * signs)[:, :2]
    shares = np.zeros(2)
    shares[:len(s)] = (s**2 / max((s**2).sum(), np.finfo(float).tiny))[:2]
    return points, shares


def origins(features: np.ndarray, n_degradations: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of represent(): the number of its degradation and that of its image, (n,) each."""
    rows = np.arange(len(features))
    return rows % n_degradations, rows // n_degradations


def silhouettes(features: np.ndarray, n_degradations: int) -> dict[str, float]:
    """The silhouettes of represent()'s features, grouped by degradation and by image."""
    return dict(zip(('degradation', 'image'), (silhouette(features, labels) for labels in
                                               origins(features, n_degradations)), strict=True))


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) of (n, F) with labels (n,), Euclidean: 1: well separated, -1: mixed.

    A cluster of one point scores 0. nan with fewer than two clusters.
    """
    clusters, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(clusters) < 2:
        return float('nan')
    sums = cdist(features, features) @ np.eye(len(clusters))[own]               # (n, clusters)
    rows = np.arange(len(own))
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)                    # without the distance to itself
    means = sums / sizes
    means[rows, own] = np.inf
    nearest = means.min(1)
    scores = (nearest - inside) / np.maximum(np.maximum(inside, nearest), np.finfo(float).tiny)
    return float(np.where(sizes[own] > 1, scores, 0).mean())


def picture(title: str, maps: dict[str, tuple[np.ndarray, list[str]]], ways: list[Pipeline], kind: str) -> bytes:
    """The maps side by side. Colour: size of the blur; marker: noise; line: direction of an anisotropic blur."""
    figure = Figure(figsize=(5.2 * len(maps) + 0.6, 5.4), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
    numbers = np.array([blur_and_noise(way) for way in ways])                         # (n, 4)
    blurs, noises = numbers[:, :3], numbers[:, 3]
    levels = np.unique(noises)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, (points, labels)) in zip(panels, maps.items(), strict=True):
        dots = scatter(axes, points, np.sqrt(blurs[:, 0] * blurs[:, 1]), noises)
        strokes(axes, points, blurs)
        axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
        if name == 't-SNE':
            axes.tick_params(labelbottom=False, labelleft=False)  # distances in t-SNE have no meaning
    anisotropic = bool((blurs[:, 0] != blurs[:, 1]).any())
    figure.colorbar(dots, ax=panels, shrink=0.9, pad=0.01,
                    label='blur $\\sqrt{\\lambda_1\\lambda_2}$ (HR pixels)' if anisotropic else 'blur σ (HR pixels)')
    entries = [Line2D([], [], marker=marker, color='0.35', linestyle='', label=f'noise level {noise:g}')
               for marker, noise in zip(MARKERS, levels, strict=False)] if len(levels) > 1 else []
    entries += [Line2D([], [], color='0.1', label='direction of an anisotropic blur')] * anisotropic
    if entries:
        figure.legend(handles=entries, loc='outside lower center', ncols=len(entries), frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=180)
    return data.getvalue()


def scatter(axes: Axes, points: np.ndarray, sizes: np.ndarray, noises: np.ndarray) -> PathCollection:
    """Plot points (n, 2), coloured by the sizes (n,) of their blurs, with a marker for each level in noises (n,)."""
    limits = {'vmin': sizes.min(), 'vmax': max(sizes.max(), sizes.min() + 1e-6)}
    for marker, noise in zip(MARKERS, np.unique(noises), strict=False):
        at = noises == noise
        dots = axes.scatter(*points[at].T, c=sizes[at], marker=marker, s=34, cmap='viridis', linewidths=0.4,
                            edgecolors='white', **limits)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.locator_params(nbins=6)
    axes.ticklabel_format(scilimits=(-2, 3))
    axes.spines[['top', 'right']].set_visible(False)
    return dots


def strokes(axes: Axes, points: np.ndarray, blurs: np.ndarray) -> None:
    """Draw a line through each point with an anisotropic blur, along its longer axis; image rows point down."""
    at = blurs[:, 0] != blurs[:, 1]
    if at.any():
        theta = np.radians(blurs[at, 2]) + np.pi / 2 * (blurs[at, 1] > blurs[at, 0])
        axes.quiver(*points[at].T, np.cos(theta), -np.sin(theta), pivot='mid', angles='uv', scale_units='inches',
                    scale=7, headwidth=0, headlength=0, headaxislength=0, width=0.0025, color='0.1')


def coordinates(maps: dict[str, tuple[np.ndarray, list[str]]], names: list[str], ways: list[Pipeline]) -> bytes:
    """The CSV file as bytes: a row for each image and degradation."""
    text = io.StringIO()
    writer = csv.writer(text)
    axes = [f'{name.lower().replace("-", "")}_{i}' for name in maps for i in (1, 2)]
    writer.writerow(['image', 'degradation', 'lambda_1', 'lambda_2', 'theta_degrees', 'noise', *axes])
    for row, (name, way) in enumerate(zip(names, ways, strict=True)):
        points = [f'{value:.6g}' for points, _ in maps.values() for value in points[row]]
        writer.writerow([name, way, *(f'{value:.6g}' for value in blur_and_noise(way)), *points])
    return text.getvalue().encode(errors='backslashreplace')


def blur_and_noise(way: Pipeline) -> tuple[float, float, float, float]:
    """lambda_1, lambda_2, theta in degrees and noise of a degradation of the grid."""
    blur, _, noise, _ = (step.to_dict() for step in way.steps)
    sigma = blur.get('sigma')
    return blur.get('lambda_1', sigma), blur.get('lambda_2', sigma), blur.get('theta', 0.0), noise['level']


if __name__ == '__main__':
    sys.exit(main())
