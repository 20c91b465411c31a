"""Write one HTML file about a run: options, curves, tables with published results, and images to compare by sliders.

    python tools/make_report.py experiment/stage4_x4_bicubic_iso
    python tools/make_report.py experiment/stage4_x4_bicubic_iso -o report.html --dir_data datasets

The file is self-contained. Sliders need super-resolved images (main.py --save_results) and the ground truth, from which
the LR input is generated again; --dir_data gives its folder if it has moved.
"""
import argparse
import base64
import hashlib
import re
import sys
from argparse import Namespace
from html import escape
from pathlib import Path
from statistics import fmean
from string import Template

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import make_tests
from data.dataset import TestSet
from data.degradation import Pipeline
from data.images import read_rgb
from data.pairs import Degraded, Files
from option import parse
from process.arguments import Parser, whole
from process.command import command_line
from process.extensions import import_files
from report import metric, page, record
from report.evaluation import to_float, to_uint8
from report.metric import psnr_y
from report.plots import telling_crop
from report.record import Scored
from run.starts import Start, read_starts
from store.files import write_bytes
from utility import UserError, expand, expanded, shown

TEMPLATE = Path(page.__file__).with_name('report.html')
STAGES = {1: 'meta-learning network MLN, trained on bicubic pairs', 2: 'meta-learned MLN', 3: 'teacher',
          4: 'student', 5: 'student, fine-tuned against a discriminator'}
CROP = (540, 720)  # largest height and width of the crop of an image
MOST = 4_500_000   # largest size of all images together, in bytes
NO_TRUTH = 'No images to compare: the ground truth was not found; give its folder by --dir_data.'


@command_line()
def main(argv: list[str] | None = None) -> None:
    own = Parser(prog='tools/make_report.py', description=__doc__,
                 formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('run', type=expand, help='run folder')
    own.add_argument('-o', '--out', type=expand, help='HTML file to write (default: report.html in the run folder)')
    own.add_argument('--dir_data', type=expanded, help="folder of the data sets (default: the test's)")
    own.add_argument('--images', type=whole, default=6, help='largest number of images to compare (default: 6)')
    args = own.parse_args(argv)
    out = args.out or args.run / 'report.html'
    notes = []
    data = report(args.run, args.dir_data, args.images, notes).encode(errors='backslashreplace')
    write_bytes(out, data)
    for note in notes:
        print(note)
    print(f'{shown(out)}: {len(data) / 1e6:.1f} MB')


def report(run: Path, dir_data: str | None, images: int, notes: list[str]) -> str:
    """The page as text. notes: a list to which messages about missing parts are added. Raises UserError."""
    starts = read_starts(run)
    for extension in {start.options.get('extension', 'None') for start in starts} - {'None'}:
        try:
            import_files(extension)
        except UserError as error:
            notes.append(str(error))
    start = next((each for each in reversed(starts) if each.trains), starts[-1])
    options, stage = start.options, start.stage
    scores = record.read_scores(run)
    sections = {
        'Images': panels(scores, starts, dir_data, images, notes),
        'Tests': tests(record.read_tables(run), scores),
        'Curves': curves(run, stage, notes),
        'Options': option_lists(start),
    }
    days = [starts[0].date] + [starts[-1].date] * (len(starts) > 1)
    summary = f'Stage {stage}, {options["model"].upper()}: the {STAGES[stage]}. Scale x{options["scale"]}.'
    best = record.read_best(run, stage)
    dates = f'{len(starts)} start{"s" * (len(starts) > 1)}, {" to ".join(days)}'
    if 'version' in options:
        dates += f'. Version {options["version"]}'
    if best:
        dates += (f'. Best epoch: {best["epoch"]}, {best["set"]} {metric.title(best["metric"])} '
                  f'{metric.number(best["metric"], best["value"])}')
    text = Template(TEMPLATE.read_text(encoding='utf-8'))
    return text.substitute(
        title=escape(f'Report of {run.resolve().name}'), summary=escape(summary), dates=escape(dates),
        policy=policy(text.template),
        sections='\n'.join(f'<section><h2>{name}</h2>\n{content}\n</section>'
                           for name, content in sections.items() if content))


def policy(template: str) -> str:
    """The page's Content-Security-Policy: no external content, only its own style and script."""
    def own(tag):
        text = re.search(f'<{tag}>(.*?)</{tag}>', template, re.S)[1]
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    return (f"default-src 'none'; img-src data:; style-src {own('style')}; script-src {own('script')}; "
            "base-uri 'none'; form-action 'none'")


def curves(run: Path, stage: int, notes: list[str]) -> str:
    """Losses and scores from the newest checkpoint; without one, the figures that training drew."""
    history = record.read_history(run, stage, notes.append)
    charts = [page.chart('Training loss', 'loss', series, losses=True) if name == 'losses'
              else page.chart(f'{metric.title(name)} after each epoch', metric.label(name), series)
              for name, series in history.items()]
    if not history:
        charts = [f'<figure class="chart"><img class="drawn" src="{page.data_uri(read_rgb(path))}" '
                  f'alt="{escape(path.stem)} over the epochs"></figure>' for path in sorted(run.glob('*.png'))]
    found = '\n'.join(filter(None, charts))
    return found and f'<div class="charts">{found}</div>'


def tests(tables: list[dict], scores: list[Scored]) -> str:
    """The tables of --test_only with published results, then the newest scores of each set and image."""
    parts = [protocol_table(each) for each in tables]
    metrics = list(dict.fromkeys(name for each in scores for name in next(iter(each.scores.values()))))
    columns = [(metric.title(name), 1) for name in metrics]
    means = [(f'{each.set_name}, {each.degradation}', *numbers(mean(each), metrics), str(len(each.scores)))
             for each in scores]
    if means:
        parts.append(page.table('The newest test of each set', [[('set', 1), *columns, ('images', 1)]], means))
        parts += [f'<details><summary>Each image of {escape(each.set_name)}, {escape(each.degradation)}</summary>'
                  + page.table(f'{each.set_name}, {each.degradation}', [[('image', 1), *columns]],
                               [(image, *numbers(values, metrics)) for image, values in each.scores.items()])
                  + '</details>' for each in scores]
    return '\n'.join(parts)


def mean(scored: Scored) -> dict[str, float]:
    """{metric: mean over the images}."""
    rows = list(scored.scores.values())
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def numbers(values: dict[str, float], metrics: list[str]) -> list[str]:
    """The cells of a row; '' for a metric that this test did not compute."""
    return [metric.number(name, values[name]) if name in values else '' for name in metrics]


def protocol_table(content: dict) -> str:
    """The table of one protocol, from the JSON of report.table. Raises UserError if it has another format."""
    try:
        degradations, means, published = (content[kind] for kind in ('degradations', 'means', 'published'))
        groups = degradations[0]['scores']
        metrics = content.get('metrics', {})
        head = [[('', 2), *((heading, len(names)) for heading, names in groups.items())],
                [('blur', 1), ('noise', 1), *((metrics[name]['title'] if name in metrics else name, 1)
                                              for names in groups.values() for name in names)]]
        rows = [(row['blur'], 'all' if row['noise'] is None else f'{row["noise"]:g}',
                 *(cell(metrics.get(name, {'decimals': 2}), value)
                   for names in row['scores'].values() for name, value in names.items()))
                for row in (*degradations, *means, *published)]
        caption = f'{content["label"]}, x{content["scale"]}'
        beside = any(name not in metrics for names in groups.values() for name in names)  # published, as columns
        notes = [f'Published: {content["published_source"]}.'] if published or beside else []
        notes.append(f'Protocol: {content["evaluation"]}')
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f'a protocol_*.json in results/ has another format ({error!r}); test again') from error
    first = len(degradations)
    return (page.table(caption, head, rows, marked=range(first, first + len(means)))
            + ''.join(f'<p class="soft">{escape(note)}</p>' for note in notes))


def cell(facts: dict, value: float | str | None) -> str:
    """A number with the decimals of its metric; inf and nan are text already; '' if there is no published result."""
    if value is None or isinstance(value, str):
        return value or ''
    return f'{value:.{facts["decimals"]}f}'


def panels(scores: list[Scored], starts: list[Start], dir_data: str | None, most: int, notes: list[str]) -> str:
    """Sliders of bicubic, super-resolved image and ground truth, spread evenly over the tests."""
    with_images = [each for each in scores if each.images]
    parts, size = [], 0
    for scored, image in spread(with_images, most):
        try:
            truth, lq_up = inputs(scored, image, starts, dir_data)
            part = panel(scored, image, read_rgb(scored.images[image]), lq_up, truth)
        except UserError as error:
            notes.append(f'{scored.set_name}/{shown(image)}: left out ({error})')
            continue
        size += len(part)
        if size > MOST:
            notes.append(f'images: only {len(parts)}, to keep the file below {MOST / 1e6:.1f} MB')
            break
        parts.append(part)
    if with_images and most > 0 and not parts:
        return f'<p>{NO_TRUTH}</p>'
    return parts and ('<p class="soft">Drag within an image, or move its slider by touch or arrow keys.</p>'
                      f'<div class="panels">{"".join(parts)}</div>')


def spread(scored: list[Scored], most: int) -> list[tuple[Scored, str]]:
    """At most `most` pairs of a Scored and the name of one of its images, over all of them as evenly as possible."""
    count = len(scored)
    picks = {}
    for i in range(most if count else 0):
        number, turn = (i % count, i // count) if count <= most else (i * (count - 1) // max(most - 1, 1), i)
        names = list(scored[number].images)
        if count > most or turn < len(names):
            picks[number, names[turn % len(names)]] = None
    return [(scored[number], name) for number, name in picks]


def inputs(scored: Scored, image: str, starts: list[Start], dir_data: str | None) -> tuple[Tensor, Tensor]:
    """Ground truth and bicubic upsampling of the LR input, as in the test: float (1, 3, H, W) in [0, 1].

    Raises UserError if the ground truth is not found.
    """
    args, testset, path = find_truth(scored, image, starts, dir_data)
    height, width = testset.cropped(read_rgb(path).shape[:2])
    hr = to_float(torch.from_numpy(read_rgb(path)[:height, :width]).permute(2, 0, 1)[None], 1, torch.device('cpu'))
    pair = Files(args.test_lr, args.scale, 1) if args.test_lr else Degraded(args.seed)
    _, up = pair(scored.set_name, image, hr, Pipeline.from_dict(scored.pipeline))
    return hr, up


def find_truth(scored: Scored, image: str, starts: list[Start],
               dir_data: str | None) -> tuple[Namespace, TestSet, Path]:
    """(options, TestSet, file) of the newest start that tested this image. Raises UserError if it is not found."""
    failure = UserError('no start in config.txt tested an image of that name')
    for start in reversed(starts):
        try:
            args = parse([*start.argv(), *(['--dir_data', dir_data] if dir_data else [])])
        except UserError as error:  # an extension is missing
            failure = error
            continue
        for name in args.data_test.split('+'):  # one by one, as other sets may be missing
            args.data_test = name
            try:
                testset, = make_tests(args)
            except UserError as error:
                failure = error
                continue
            path = dict(testset.named()).get(image) if testset.name == scored.set_name else None
            if path:
                return args, testset, path
    raise failure


def panel(scored: Scored, image: str, sr: np.ndarray, up: Tensor, hr: Tensor) -> str:
    """One slider. sr: uint8 (H, W, 3); up, hr: float (1, 3, H, W). Raises UserError if their sizes differ."""
    pictures = {'before': to_uint8(up, 1), 'after': sr, 'truth': to_uint8(hr, 1)}
    if len({each.shape for each in pictures.values()}) > 1:
        raise UserError('the super-resolved image differs in size from the ground truth')
    top, left = telling_crop([pictures['before'], sr], *CROP)
    shapes = sr.shape[:2]
    part = {name: each[top:top + CROP[0], left:left + CROP[1]] for name, each in pictures.items()}
    height, width = part['after'].shape[:2]
    name = escape(f'{scored.set_name}/{image}')
    scale = int(re.search(r'_x(\d)$', scored.images[image].stem)[1])
    scores = ', '.join(f'{metric.title(name)} {metric.number(name, value)}'
                       for name, value in scored.scores[image].items())
    size = f' Shown: {width}x{height} of {shapes[1]}x{shapes[0]} pixels.' * (shapes != (height, width))
    words = {'after': 'super-resolved', 'truth': 'ground truth', 'before': 'bicubic'}
    views = ''.join(f'<img class="{kind}" src="{page.data_uri(part[kind])}" width="{width}" height="{height}" '
                    f'alt="{name}: {text}" draggable="false">' for kind, text in words.items())
    return (f'<figure class="compare"><div class="view">{views}</div>'
            f'<label class="slide"><span>Bicubic</span><input type="range" min="0" max="100" value="50" '
            f'aria-label="Part of the bicubic image shown of {name}, in percent">'
            f'<span>Super-resolved</span></label>'
            f'<label class="tick"><input type="checkbox" aria-label="Show the ground truth of {name}">'
            'Ground truth in place of the super-resolved image</label>'
            f'<figcaption>{name}, {escape(scored.degradation)}: bicubic PSNR {psnr_y(up, hr, scale):.2f}, '
            f'super-resolved {scores}.{size}</figcaption></figure>\n')


def option_lists(start: Start) -> str:
    """All options, first those that differ from the stage's defaults."""
    changed = start.changed()
    head = [[('option', 1), ('value', 1)]]
    rest = {name: text for name, text in start.options.items() if name not in changed}
    return ('<div class="options">' + page.table("Different from the stage's defaults", head, list(changed.items()))
            + '<details><summary>All others</summary>' + page.table("The stage's defaults", head, list(rest.items()))
            + '</details></div>')


if __name__ == '__main__':
    sys.exit(main())
