"""Every option: its default, its unit, what it refuses, what each stage sets. A mistake is one line, a UserError."""
import argparse
import sys
from re import fullmatch, sub

from data.degradation import DEGRADATIONS
from data.protocol import PROTOCOLS
from model import FAMILIES
from model.presets import PUBLISHED_KDSR
from optim.schedule import check_decay, decay
from process import arguments
from process.arguments import Help, Parser, amount, boolean, checked, count, folder_name, run_folder, whole, within
from process.extensions import import_extensions
from report.metric import DEFAULT, METRICS, metric_names
from utility import UserError, expanded


def family(text: str) -> str:
    """A name of FAMILIES, or blindsr, as the public code of both families says."""
    if text in (*FAMILIES, 'blindsr'):
        return text
    raise argparse.ArgumentTypeError(f'{text!r} is no family of networks: {", ".join(FAMILIES)}, or one that '
                                     '--extension adds')


family.__name__ = 'str'
epoch, epochs, width = within(int, 0, 10 ** 6), within(int, 1, 10 ** 6), within(int, 1, 4096)
odd = checked(int, lambda n: 1 <= n <= 999 and n % 2, 'an odd whole number from 1 to 999: a kernel needs a centre')
blur = checked(float, lambda x: x == 0 or 0.01 <= x <= 100, '0 for none, or a number of pixels from 0.01 to 100')
axis = within(float, 0.01, 100)
rate = within(float, 1e-30, 1e30)  # far from where 32-bit floats end, also divided by 1 - beta
share = within(float, 0, 0.999999)
level = checked(float, lambda x: x == 0 or 1 <= x <= 255,
                '0 or 1-255: noise is on the 0-255 scale; 0.1 on the 0-1 scale is 25.5')
states = checked(int, lambda n: n == 0 or 2 <= n <= 10 ** 6, '0 for all, or 2 or more: one alone may be damaged')
resume = checked(int, lambda n: -1 <= n <= 10 ** 6, '-1, 0 or an epoch')
scale = checked(int, lambda n: n in (2, 3, 4), '2, 3 or 4: one scale a run')
indices = checked(str, lambda text: fullmatch(r'[0-9]{1,6}(,[0-9]{1,6})*', text), 'numbers from 0, as 0,3,7')

# A heading, then its flags: (name, published default, type, choices or registry, help). Of a stage: presets.py.
OPTIONS = [
    'run',
    ('stage', None, ('1', '2', '3', '4', '5', 'all'),
     'stage: 1, 2, 3 or 4; 5: adversarial fine-tuning; all: 1 to 4 (required)'),
    ('model', 'mrda', family, 'network family: mrda (public code: blindsr), kdsr or your own'),
    ('extension', None, str, 'Python file that adds losses, metrics, families, ...; A,B imports two'),
    ('scale', 4, scale, 'scale factor: 2, 3 or 4'),
    ('test_only', False, boolean, 'test the weights, without training'),
    ('seed', 1, within(int, 0, 2 ** 63 - 1), 'seed of all random numbers'),
    'device',
    ('device', 'auto', ('auto', 'cpu', 'cuda', 'mps'), 'cpu, cuda, mps; auto: cuda, else mps, else cpu'),
    ('cpu', False, boolean, 'same as --device cpu'),
    ('n_GPUs', 2, within(int, 1, 1024), 'GPUs that share each batch, in one process; at most those present'),
    ('dist_timeout', 300.0, within(float, 1, 604800), 'wait for another process of torchrun, seconds'),
    ('n_threads', 4, within(int, 0, 256), 'processes that load images; 0: the main process'),
    ('data_timeout', 10.0, within(float, 0.01, 10 ** 4), 'limit for reading one image, minutes'),
    ('precision', 'single', ('single', 'bf16', 'half'),
     'arithmetic: single (float32), bf16 (bfloat16 autocast), half (float16 autocast with loss scaling)'),
    ('compile', False, boolean, 'torch.compile and, on one GPU, CUDA graphs'),
    ('recompute', True, arguments.automatic,
     'gradient checkpointing: less memory; False: faster; auto: either'),
    'data',
    ('dir_data', 'datasets', expanded, 'folder of data sets: DF2K/HR/*.png, benchmark/Set5/HR/*.png'),
    ('data_train', 'DF2K', str, 'training set; A+B joins sets'),
    ('data_test', 'Set5', str, 'test sets, joined by +'),
    ('data_range', '1-3450/801-810', str, 'images by position in name order: training/test'),
    ('ext', 'sep', ('img', 'sep', 'sep_reset'), 'cache of decoded images: sep: keep; sep_reset: rebuild; img: none'),
    ('dir_cache', None, expanded, 'folder of the cache [$XDG_CACHE_HOME/mrda or ~/.cache/mrda]'),
    ('skip_bad', False, boolean, 'skip images that cannot be used, instead of stopping'),
    ('train_lr', None, expanded, 'folder of LR training images; names as of HR, or plus x4, _x4, _x4_SR'),
    ('patch_size', 36, width, 'side of a training patch, LR pixels'),
    ('no_augment', False, boolean, 'no random flips and transposes'),
    ('rgb_range', 1, (1, 255), 'data range of the networks: 1 or 255'),
    ('n_colors', 3, (3, 1), 'channels of the images: 3: RGB; 1: luma'),
    'degradation',
    ('degradation', 'classic', DEGRADATIONS, 'classic: by the flags below; second_order: as Real-ESRGAN; '
     'mixed_order: half of the images so'),
    ('blur_type', 'iso_gaussian', ('iso_gaussian', 'aniso_gaussian', 'file'),
     'iso_gaussian, aniso_gaussian; file: --kernels'),
    ('kernels', None, expanded, 'blur kernels (k, k) or (n, k, k): .mat, .npy, .npz, .pt, or a folder'),
    ('kernel_index', None, indices, 'kernels of --kernels to test, from 0: 0,3,7 [all]'),
    ('blur_kernel', 21, odd, 'side of a Gaussian blur kernel, HR pixels, odd'),
    ('mode', 'bicubic', ('bicubic', 's-fold'), 'downsampling: bicubic: antialiased; s-fold: every s-th pixel'),
    ('noise', 0.0, level, 'Gaussian noise level, 0-255 scale; in training: its maximum'),
    ('degradation_per', 'batch', ('batch', 'sample'), 'one random degradation per batch or per sample'),
    ('sig_min', 0.2, blur, 'isotropic training blur: minimum standard deviation, HR pixels'),
    ('sig_max', 4.0, blur, 'isotropic training blur: maximum standard deviation, HR pixels'),
    ('sig', 4.0, blur, 'isotropic test blur: standard deviation, HR pixels; 0: none'),
    ('lambda_min', 0.2, axis, 'anisotropic training blur: minimum standard deviation, HR pixels'),
    ('lambda_max', 4.0, axis, 'anisotropic training blur: maximum standard deviation, HR pixels'),
    ('lambda_1', 0.2, axis, 'anisotropic test blur: standard deviation of axis 1, HR pixels'),
    ('lambda_2', 4.0, axis, 'anisotropic test blur: standard deviation of axis 2, HR pixels'),
    ('theta', 0.0, within(float, -360, 360), 'anisotropic test blur: angle of axis 1, degrees'),
    'network',
    ('n_feats', 64, width, 'channels: of the MLN (mrda), of all networks (kdsr)'),
    ('n_blocks', 27, within(int, 1, 1000), 'blocks of the SR network'),
    ('n_resblocks', 9, within(int, 1, 1000), 'residual blocks of the encoder (kdsr only)'),
    ('pre_train', '.', expanded, "MLN of stage 1; '.': found automatically"),
    ('pre_train_meta', '.', expanded, "MLN of stage 2; '.': found automatically"),
    ('pre_train_TA', '.', expanded, "teacher of stage 3; '.': found automatically"),
    ('pre_train_ST', '.', expanded, "first weights of the student; '.': found automatically"),
    'training',
    ('epochs_sr', 500, epochs, 'last epoch, encoder-only epochs included'),
    ('epochs_encoder', 100, epoch, 'first epochs, which train the encoder only'),
    ('test_every', 1000, within(int, 1, 10 ** 7), 'batches per epoch; each epoch ends with a test'),
    ('batch_size', 32, within(int, 1, 65536), 'patches per batch, of all GPUs together'),
    ('meta_batch_size', 8, within(int, 1, 1024), 'tasks per step of MAML'),
    ('task_iter', 20, within(int, 1, 1000), 'inner steps per task of MAML'),
    ('test_iter', 20, within(int, 1, 1000), 'adaptation steps of the MLN in tests and in stages 3 to 5'),
    ('start_epoch', 0, epoch, 'epochs counted as done when training starts from weights'),
    'optimiser',
    ('lr_sr', 1e-4, rate, 'learning rate'),
    ('lr_encoder', 1e-3, rate, 'learning rate of encoder-only epochs'),
    ('lr_task', 1e-3, rate, 'step size of the inner loop of MAML'),
    ('lr_decay_sr', 125, epochs, 'epochs between two decays of --lr_sr'),
    ('lr_decay_encoder', 60, epochs, 'epochs between two decays of --lr_encoder'),
    ('decay_type', 'step', decay,
     'learning rate decay: step: every --lr_decay_sr epochs; step_A_B: at epochs A, B; cosine; linear_E: from E to 0'),
    ('warmup', 0, whole, 'batches of linear learning rate warm-up'),
    ('ema', 0.0, share, 'decay of the moving average of the weights, such as 0.999; 0: none'),
    ('qat', 0.0, within(float, 0, 1000), 'train, test rounded weights: steps per standard deviation; 0: none'),
    ('gamma_sr', 0.5, within(float, 1e-6, 1), 'factor of a decay of --lr_sr'),
    ('gamma_encoder', 0.1, within(float, 1e-6, 1), 'factor of a decay of --lr_encoder'),
    ('optimizer', 'ADAM', ('ADAM', 'SGD', 'RMSprop', 'Muon'), 'ADAM, SGD, RMSprop or Muon'),
    ('momentum', 0.9, share, 'momentum of SGD'),
    ('beta1', 0.9, share, 'first beta of Adam'),
    ('beta2', 0.999, share, 'second beta of Adam'),
    ('epsilon', 1e-8, within(float, 1e-30, 1), 'epsilon of Adam and RMSprop'),
    ('weight_decay', 0.0, within(float, 0, 1e30), 'weight decay'),
    'loss',
    ('loss', '1*L1', str, 'terms weight*name, joined by +; names: L1, MSE, Perceptual'),
    ('skip_threshold', 1e6, rate, "skip batches with a loss above X times the last epoch's mean"),
    ('temperature', 0.15, within(float, 1e-3, 1e3), 'temperature of the distillation'),
    ('distill', 1.0, amount, 'weight of the distillation; 0: fine-tuning without teacher and MLN'),
    ('gan_weight', 1.0, amount, 'weight of the adversarial loss'),
    ('sharpen_hr', False, boolean, 'unsharp-masked HR image as the target; not for the discriminator'),
    'evaluation',
    ('chop', False, boolean, 'super-resolve in tiles: less memory'),
    ('self_ensemble', False, boolean, 'mean over the 8 flips and transposes: 8 times slower'),
    ('save_results', False, boolean, 'write the super-resolved test images'),
    ('protocol', 'single', PROTOCOLS, 'test degradations: single: by the flags; the others: fixed'),
    ('metrics', ','.join(DEFAULT), metric_names, f'scores, as A,B: {", ".join(METRICS)}'),
    ('test_lr', None, expanded, 'folder of LR test images; names as for --train_lr'),
    ('dir_demo', None, expanded, 'photos to upscale instead of a test: a file, a folder or a glob'),
    ('dir_out', None, expanded, "folder of upscaled photos [results/photos in the run folder]"),
    ('overwrite', False, boolean, 'replace existing results of --dir_demo'),
    'saving',
    ('save', None, folder_name, 'name of the run folder, with --stage all its prefix [stage1, ...]'),
    ('load', '.', run_folder, "folder in experiment/ to resume; '.': that of --save"),
    ('resume', -1, resume, '-1: resume, or start; 0: start; N: resume after epoch N'),
    ('reset', False, boolean, 'delete the run folder first'),
    ('best', None, str, 'what selects model_*_best.pt: SET:METRIC, SET or :METRIC [the first]'),
    ('save_models', False, boolean, 'keep the weights of every epoch'),
    ('st_save_epoch', 550, epoch, 'keep the weights of every epoch after this one'),
    ('keep_states', 10, states, 'newest checkpoints to keep; 0: all'),
    ('save_every_min', 5.0, within(float, 0, 10 ** 6), 'minutes between checkpoints within an epoch; 0: every batch'),
    ('accept_changes', False, boolean, 'resume although options differ that change the result'),
    ('print_every', 200, count, 'batches between two log lines'),
    ('tensorboard', False, boolean, 'curves and images for TensorBoard too'),
]
# The stages that use a flag, where not all do: --help of another stage leaves it out.
STAGES_OF = {
    **dict.fromkeys(('pre_train', 'meta_batch_size', 'task_iter', 'lr_task'), (2,)), 'test_iter': (2, 3, 4, 5),
    **dict.fromkeys(('pre_train_meta', 'pre_train_TA'), (3, 4, 5)),
    **dict.fromkeys(('epochs_encoder', 'lr_encoder', 'lr_decay_encoder', 'gamma_encoder'), (4,)),
    **dict.fromkeys(('pre_train_ST', 'temperature', 'distill', 'chop', 'dir_demo', 'dir_out', 'overwrite'), (4, 5)),
    **dict.fromkeys(('gan_weight', 'sharpen_hr'), (5,))}
# Flags of published command lines that have no meaning here: accepted with or without a value, named in one warning.
RETIRED = ('task_batch_size', 'template', 'debug', 'extend', 'shift_mean', 'dilation', 'split_batch', 'is_stage3',
           'res_scale', 'input_large')
NAMES = {row[0].lower(): row[0] for row in OPTIONS if isinstance(row, tuple)}


def build_parser(stage: int | str | None = None, model: str = 'mrda') -> Parser:
    """The parser, with the defaults of the published script of `stage` (1-5; otherwise the published options' own).
    Its help shows the flags that `stage` uses."""
    parser = Parser(prog='main.py', usage='python main.py --stage 1|2|3|4|5|all [--flag value ...]', allow_abbrev=False,
                    description='Train or test. --stage N --help: flags and [defaults] of stage N. --flag: the same as '
                    '--flag True.', formatter_class=Help)
    parser.add_version()
    shown = {stage} if stage in (1, 2, 3, 4, 5) else set(range(1, 5 if stage == 'all' else 6))
    for row in OPTIONS:
        if isinstance(row, str):
            group = parser.add_argument_group(row)
            continue
        name, default, kind, text = row
        if not shown.intersection(STAGES_OF.get(name, shown)):
            text = argparse.SUPPRESS
        extra = {'nargs': '?', 'const': True} if kind in (boolean, arguments.automatic) else {}
        if isinstance(kind, tuple | dict):  # of a registry, what it holds by now
            kind, extra = type(next(iter(kind))), {'choices': tuple(kind)}
        group.add_argument(f'--{name}', default=default, type=kind, help=text, **extra)
    for name in RETIRED:
        parser.add_argument(f'--{name}', nargs='?', help=argparse.SUPPRESS)
    parser.set_defaults(**FAMILIES[model].presets.get(stage, {}))
    return parser


def parse(argv: list[str] | None = None, stage: int | None = None) -> argparse.Namespace:
    """Options from a command line (default: sys.argv) as a Namespace with one attribute a flag. Raises UserError.

    Not as written: `model` is mrda or kdsr; `stage` 1-4 or 'all'; `cpu` has become `device`; `run_name` names the
    run folder, `save` is the same or, with `--stage all`, the prefix; `given` is the set of flags on the command line;
    `retired` lists those that do nothing; `notes` are lines for the log. stage: reads the line for that one of "all".
    """
    argv = [sub('^--[^=]+', lambda flag: '--' + flag[0][2:].replace('-', '_'), token)  # - and _ are alike in a flag
            for token in (sys.argv[1:] if argv is None else argv)]
    given = [token[2:].partition('=')[0] for token in argv if token.startswith('--')]
    Parser(prog='main.py').refuse_unknown(given, NAMES, (*RETIRED, 'help', 'version'))
    import_extensions(argv)
    asked, model = _peek(argv)
    chosen = stage or (int(asked) if asked in ('1', '2', '3', '4', '5') else asked)
    args = build_parser(chosen, model).parse_args(argv)
    if chosen is None:
        raise UserError('--stage is missing: give --stage 1, 2, 3, 4 or all')
    called, args.model = args.model, model
    _settle(args, chosen, asked, set(given))
    args.notes = [f'{model.upper()}, stage {chosen}, x{args.scale}']
    if (called, model) == ('blindsr', 'kdsr'):
        args.notes.append(f'--model blindsr with --save {args.save}, as KDSR was published: this is KDSR; '
                          '--model mrda under another --save is MRDA')
    _check(args)
    for each in stages(args) if chosen == 'all' else ():  # a mistake in a late stage is told now, not after days
        parse(argv, each)
    return args


def stages(args: argparse.Namespace) -> tuple[int, ...]:
    """The stages that `args` asks for, in order."""
    return tuple(n for n in FAMILIES[args.model].presets if n < 5) if args.stage == 'all' else (args.stage,)


def default_run(model: str, stage: int) -> str:
    """The name of a run without --save."""
    return f'stage{stage}' if model == 'mrda' else f'{model}_stage{stage}'


def _peek(argv: list[str]) -> tuple[str | None, str]:
    """(stage as text or None, model): what the defaults of the other options depend on."""
    parser = Parser(prog='main.py', add_help=False, allow_abbrev=False)  # or --mode would be --model
    parser.add_argument('--stage')
    parser.add_argument('--model', type=family, default='mrda')
    parser.add_argument('--is_stage3', nargs='?', const='True')  # selects stage 3 in published command lines
    parser.add_argument('--save')
    seen, _ = parser.parse_known_args(argv)
    blindsr = 'kdsr' if seen.save in PUBLISHED_KDSR else 'mrda'
    return seen.stage or ('3' if seen.is_stage3 == 'True' else None), seen.model.replace('blindsr', blindsr)


def _settle(args: argparse.Namespace, stage: int | str, asked: str, given: set[str]) -> None:
    """Turn what was written into what the program reads: see parse."""
    args.retired = [f'--{name}' for name in RETIRED if name in given and (name != 'is_stage3' or 'stage' in given)]
    for name in RETIRED:
        delattr(args, name)
    if args.model == 'mrda' and 'n_resblocks' in given:
        args.retired.append('--n_resblocks (only --model kdsr has it)')
    if vars(args).pop('cpu'):
        if args.device not in ('auto', 'cpu'):
            raise UserError(f'--cpu True and --device {args.device} contradict each other: give one of them')
        args.device = 'cpu'
    args.given = {'device' if name == 'cpu' else name for name in given} - set(RETIRED)
    args.stage = stage
    if stage in (1, 2, 3, 5) or not (args.distill or 'epochs_encoder' in given):
        args.epochs_encoder = 0
    args.test_only = args.test_only or args.dir_demo is not None
    if asked == 'all':  # each stage starts from the one before; a file can only be the very first weights
        for flag, first in (('pre_train', 1), ('pre_train_TA', 3)):
            setattr(args, flag, getattr(args, flag) if stage == first else '.')
    own = f'{args.save}_stage{stage}' if args.save else default_run(args.model, stage)
    args.run_name = own if asked == 'all' else args.save or own
    args.save = args.save or '' if asked == 'all' else args.run_name


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for what the options get wrong together."""
    own = FAMILIES[args.model].presets
    if args.stage not in (*own, 'all'):
        raise UserError(f'--stage {args.stage}: --model {args.model} has stages {", ".join(map(str, own))} only')
    if args.dir_demo is not None and (args.stage not in (4, 5) or not args.dir_demo):
        raise UserError('--dir_demo takes the path of photos, and --stage 4: only the student needs no ground truth')
    if args.load != '.' and (args.reset or args.stage == 'all'):
        raise UserError('--load resumes one existing run: leave out --reset and --stage all')
    if args.stage == 'all' and (args.resume > 0 or {'pre_train_meta', 'pre_train_ST'} & args.given):
        raise UserError('--stage all takes no --resume N, --pre_train_meta or --pre_train_ST: '
                        'each stage starts from the one before, and resumes where it stopped')
    if args.reset and args.resume > 0:
        raise UserError(f'--reset and --resume {args.resume} contradict each other: give one of them')
    if args.start_epoch >= args.epochs_sr and not args.test_only:
        raise UserError(f'--start_epoch {args.start_epoch}: nothing is left to train to --epochs_sr {args.epochs_sr}')
    for low, high in ('sig_min', 'sig_max'), ('lambda_min', 'lambda_max'):
        if getattr(args, low) > getattr(args, high):
            raise UserError(f'--{low} {getattr(args, low)} is above --{high} {getattr(args, high)}')
    if args.kernels and args.blur_type != 'file':
        raise UserError(f'--kernels {args.kernels}: --blur_type file uses it, --blur_type {args.blur_type} does not')
    check_decay(args)
    if not args.distill and args.epochs_encoder:
        raise UserError(f'--epochs_encoder {args.epochs_encoder}: without distillation (--distill 0) nothing trains '
                        'the encoder alone; leave it out')
    if args.stage == 2 and args.batch_size % 2:
        raise UserError(f'--batch_size {args.batch_size}: stage 2 takes an even one, half to adapt and half to query')
