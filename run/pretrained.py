"""The initial weights of a stage's networks: from the files that options name, or from the runs of earlier stages."""
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from model import zoo
from model.shapes import role_of
from model.weights import fit_weights, recognise
from optim.quantization import is_quantized
from option import default_run
from stage import Source, Stage
from store.checkpoint import WEIGHTS, run_folder
from store.tensors import load_weights, trust_warning, unsafe_torch
from utility import UserError, shown

FLAGS = ('pre_train', 'pre_train_meta', 'pre_train_TA', 'pre_train_ST')


def initialise(stage: Stage, args: Namespace, log: Callable[[str], None]) -> None:
    """Load every network of `stage` that starts from a file, and log which file.

    Raises UserError if a required file is missing or belongs to another network.
    """
    sources = stage.sources(args.test_only)
    for flag in FLAGS:
        if given(args, flag) and flag not in {source.flag for source in sources}:
            log(f'--{flag}: not used by ' + ('this test' if args.test_only else 'this stage'))
    for source in sources:
        path = find(source, args)
        if path:
            taken = load(source, path)
            if unsafe_torch() and not _own(path):
                log(trust_warning(path))
            log(f'--{source.flag}: {taken} from {path}')
            if args.qat and source.network is stage.trained and is_quantized(source.network):
                log(f'--qat: {path} holds rounded weights, and rounding them anew changes them, at first by decibels; '
                    'weights files of a training are not rounded')


def adopt_sizes(args: Namespace) -> list[str]:
    """Where only a student is built and --pre_train_ST names its weights: set the sizes that no flag sets from them.

    Returns a note for each size. Raises UserError if the weights are missing or damaged.
    """
    named = given(args, 'pre_train_ST')
    if args.stage not in (4, 5) or not named or (args.distill and not args.test_only):
        return []
    located = zoo.locate(named)
    found = located and recognise(load_weights(located[0]))
    if not found or (found.family, found.role) != (args.model, 'student'):
        return []  # loading them will raise the error
    sizes = {name: value for name, value in found.sizes.items() if name not in ('scale', 'rgb_range', *args.given)
             and getattr(args, name) != value}
    vars(args).update(sizes)
    return [f'--{name} {value}, read from the weights of --pre_train_ST' for name, value in sizes.items()]


def check_named(args: Namespace) -> None:
    """Raises UserError if a weights file that an option names is missing."""
    for flag in FLAGS:
        if given(args, flag):
            named_file(flag, given(args, flag))


def named_file(flag: str, name: str) -> Path:
    """The weights file `name` of option `flag`: a path, or the name of shipped weights. Raises UserError."""
    found = zoo.locate(name)
    if not found:
        raise UserError(f'--{flag} {shown(name)}: no such file or shipped weights; {zoo.shipped()}')
    return found[0]


def find(source: Source, args: Namespace) -> Path | None:
    """The file for `source`: the option's, else the one its stage wrote; None if there is none and it is optional."""
    flag = source.flag
    if source.takes_other_role and not given(args, flag) and given(args, 'pre_train_TA'):
        flag = 'pre_train_TA'
    if given(args, flag):
        return named_file(flag, given(args, flag))
    if not source.required:
        return None
    looked = [folder / 'model' / f'{WEIGHTS[source.stage]}_last.pt' for folder in _folders(args, source.stage)]
    for path in looked:
        if path.is_file():
            return path
    places = ' or '.join(map(str, looked))
    raise UserError(f'stage {args.stage} needs the weights of stage {source.stage}: no {places}; '
                    f'run stage {source.stage} first, or give the file by --{source.flag}')


def run_names(args: Namespace, stage: int) -> list[str]:
    """Names of the runs that may hold the weights of an earlier `stage`, in the order in which they are tried. For
    stage 2 of the run X_stage3: X_stage2, the default; of any other run X: X_stage2, X, the default."""
    stem, own, rest = args.run_name.rpartition(f'stage{args.stage}')
    names = [f'{stem}stage{stage}'] if own and not rest else [f'{args.run_name}_stage{stage}', args.run_name]
    return list(dict.fromkeys([*names, default_run(args.model, stage)]))


def given(args: Namespace, flag: str) -> str | None:
    """The value of a --pre_train option; None for '.' and '', which mean "none" in published scripts."""
    value = getattr(args, flag)
    return None if value in (None, '.', '') else value


def _folders(args, stage):
    """Run folders that may hold the weights of `stage`. Stage 1 trains without blur, so it serves every degradation."""
    if stage == args.stage and args.load != '.':
        return [Path('experiment') / args.load]
    blurs = [None, 'iso_gaussian', 'aniso_gaussian'] if stage == 1 else [None]
    return list(dict.fromkeys(run_folder(name, args, blur) for name in run_names(args, stage) for blur in blurs))


def _own(path):
    """Whether the file `path` was written by this program or is shipped with the project."""
    folders = path.resolve().parents
    return Path('experiment').resolve() in folders or zoo.ZOO.resolve() in folders


def load(source: Source, path: Path) -> str:
    """Load `path` into the source's network; returns a description of what was loaded.

    Where the source allows it, a teacher starts from a student's weights or vice versa: the SR network G is loaded; the
    encoder, whose input differs, keeps its initial weights.
    """
    weights, own = load_weights(path), source.network.state_dict()
    others = {'teacher': 'student', 'student': 'teacher'}.get(role_of(own))
    if not (source.takes_other_role and role_of(weights) == others):
        fit_weights(source.network, weights, path)
        return f'{len(weights)} tensors'
    sr_network = {key: tensor for key, tensor in weights.items() if key.startswith('G.')}
    fresh = {key: tensor for key, tensor in own.items() if not key.startswith('G.')}
    fit_weights(source.network, fresh | sr_network, path)
    theirs, ours = ('E', 'E_st') if others == 'teacher' else ('E_st', 'E')
    return (f"the {others}'s SR network G ({len(sr_network)} tensors; its encoder {theirs}, "
            f'{len(weights) - len(sr_network)} tensors, is not loaded: {ours} keeps its initial weights)')
