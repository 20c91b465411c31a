"""What must not change when a run resumes: the options and images that determine its result."""
from argparse import Namespace
from hashlib import blake2b
from pathlib import Path

from utility import UserError

# Options by where they matter: (stages, all families but this one, blur types), None for all.
BINDING = {
    (None, None, None): (
        'model', 'stage', 'scale', 'seed', 'degradation', 'precision', 'patch_size', 'no_augment', 'rgb_range',
        'n_colors', 'n_feats', 'train_lr', 'degradation_per',
        'epochs_encoder', 'test_every', 'batch_size', 'lr_sr', 'lr_decay_sr', 'decay_type', 'gamma_sr', 'optimizer',
        'warmup', 'ema', 'qat', 'momentum', 'beta1', 'beta2', 'epsilon', 'weight_decay', 'loss', 'skip_threshold'),
    ((2, 3, 4, 5), None, None): ('blur_type', 'blur_kernel', 'mode', 'noise'),
    ((2, 3, 4, 5), None, 'iso_gaussian'): ('sig_min', 'sig_max'),
    ((2, 3, 4, 5), None, 'aniso_gaussian'): ('lambda_min', 'lambda_max'),
    ((2, 3, 4, 5), None, 'file'): ('kernels',),
    ((2,), None, None): ('task_iter', 'lr_task', 'meta_batch_size'),
    ((3, 4, 5), 'kdsr', None): ('test_iter',),
    ((3, 4, 5), None, None): ('n_blocks',),
    ((3, 4, 5), 'mrda', None): ('n_resblocks',),
    ((4,), None, None): ('lr_encoder', 'lr_decay_encoder', 'gamma_encoder'),
    ((4, 5), None, None): ('temperature', 'distill'),
    ((5,), None, None): ('gan_weight', 'sharpen_hr'),
}
PASSING = ('device', 'n_GPUs', 'compile', 'recompute', 'data_test', 'protocol', 'kernel_index', 'sig', 'lambda_1',
           'lambda_2', 'theta', 'epochs_sr')


def binding(args: Namespace) -> dict:
    """{option: value} of those that determine a training's result."""
    found = {}
    for (stages, without, blur), names in BINDING.items():
        if (not stages or args.stage in stages) and without != args.model and blur in (None, args.blur_type):
            found |= {name: getattr(args, name) for name in names}
    return found | {name: _content(Path(found[name])) for name in ('kernels',) if name in found}


def passing(args: Namespace, n_processes: int) -> dict:
    """{option: value} of those that may change: tests, length, devices."""
    return {name: getattr(args, name) for name in PASSING} | {'processes': n_processes}


def _content(path):
    """The name of a file or folder and a fingerprint of its content."""
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    return f'{path.name} (fingerprint {_digest([(each.name, each.read_bytes()) for each in files])})'


def describe(checksums: list[str]) -> str:
    """The images of a training set: their number, and a fingerprint of their pixels and order."""
    return f'{len(checksums)} images (fingerprint of pixels {_digest(checksums)})'


def describe_files(files: list[Path]) -> str:
    """The description in checkpoints of older versions: a fingerprint of names and sizes."""
    return f'{len(files)} images (fingerprint {_digest([(path.name, path.stat().st_size) for path in files])})'


def _digest(facts: list) -> str:
    return blake2b(repr(facts).encode(), digest_size=4).hexdigest()


def check_images(folder: Path, old: str, files: list[Path], checksums: list[str], accept: bool) -> list[str]:
    """Notes on changes of a resumed run's training set; old: its description in the checkpoint.

    Raises UserError if it has changed, unless `accept`.
    """
    if 'pixels' in old:
        return check(folder, {'images': old}, {'images': describe(checksums)}, accept)
    found = check(folder, {'images': old}, {'images': describe_files(files)}, accept)
    return found or ['The checkpoint identifies its images by name and size only, which match; new ones use pixels.']


def differences(old: dict, new: dict) -> list[str]:
    """'--name was a, is now b' for each entry of `new` that differs from that of `old`."""
    return [f'{"--" * (name not in ("images", "processes"))}{name} was {old[name]}, is now {value}'
            for name, value in new.items() if name in old and old[name] != value]


def check(folder: Path, old: dict, new: dict, accept: bool) -> list[str]:
    """The differences between two dicts of binding entries.

    Raises UserError with them if there are any, unless `accept`.
    """
    found = differences(old, new)
    if found and not accept:
        raise UserError(f'{folder}: these options would change the existing run: {"; ".join(found)}. '
                        'Give them as they were, choose another --save, or add --accept_changes to resume with them')
    return found
