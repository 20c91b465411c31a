"""The first weights of a stage's networks: from the files named by options, or from where earlier stages wrote them."""
from pathlib import Path

from model.weights import fit_weights
from option import run_names
from store.checkpoint import WEIGHTS, run_folder
from store.tensors import distrust, holed, load_weights
from utility import UserError, shown

FLAGS = ('pre_train', 'pre_train_meta', 'pre_train_TA', 'pre_train_ST')


def initialise(stage, args, log):
    """Load every network of `stage` that starts from a file, and log which one it took.

    Raises UserError if a file that is needed is not there or belongs to another network.
    """
    sources = stage.sources(args.test_only)
    check_named(args, [source.flag for source in sources])
    for flag in FLAGS:
        if given(args, flag) and flag not in {source.flag for source in sources}:
            log(f'--{flag}: not used by ' + ('this test' if args.test_only else 'this stage'))
    for source in sources:
        path = find(source, args)
        if path:
            taken = load(source, path)
            if holed() and Path('experiment').resolve() not in path.resolve().parents:
                log(distrust(path))
            log(f'--{source.flag}: {taken} from {path}')


def check_named(args, flags=FLAGS):
    """Raises UserError if a weights file that one of the options `flags` names is not there."""
    for flag in flags:
        named = given(args, flag)
        if named and not Path(named).is_file():
            raise UserError(f'--{flag} {shown(named)}: no such file')


def find(source, args):
    """The file for `source`: the option's, else what its stage wrote; None if there is none and none is needed."""
    named = given(args, source.flag) or (source.may_be_teacher and given(args, 'pre_train_TA'))
    if named:
        return Path(named)
    if not source.required:
        return None
    looked = [folder / 'model' / f'{WEIGHTS[source.stage]}_last.pt' for folder in _folders(args, source.stage)]
    for path in looked:
        if path.is_file():
            return path
    places = ' or '.join(map(str, looked))
    raise UserError(f'stage {args.stage} needs the weights of stage {source.stage}: no {places}; '
                    f'run stage {source.stage} first or name the file by --{source.flag}')


def given(args, flag):
    """The value of a --pre_train option, None for '.' and '', by which published scripts say: none."""
    value = getattr(args, flag)
    return None if value in (None, '.', '') else value


def _folders(args, stage):
    """Run folders in which the weights of `stage` may lie. Stage 1 knows no blur, so it serves every blur type."""
    if stage == args.stage and args.load != '.':
        return [Path('experiment') / args.load]
    blurs = [args.blur_type]
    if stage == 1:
        blurs += [blur for blur in ('iso_gaussian', 'aniso_gaussian') if blur != args.blur_type]
    return [run_folder(name, args, blur) for name in run_names(args, stage) for blur in blurs]


def load(source, path):
    """Load `path` into the source's network; returns in words what was taken."""
    weights = load_weights(path)
    if source.may_be_teacher and any(key.startswith('E.') for key in weights):
        generator = {key: tensor for key, tensor in weights.items() if key.startswith('G.')}
        fresh = {key: tensor for key, tensor in source.network.state_dict().items() if key.startswith('E_st.')}
        fit_weights(source.network, fresh | generator, path)
        return (f"the teacher's SR network G ({len(generator)} tensors; its encoder E, {len(weights) - len(generator)} "
                'tensors, is not taken: E_st starts afresh)')
    fit_weights(source.network, weights, path)
    return f'{len(weights)} tensors'
