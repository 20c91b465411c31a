"""Put a student trained by scripts/train_zoo.sh into zoo/: in half precision, tested, with a model card.

    python tools/maintain/ship_weights.py mrda_s_x4_iso_small --about notes.md --data_test Set5+Set14+B100

notes.md is the beginning of the card: what the weights are for, the training images and their licences, known limits.
"""
import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from recipe import RECIPES, read_plan
from train_zoo import phase_line, phase_options, weights_file

import main as program
from model import zoo
from option import parse
from process.arguments import Parser
from process.command import command_line
from store.checkpoint import run_folder
from store.files import write_bytes
from store.tensors import load_checkpoint, load_weights, save_weights
from utility import VERSION, UserError

COST = 0.01  # dB: limit of the loss by half precision on any set
OPTIONS = ('model', 'scale', 'n_blocks', 'rgb_range', 'mode', 'blur_type', 'noise', 'n_feats', 'batch_size',
           'patch_size', 'seed')  # of the training, listed in the card
RANGES = {'iso_gaussian': ('sig_min', 'sig_max'), 'aniso_gaussian': ('lambda_min', 'lambda_max'),
          'file': ('kernels',)}

TERMS = "The code's licence does not cover these weights: they are under the terms given above with the images."


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    own = Parser(prog='tools/maintain/ship_weights.py',
                 usage='python tools/maintain/ship_weights.py NAME --about FILE [flags of main.py]', allow_abbrev=False)
    own.add_argument('name', help='weights in experiment/, as trained by scripts/train_zoo.sh')
    own.add_argument('--about', required=True, help='Markdown file for the card: images, their terms, limits')
    own.add_argument('--protocol', default='gaussian8', help='degradations to test (default: gaussian8)')
    own.add_argument('--licence', default='see the model card', help='terms of the weights, for their file')
    own.add_argument('--default', action='store_true', help='make it the default weights of upscale.py')
    asked, flags = own.parse_known_args(argv)
    ship(asked, flags)


def ship(asked: Namespace, flags: list[str]) -> None:
    """Test the student in single and half precision, and put it into zoo/ if the loss is below COST."""
    plan = read_plan(Path('experiment', asked.name, 'plan.json'))
    phase = list(RECIPES[plan['size']].phases)[-1]
    line = [*phase_line(asked.name, phase, plan), *flags, '--precision', 'single']
    args = phase_options(asked.name, phase, plan)
    full, half = weights_file(asked.name, phase, plan), Path('experiment', asked.name, f'{asked.name}.pt')
    save_weights(half, zoo.halved(load_weights(full), full))
    scores = {path: measured([*line, '--protocol', asked.protocol, '--pre_train_ST', str(path),
                              '--save', f'{asked.name}_{precision}'])
              for precision, path in (('single', full), ('half', half))}
    cost = max(single - mean_psnr(scores[half])[name] for name, single in mean_psnr(scores[full]).items())
    if cost >= COST:
        raise UserError(f'{half}: half precision costs {cost:.4f} dB, but less than {COST} is required')
    training = facts(args, plan, full.parent) | {'licence': asked.licence}
    about = Path(asked.about).read_text(encoding='utf-8')  # fails before anything is written
    zoo.ship(asked.name, half, training, default=asked.default)
    write_bytes(zoo.ZOO / f'{asked.name}.md', card(asked.name, training, scores[half], cost, about).encode())


def facts(args: Namespace, plan: dict, model: Path) -> dict:
    """The facts about a student and its training, for the card and the index. model: the folder of its weights."""
    own = {name: dict(pairwise(words)) for name, words in plan['phases'].items()}
    steps = {name: phase.epochs * int(own[name]['--test_every'])
             for name, phase in RECIPES[plan['size']].phases.items()}
    checkpoint = max(model.glob('state_*.pt'), key=lambda path: path.stat().st_mtime)
    seconds = checkpoint.stat().st_mtime - plan['started']
    options = {name: getattr(args, name) for name in (*OPTIONS, *RANGES[args.blur_type])}
    command = f'sh scripts/train_zoo.sh {plan["size"]} --minutes {plan["minutes"]:g} {flags(plan)}'
    return {**options, 'version': VERSION, 'training': command.strip(), 'size': plan['size'],
            'minutes_planned': plan['minutes'], 'minutes_taken': round(seconds / 60),
            'device': plan['device'], 'steps': steps,
            'precision': {name: words['--precision'] for name, words in own.items()},
            'images': load_checkpoint(checkpoint)['options']['images'], 'commit': plan['commit']}


def flags(plan: dict) -> str:
    """The flags of a training besides size and time, without local folders and files."""
    given = plan['flags'][len(RECIPES[plan['size']].flags):]
    pairs = zip(given[::2], given[1::2], strict=True)
    return shlex.join(part for pair in pairs if not pair[0].startswith(('--dir', '--pre_train')) for part in pair)


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
    lines += ['', f'Half precision, as shipped, costs at most {max(cost, 0):.4f} dB. {table["evaluation"]}.',
              f'Published: {table["published_source"]}.', '', '## Training', '',
              f'- `{training["training"]}`, at commit `{training["commit"]}`',
              '- ' + ', '.join(f'`--{name} {training[name]}`' for name in (*OPTIONS, *RANGES[training['blur_type']])),
              '- steps: ' + ', '.join(f'{steps:,} in {phase} ({training["precision"][phase]})'
                                      for phase, steps in training['steps'].items()),
              f'- {training["minutes_taken"]} minutes on {training["device"]}',
              f'- tested and shipped with version {training["version"]}',
              f'- {training["images"]}, see `store/continuity.py`',
              '', TERMS]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.exit(main())
