"""Train the weights of zoo/ by main.py, with as many steps in each phase as fit into the given time.

First some steps of each phase are timed on this device, and a plan is written to experiment/NAME/plan.json; a second
call resumes it. The runs are experiment/NAME_stage1 … NAME_stage4 (and NAME_stage4_grown).
`status NAME` prints the steps, pixels and scores of each phase so far; with --measure also the protocol's mean scores
and the silhouettes of the representation for the newest student.
"""
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import map_degradations
from recipe import GROWN, RECIPES, Phase, make_plan, read_plan
from trained import journal, newest_step, seconds

import main as program
from model.growth import grow
from option import parse
from process.arguments import Parser, positive
from process.command import command_line
from store.checkpoint import WEIGHTS, run_folder
from store.tensors import load_weights, save_weights
from utility import UserError

PROTOCOLS = {'iso_gaussian': ('gaussian8', 'Set5'), 'aniso_gaussian': ('mrda9', 'Set14')}


@command_line('; the same command resumes')
def main(argv: list[str] | None = None) -> int:
    """Train, or print the status of a training; returns the exit status."""
    own = Parser(prog='tools/maintain/train_zoo.py', allow_abbrev=False,
                 usage='sh scripts/train_zoo.sh [small|grown|full] [--minutes N] [flags of main.py]\n'
                       '       sh scripts/train_zoo.sh status NAME [--measure] [flags of main.py]')
    own.add_argument('size', nargs='?', choices=(*RECIPES, 'status'), default='small',
                     help='small: 8 blocks; grown: 8, then 27; full: 27; status: show what is trained (default: small)')
    own.add_argument('--minutes', type=positive, default=90, help='time for all stages, minutes (default: 90)')
    own.add_argument('--name', help='name of the weights (default: mrda_s_x4_iso, _small for small)')
    own.add_argument('--measure', action='store_true', help='status: test the newest student and map its features')
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ['status'] and len(argv) > 1 and not argv[1].startswith('-'):
        argv[1:2] = ['--name', argv[1]]
    asked, flags = own.parse_known_args(argv)
    if asked.size == 'status':
        if not asked.name:
            raise UserError('status: the name is missing; give it, as in status mrda_s_x4_iso_small')
        return status(asked.name, flags, asked.measure)
    name = asked.name or f'mrda_s_x4_iso{"_small" * (asked.size == "small")}'
    plan = make_plan(Path('experiment', name, 'plan.json'), asked.size, flags, asked.minutes)
    phases = RECIPES[plan['size']].phases
    for number, each in enumerate(phases, 1):
        print(f'\n=== {each} ({number} of {len(phases)}) ===', flush=True)
        ended = program.main([*phase_line(name, each, plan), *(start_grown(name, plan) if phases[each].grown else [])])
        if ended:
            return ended
    return 0


def phase_line(name: str, phase: str, plan: dict) -> list[str]:
    """The command line of a phase."""
    own = RECIPES[plan['size']].phases[phase].line(plan['flags'])
    return [*own, '--save', f'{name}_{phase}', *plan['phases'][phase]]


def phase_options(name: str, phase: str, plan: dict) -> Namespace:
    """The options of a phase, as main.py reads them."""
    return parse(phase_line(name, phase, plan))


def phase_folder(args: Namespace) -> Path:
    """The run folder of a phase with the options `args`."""
    return run_folder(args.run_name, args)


def weights_file(name: str, phase: str, plan: dict) -> Path:
    """The weights file that a phase writes."""
    args = phase_options(name, phase, plan)
    return phase_folder(args) / 'model' / f'{WEIGHTS[args.stage]}_last.pt'


def start_grown(name: str, plan: dict) -> list[str]:
    """Flags of a phase that starts from grown networks, which are written if missing."""
    flags = ['--pre_train_meta', str(weights_file(name, 'stage2', plan))]
    for flag, phase in ('--pre_train_TA', 'stage3'), ('--pre_train_ST', 'stage4'):
        small, large = weights_file(name, phase, plan), Path('experiment', name, f'{phase}_{GROWN}.pt')
        if not large.exists():
            save_weights(large, grow(load_weights(small), GROWN, small))
        flags += [flag, str(large)]
    return flags


def status(name: str, flags: list[str], measure: bool) -> int:
    """Print a row for each phase; returns the exit status."""
    plan = read_plan(Path('experiment', name, 'plan.json'))
    print(f'{"phase":14}{"step":>8}{"of":>8}{"M LR pixels":>13}{"hours":>8}  scores after the last epoch')
    newest = None
    for phase, kind in RECIPES[plan['size']].phases.items():
        args = phase_options(name, phase, plan)
        rows = journal(phase_folder(args))
        print(phase_row(phase, kind, args, rows))
        newest = phase if args.stage == 4 and weights_file(name, phase, plan).exists() else newest
    if not measure:
        return 0
    if not newest:
        raise UserError(f'{name}: stage 4 has written no weights yet')
    return measured(name, newest, plan, flags)


def phase_row(phase: str, kind: Phase, args: Namespace, rows: list[dict]) -> str:
    """The row of a phase in the status, from the rows of its log.jsonl."""
    step = newest_step(rows)
    pixels = step * args.batch_size * args.patch_size ** 2 / 1e6
    hours = seconds(rows, args.batch_size) / 3600
    epoch = max((row['epoch'] for row in rows if row['kind'] == 'test' and row['epoch']), default=None)
    scores = [f'{name} {values["psnr_y"]:.2f} dB' for row in rows if row['kind'] == 'test' and row['epoch'] == epoch
              and epoch for name, values in row['scores'].items()]
    return (f'{phase:14}{step:>8,}{kind.epochs * args.test_every:>8,}{pixels:>13.1f}{hours:>8.2f}  '
            + ', '.join(scores))


def measured(name: str, phase: str, plan: dict, flags: list[str]) -> int:
    """Test the newest student by its protocol, and map its representation; returns the exit status."""
    args = phase_options(name, phase, plan)
    protocol, tested = PROTOCOLS[args.blur_type]
    trained = str(weights_file(name, phase, plan))
    line = [*phase_line(name, phase, plan), '--pre_train_ST', trained, '--data_test', tested,
            '--save', f'{name}_{protocol}', *flags]
    ended = program.main([*line, '--test_only', '--protocol', protocol])
    picture = str(Path('experiment', name, 'degradations.png'))
    return ended or map_degradations.main([*line, '--out', picture]) or 0


if __name__ == '__main__':
    sys.exit(main())
