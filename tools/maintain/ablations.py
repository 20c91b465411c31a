"""Does the method help? Small networks, trained at equal numbers of steps with and without its parts, over some seeds.

    python tools/maintain/ablations.py --dir_data datasets --data_train DF2K --pre_train_meta mln.pt
    python tools/maintain/ablations.py --dir_data datasets --data_train DF2K --model kdsr

Each variant is a run of main.py of its own, experiment/ablation_FAMILY_VARIANT_SEED…; finished ones are not repeated,
and the same command resumes. Tested by gaussian8 on Set5, where the silhouettes of the representation are measured too;
every run takes flags of main.py.
"""
import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import main as program
from data.degradation import IsoGaussian, classic_of
from data.protocol import alike
from option import parse
from process.arguments import Parser, count
from process.command import command_line
from stage import Source, Stage
from stages import STAGES
from store.checkpoint import WEIGHTS, run_folder
from tools.map_degradations import measure, silhouettes
from trainer_stage3 import Stage3
from trainer_stage4 import Stage4
from utility import UserError

PROTOCOL = 'gaussian8'
SIGMAS = 0.5, 1.2, 1.8, 2.4, 3.0, 3.6  # of the blurs whose representations are compared
SIZES = ('--n_blocks', '4', '--batch_size', '8', '--patch_size', '32', '--test_iter', '5', '--recompute', 'False',
         '--test_every', '40', '--epochs_sr', '10', '--optimizer', 'Muon', '--lr_sr', '2e-3', '--warmup', '20',
         '--decay_type', 'linear_0', '--ema', '0.95', '--data_test', 'Set5', '--n_threads', '0', '--print_every', '40')


class Unadapted(Stage3):
    """The teacher reads the features of the meta-learned MLN before any adaptation step."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.cue.rates = []


class Zeros(nn.Module):
    """Zeros in place of the teacher's cue: nothing is known of the degradation. channels: those of the cue, C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """lq (B, 3, h, w) → (B, C, h, w)."""
        return lq.new_zeros(len(lq), self.channels, *lq.shape[2:])


class WithoutCue(Stage3):
    """The teacher reads zeros."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        first = next(self.teacher.encoder.parameters())  # of the first convolution, (out, C, 3, 3)
        self.cue = Zeros(first.shape[1])


class Alone(Stage4):
    """The student starts from the teacher's SR network as in stage 4, but is trained by --distill 0."""

    def sources(self, testing: bool) -> list[Source]:
        """Those of stage 4."""
        return [source._replace(takes_other_role=not testing) for source in super().sources(testing)]


class Variant(NamedTuple):
    """A run: its stage, a class in place of the stage's own, and further flags."""
    title: str
    stage: int
    instead: type[Stage] | None = None
    flags: tuple = ()


TEACHERS = {
    'mrda': {
        'adapted': Variant('teacher, features of the adapted MLN', 3),
        'unadapted': Variant('teacher, features of the MLN before adaptation', 3, Unadapted),
        'zeros': Variant('teacher, zeros as features', 3, WithoutCue),
    },
    'kdsr': {
        'pair': Variant('teacher, lq and the ground truth', 3),
        'zeros': Variant('teacher, zeros in their place', 3, WithoutCue),
    },
}
STUDENTS = {  # which start from the first teacher of their family
    'distilled': Variant('student, distilled', 4, flags=('--epochs_encoder', '0')),
    'encoder': Variant('student, distilled, its encoder alone for as many steps first', 4,
                       flags=('--epochs_encoder', '10', '--epochs_sr', '20', '--lr_encoder', '2e-3')),
    'alone': Variant('student, not distilled', 4, Alone, ('--distill', '0')),
}


def family(flags: list[str]) -> str:
    """The family that flags of main.py name."""
    return parse(['--stage', '3', *flags]).model


def variants(flags: list[str]) -> dict[str, Variant]:
    """{name: variant} of the family that flags of main.py name. Raises UserError for a family without variants."""
    if family(flags) not in TEACHERS:
        raise UserError(f'--model {family(flags)}: no ablations of this family; choose from {", ".join(TEACHERS)}')
    return TEACHERS[family(flags)] | STUDENTS


@command_line('; the same command resumes')
def main(argv: list[str] | None = None) -> int:
    """Train and test what is missing, then print the table; returns the exit status."""
    own = Parser(prog='tools/maintain/ablations.py', allow_abbrev=False, description=__doc__.splitlines()[0],
                 usage='python tools/maintain/ablations.py [--pre_train_meta MLN] [--seeds N] [flags of main.py]')
    own.add_argument('--seeds', type=count, default=3, help='trainings of each variant (default: 3)')
    asked, flags = own.parse_known_args(argv)
    scores, separations = ({name: [] for name in variants(flags)} for _ in range(2))
    for seed in range(1, asked.seeds + 1):
        for name in scores:
            ended = trained_and_tested(name, seed, flags)
            if ended:
                return ended
            scores[name].append(score(command(name, seed, flags)))
            separations[name].append(separation(name, seed, flags))
    print(table(variants(flags), scores, separations))
    return 0


def trained_and_tested(name: str, seed: int, flags: list[str]) -> int:
    """Train and test a variant, unless both are done; returns the exit status."""
    line = command(name, seed, flags)
    with in_place(variants(flags)[name]):
        ended = program.main([*line, *started(name, seed, flags)])
        if ended or result(line).exists():
            return ended or 0
        return program.main([*line, '--test_only', '--protocol', PROTOCOL]) or 0


def command(name: str, seed: int, flags: list[str]) -> list[str]:
    """The command line of a variant, without its initial weights. flags: further ones."""
    variant = variants(flags)[name]
    run = f'ablation_{family(flags)}_{name}_{seed}'
    return ['--stage', str(variant.stage), '--save', run, '--seed', str(seed), *SIZES, *variant.flags, *flags]


def started(name: str, seed: int, flags: list[str]) -> list[str]:
    """The flags that start a student from the first teacher of its family."""
    if name not in STUDENTS:
        return []
    teacher = str(weights(command(next(iter(TEACHERS[family(flags)])), seed, flags)))
    return ['--pre_train_TA', teacher, '--pre_train_ST', teacher]


def folder(line: list[str]) -> Path:
    """The run folder of a command line."""
    args = parse(line)
    return run_folder(args.run_name, args)


def weights(line: list[str]) -> Path:
    """The weights file that a command line writes."""
    return folder(line) / 'model' / f'{WEIGHTS[parse(line).stage]}_last.pt'


def result(line: list[str]) -> Path:
    """The scores of the protocol that a command line writes with --test_only."""
    return folder(line) / 'results' / f'protocol_{PROTOCOL}.json'


@contextmanager
def in_place(variant: Variant) -> Iterator[None]:
    """A context in which the variant's class is that of its stage."""
    original = STAGES[variant.stage]
    STAGES[variant.stage] = variant.instead or original
    try:
        yield
    finally:
        STAGES[variant.stage] = original


def score(line: list[str]) -> float:
    """The PSNR of a tested variant: the mean over the protocol, dB."""
    (mean,) = json.loads(result(line).read_text(encoding='utf-8'))['means']
    return statistics.mean(scores['psnr_y'] for scores in mean['scores'].values())


def separation(name: str, seed: int, flags: list[str]) -> tuple[float, float]:
    """Silhouettes of a variant's representation, by degradation and by image."""
    args = parse([*command(name, seed, flags), '--test_only'])
    grid = [alike(classic_of(args, testing=True), IsoGaussian(sigma)) for sigma in SIGMAS]
    with in_place(variants(flags)[name]):
        _, features = measure(grid, args)
    return tuple(silhouettes(features, len(grid)).values())


def table(rows_of: dict[str, Variant], scores: dict[str, list[float]],
          separations: dict[str, list[tuple[float, float]]]) -> str:
    """A Markdown table: the mean over seeds with its standard deviation, the same of the differences, by seed, from
    the first variant of the stage, and of the silhouettes."""
    rows = [f'| trained | {PROTOCOL}, dB | difference, dB | silhouette by degradation | by image |',
            '|---|--:|--:|--:|--:|']
    for name, variant in rows_of.items():
        first = next(each for each in rows_of if rows_of[each].stage == variant.stage)
        differences = [own - other for own, other in zip(scores[name], scores[first], strict=True)]
        change = spread(differences, '+') if first != name else ''
        apart = (spread(list(values), '') for values in zip(*separations[name], strict=True))
        rows.append(f'| {variant.title} | {spread(scores[name], "")} | {change} | {" | ".join(apart)} |')
    return '\n'.join(rows)


def spread(values: list[float], sign: str) -> str:
    """'29.34 ± 0.02': mean and standard deviation."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):{sign}.2f}{deviation}'


if __name__ == '__main__':
    sys.exit(main())
