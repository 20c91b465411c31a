"""Put a trained student into zoo/: with 8 bits a weight, tested, with a model card.

    python tools/maintain/ship_weights.py mrda_s_x4_iso_small --about notes.md --data_test Set5+Set14+B100
    python tools/maintain/ship_weights.py mine --runs experiment/a_stage3_... experiment/a_stage4_... --about notes.md
    python tools/maintain/ship_weights.py mine --start mrda_s_x4_iso --runs experiment/b_stage4_... --about notes.md

The runs are those of scripts/train_zoo.sh with this name, or the given run folders, in order; the last one holds the
student. --start names the shipped weights that the first of them started from. notes.md is the beginning of the card:
what the weights are for, the training images and their licences, known limits.
"""
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from matplotlib.ticker import MaxNLocator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from recipe import RECIPES, commit, read_plan
from train_zoo import phase_folder, phase_options
from trained import Trained, command, read_trained

import main as program
from model import zoo
from option import parse
from process.arguments import Parser, positive
from process.command import command_line
from report.plots import empty_chart, palette_png, style
from store import safe
from store.checkpoint import WEIGHTS, run_folder
from store.files import write_bytes
from store.tensors import load_checkpoint, load_weights, save_weights
from utility import VERSION, UserError

COST = 0.02  # dB: limit of the loss by 8 bits a weight on any set
OPTIONS = ('mode', 'blur_type', 'noise', 'sig_min', 'sig_max', 'lambda_min', 'lambda_max', 'degradation', 'seed',
           'batch_size', 'patch_size', 'images')  # of the last run, in the index
TERMS = "The code's licence does not cover these weights: they are under the terms given above with the images."


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    own = Parser(prog='tools/maintain/ship_weights.py', allow_abbrev=False,
                 usage='python tools/maintain/ship_weights.py NAME --about FILE [--runs FOLDER ...] [flags of main.py]')
    own.add_argument('name', help='name of the weights; without --runs, as trained by scripts/train_zoo.sh')
    own.add_argument('--runs', nargs='+', metavar='FOLDER', help='run folders, in order; the last is of the student')
    own.add_argument('--start', metavar='NAME',
                     help='shipped weights that the first run started from: their runs are listed first')
    own.add_argument('--current', action='store_true',
                     help='ship the current weights of the newest checkpoint, not the averaged ones')
    own.add_argument('--about', required=True, help='Markdown file for the card: images, their terms, limits')
    own.add_argument('--machine', default='the machine of the training', help='for the card: where it was trained')
    own.add_argument('--commit', default=commit(), help='of the code that trained (default: the present one)')
    own.add_argument('--protocol', default='gaussian8', help='degradations to test (default: gaussian8)')
    own.add_argument('--licence', default='see the model card', help='terms of the weights, for their file')
    own.add_argument('--steps', type=positive, default=safe.STEPS,
                     help='of a quantized weight in the standard deviation of its tensor: fewer make a smaller file '
                          f'(default: {safe.STEPS})')
    own.add_argument('--default', action='store_true', help='make it the default weights of upscale.py')
    asked, flags = own.parse_known_args(argv)
    ship(asked, flags)


def ship(asked: Namespace, flags: list[str]) -> None:
    """Test the student in single precision and as shipped, and put it into zoo/ if the loss is below COST, or if it was
    trained with its weights rounded alike."""
    about = Path(asked.about).read_text(encoding='utf-8')  # fails before anything is written
    runs = [read_trained(folder, asked.current) for folder in folders(asked)]
    stage = runs[-1].options['stage']
    if stage not in (4, 5):
        raise UserError(f'{runs[-1].folder}: the last run is of stage {stage}, not of a student')
    full, small = runs[-1].folder / 'model' / f'{WEIGHTS[stage]}_last.pt', Path('experiment', asked.name + safe.SUFFIX)
    if asked.current:
        networks = load_checkpoint(runs[-1].newest)['networks']
        full = Path('experiment', f'{asked.name}_current.pt')
        save_weights(full, {key.removeprefix('trained.'): tensor for key, tensor in networks.items()
                            if key.startswith('trained.')})
    save_weights(small, zoo.compact(load_weights(full), full, asked.steps))
    line = [*runs[-1].argv, '--qat', '0', '--precision', 'single', '--protocol', asked.protocol, *flags]
    scores = {path: measured([*line, '--pre_train_ST', str(path), '--save', f'{asked.name}_{kind}'])
              for kind, path in (('single', full), ('8bit', small))}
    cost = max(single - mean_psnr(scores[small])[name] for name, single in mean_psnr(scores[full]).items())
    trained_so = runs[-1].options.get('qat') == asked.steps  # then the rounded weights are those that were trained
    if cost >= COST and not trained_so:
        raise UserError(f'{small}: 8 bits a weight cost {cost:.4f} dB, but less than {COST} is required')
    training = {**{name: runs[-1].options[name] for name in OPTIONS if name in runs[-1].options}, 'version': VERSION,
                'training': command(runs[-1].argv),
                'runs': earlier(asked.start) + [{**run.row(), 'commit': asked.commit} for run in runs],
                'machine': asked.machine, 'commit': asked.commit, 'licence': asked.licence}
    zoo.ship(asked.name, full, training, asked.default, asked.steps)
    write_bytes(zoo.ZOO / f'{asked.name}.png', curve(runs, len(training['runs']) - len(runs)))
    write_bytes(zoo.ZOO / f'{asked.name}.md', card(asked.name, training, scores[small], cost, about).encode())


def folders(asked: Namespace) -> list[Path]:
    """The run folders, in order."""
    if asked.runs:
        return [Path(folder) for folder in asked.runs]
    plan = read_plan(Path('experiment', asked.name, 'plan.json'))
    return [phase_folder(phase_options(asked.name, phase, plan)) for phase in RECIPES[plan['size']].phases]


def earlier(name: str | None) -> list[dict]:
    """The rows of the runs of shipped weights, [] for None."""
    if name is None:
        return []
    entry = zoo.index().get(name, {})
    if 'runs' not in entry:
        raise UserError(f'--start {name}: zoo/{zoo.INDEX} lists no runs of this name; describe them in --about')
    return [{'commit': entry['commit'], **row} for row in entry['runs']]


def curve(runs: list[Trained], number: int) -> bytes:
    """A figure of the student's scores in the tests of its runs, over the LR pixels of these, as a PNG file. number:
    that of earlier runs on the card."""
    runs = [run for run in runs if run.options['stage'] >= 4]
    with style():
        since = f' after run {number}' if number else ''
        figure, axes = empty_chart('PSNR in the test of each epoch (dB)', f'LR pixels of stage 4{since}, millions')
        sets = list(dict.fromkeys(name for run in runs for _, scores in run.scores for name in scores))
        for run, before in zip(runs, accumulate((run.pixels for run in runs), initial=0), strict=False):
            for name in run.scores[0][1] if run.scores else ():
                axes.plot([before + pixels for pixels, _ in run.scores], [scores[name] for _, scores in run.scores],
                          color=f'C{sets.index(name)}', linewidth=1.5)
            axes.axvline(before, color='0.8', linewidth=0.8, zorder=0)
        if sets:
            axes.legend([axes.plot([], [], f'C{color}')[0] for color in range(len(sets))], sets, frameon=False)
        axes.xaxis.set_major_locator(MaxNLocator())
        return palette_png(figure, 120)


def measured(line: list[str]) -> dict:
    """The protocol's table, as JSON of report.table, of a test by the command line."""
    status = program.main([*line, '--test_only'])
    if status:
        raise UserError('the test failed, for the reason above')
    args = parse([*line, '--test_only'])
    path = run_folder(args.run_name, args) / 'results' / f'protocol_{args.protocol}.json'
    return json.loads(path.read_text(encoding='utf-8'))


def mean_psnr(table: dict) -> dict[str, float]:
    """{test set: mean PSNR over all degradations}."""
    return {name: scores['psnr_y'] for name, scores in table['means'][-1]['scores'].items() if 'psnr_y' in scores}


def score_rows(name: str, table: dict, sets: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(label, a cell for each set) for the means of a table, then published results."""
    for mean in table['means']:
        scores, noise = mean['scores'], 'all noise levels' if mean['noise'] is None else f'noise {mean["noise"]:g}'
        noise = f', {noise}' * (len(table['means']) > 1)
        yield f'**{name}**{noise}', [pair(scores[each]) for each in sets]
        known = [scores.get(f'{each} published PSNR', {}) for each in sets]
        for method in dict.fromkeys(method for each in known for method in each):
            yield f'{method}, published{noise}', [f'{each[method]:.2f}' if method in each else '' for each in known]
    for row in table['published']:
        yield (row['blur'].removeprefix('published: ') + ', published',
               [pair(row['scores'][each]) if row['scores'].get(each, {}).get('psnr_y') else '' for each in sets])


def pair(scores: dict[str, float]) -> str:
    """PSNR and SSIM in one cell."""
    return f'{scores["psnr_y"]:.2f} / {scores["ssim_y"]:.4f}'


def card(name: str, training: dict, table: dict, cost: float, about: str) -> str:
    """The model card, in Markdown."""
    sets = list(mean_psnr(table))
    lines = [f'# {name}', '', about.strip(), '', '## Scores', '',
             f'{table["label"]}, x{table["scale"]}; mean PSNR / SSIM:', '',
             '| | ' + ' | '.join(sets) + ' |', '|---|' + '---|' * len(sets)]
    for label, cells in score_rows(name, table, sets):
        lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
    runs = training['runs']
    published = [f'Published: {table["published_source"]}.'] if any(', published' in line for line in lines) else []
    lines += ['', f'8 bits a weight, as shipped, cost at most {max(cost, 0):.4f} dB. {table["evaluation"]}.',
              *published, '', f'![PSNR over LR pixels]({name}.png)', '',
              '## Training', '',
              '| run | steps | million LR pixels | hours | arithmetic | commit |', '|---|--:|--:|--:|---|---|',
              *(f'| {number} | {run["steps"]:,} | {run["pixels"]:.1f} | {run["hours"]:.1f} | {run["precision"]} | '
                f'`{run["commit"][:7]}` |' for number, run in enumerate(runs, 1)), '',
              *(f'{number}. `{run["command"]}`' for number, run in enumerate(runs, 1)), '',
              f'Each run starts from the weights of those before it. {sum(run["hours"] for run in runs):.1f} hours on '
              f'{training["machine"]}; {training["images"]}, see `store/continuity.py`; tested '
              f'and shipped with version {training["version"]}.', '', TERMS]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.exit(main())
