"""A session of one stage: train (start or resume), test, or apply the student to photos."""
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from data import Rank, make_loaders
from data.pairs import Degraded, Files
from data.protocol import degradations
from model.inference import TILE
from optim import schedule
from optim.quantization import Quantized
from option import parse, stages
from photo.batch import upscale_files
from photo.output import Output
from photo.targets import left_out, targets
from photo.upscaler import Upscaler
from process.group import Process
from report import metric
from report.evaluation import Evaluator
from report.table import TestRun, table_text, write_tables
from report.testing import Tester
from run.plan import choose_recompute
from run.pretrained import adopt_sizes, check_named, given, initialise
from run.starts import config_text
from stage import Stage
from stages import STAGES
from store import continuity
from store.checkpoint import Run, keeps_weights, run_folder
from store.files import reserve
from store.journal import Journal
from trainer import Trainer
from utility import VERSION, UserError


def run_stages(argv: list[str] | None, args: Namespace, process: Process) -> None:
    """Run the stages of --stage, one after the other. argv: the command line that `args` were parsed from."""
    for stage in stages(args) if args.stage == 'all' and process.group.is_rank0 else ():
        check_named(parse(argv, stage))  # fail before an earlier stage trains
    for stage in stages(args):
        own = parse(argv, stage)
        if process.group.restarted:  # torchrun restarts all ranks if one is lost: they resume
            own.reset, own.resume = False, -1
        run_stage(own, process)


def run_stage(args: Namespace, process: Process) -> None:
    """Build everything for one stage, then upscale photos, test or train."""
    notes = adopt_sizes(args) + choose_recompute(args, process)
    stage = STAGES[args.stage](args)
    run = Run(run_folder(args.run_name, args) if args.load == '.' else loaded_folder(args), args.stage,
              process.group.is_rank0)
    notes += present_notes(args, process)
    if args.dir_demo is not None:
        upscale_photos(args, stage, run, process, notes)
    elif args.test_only:
        test(args, stage, run, process, notes)
    else:
        with run.lock():
            train(args, stage, run, process, notes)


def test(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> None:
    """--test_only: test and show the table."""
    _, tester = prepare(args, stage, run, process, notes)
    initialise(stage, args, notes.append)
    open_run(run, args, notes)
    with rounded(stage, args):
        show_table(args, tester.score(stage), tester.evaluator.protocol(stage.oracle), run)


def train(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> None:
    """Start or resume the training. The run folder is not changed before all options and files have been checked."""
    group = process.group
    checkpoint = group.broadcast(run.start(args.resume, args.reset, notes.append) if group.is_rank0 else None)
    if checkpoint:
        notes += check_options(args, stage, run, checkpoint, process)
        load_networks(stage, checkpoint, run.folder)
        if checkpoint['epoch'] >= args.epochs_sr and checkpoint['tested']:
            notes.append(f'Epoch {checkpoint["epoch"]} is done; nothing is left to do. Raise --epochs_sr to continue.')
            open_run(run, args, notes)
            settle(run, stage, checkpoint, args)
            return
    loader, tester = prepare(args, stage, run, process, notes)
    loader.on_wait = process.stopper.check
    trainer = Trainer(args, stage, loader, tester, run, process)
    if checkpoint:
        images = loader.dataset
        notes += continuity.check_images(run.folder, checkpoint['options']['images'], images.files, images.checksums,
                                         args.accept_changes)
        trainer.restore(checkpoint)
        if checkpoint.get('version', VERSION) != VERSION:  # checkpoints before 2.0 hold no version
            notes.append(f'The checkpoint was written by version {checkpoint["version"]}; this is {VERSION}.')
        more = f' and {trainer.batch} batches' * (trainer.batch > 0)
        notes.append(f'Resuming after epoch {trainer.epoch}{more}.')
    elif group.is_rank0:  # the other ranks receive its weights
        initialise(stage, args, notes.append)
        notes.append(f'Training on {trainer.options()["images"]}.')
    open_run(run, args, notes)
    if checkpoint:
        settle(run, stage, checkpoint, args)
    trainer.fit()


def check_options(args: Namespace, stage: Stage, run: Run, checkpoint: dict, process: Process) -> list[str]:
    """Notes on the options that differ from those of a checkpoint. Raises UserError about those that must not."""
    old = checkpoint.get('options')
    if old is None:
        raise UserError(f'{run.folder} holds a run of an older version of this program; choose another --save, '
                        'and give its weights by --pre_train')
    if checkpoint['stage'] != args.stage:
        raise UserError(f'{run.folder} holds a run of stage {checkpoint["stage"]}, not {args.stage}; '
                        'choose another --save')
    if old.get('model', args.model) != args.model:
        raise UserError(f'{run.folder} holds a run of --model {old["model"]}, not {args.model}; choose another --save')
    if old.get('optimizer', args.optimizer) != args.optimizer:
        raise UserError(f'{run.folder} was trained with --optimizer {old["optimizer"]}, not {args.optimizer}; '
                        'resume with that, or choose another --save')
    new, passing = continuity.binding(args), continuity.passing(args, process.group.size)
    old = checkpoint['passing'] | old
    known = {name: value for name, value in old.items() if name in schedule.OPTIONS}
    rates_kept = schedule.equal_until(known, args, stage.encoder_epochs, checkpoint['epoch'], checkpoint['batch'])
    # Options may change the learning rates of future batches, not those of batches already trained.
    bound = {name: value for name, value in (new | {'epochs_sr': args.epochs_sr}).items()
             if not (name in schedule.OPTIONS and rates_kept)}
    free = {name: value for name, value in (new | passing).items() if name not in bound}
    return [*continuity.check(run.folder, old, bound, args.accept_changes), *continuity.differences(old, free)]


def load_networks(stage: Stage, checkpoint: dict, folder: Path) -> None:
    """Load the networks of a checkpoint into `stage`. Raises UserError if their shapes differ."""
    try:
        stage.load_state_dict(checkpoint['networks'])
    except RuntimeError as error:
        raise UserError(f'{folder} holds a run of another network; choose another --save, or the options '
                        f'in its config.txt ({str(error).splitlines()[1].strip()})') from error


def open_run(run: Run, args: Namespace, notes: list[str]) -> None:
    """Open the run folder for writing; write the options and the notes so far."""
    run.open(config_text(args), clear=args.reset and not args.test_only)
    for note in notes:
        run.log(note)


def settle(run: Run, stage: Stage, checkpoint: dict, args: Namespace) -> None:
    """Make the run folder agree with the checkpoint that is resumed."""
    epoch, batch = checkpoint['epoch'], checkpoint['batch']
    run.supersede((epoch, batch))
    if not batch:
        run.save_weights(epoch, stage.trained.state_dict() | checkpoint['ema'], keeps_weights(args, epoch))


def loaded_folder(args: Namespace) -> Path:
    """The run folder that --load names. Raises UserError if there is none."""
    folder = Path('experiment') / args.load
    if not folder.is_dir():
        raise UserError(f'--load {args.load}: there is no {folder} to resume; give the name of a folder in experiment/')
    return folder


def present_notes(args: Namespace, process: Process) -> list[str]:
    """Notes on options that have no effect, logged before anything runs."""
    notes = [*args.notes]
    if process.group.size > 1 and 'n_GPUs' in args.given:
        notes.append(f'--n_GPUs has no effect here: torchrun started {process.group.size} processes, one for each GPU')
    if args.load != '.' and 'save' in args.given:
        notes.append('--save has no effect here: --load names the run folder to resume')
    if args.chop and args.stage < 4:
        notes.append('--chop has no effect here: only the student runs in tiles, other stages adapt to whole images')
    if args.tensorboard and args.test_only:
        notes.append('--tensorboard has no effect here: it records trainings only')
    if args.stage == 4 and not args.test_only and args.epochs_encoder >= args.epochs_sr:
        notes.append(f'--epochs_sr {args.epochs_sr} includes the {args.epochs_encoder} of --epochs_encoder: '
                     "only the student's encoder will be trained")
    return notes


def prepare(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> tuple:
    """Find and check all images, place the stage on its device; returns (loader of training patches or None, Tester).

    Raises UserError about images or options that do not fit together.
    """
    check_shares(args, process)
    group, metrics = process.group, args.metrics.split(',')
    if group.is_rank0:
        metric.prepare(metrics)
    series = degradations(args.protocol, stage.test_degradation)
    rank = Rank(group.rank, group.size, group.local_rank)
    train_loader, tests = group.in_turn(lambda: make_loaders(args, rank, notes.append))
    pairs = Degraded(args.seed, args.rgb_range)
    if args.test_lr:
        pairs = Files(args.test_lr, args.scale, args.rgb_range, len(tests))
        series = pairs.series(tests, series)
        pairs.check(tests, series)
    evaluator = Evaluator(pairs, series, args.scale, args.rgb_range, process.device,
                          ensemble=args.self_ensemble, results=run.results if args.save_results else None,
                          metrics=metrics, n_colors=args.n_colors)
    stage.place(process.device)
    return train_loader, Tester(tests, evaluator, run, Journal(args, run, process.device), process, args.best)


def check_shares(args: Namespace, process: Process) -> None:
    """Raises UserError if batches cannot be split evenly among the GPUs, or the ranks of the process group."""
    if args.compile and torch.__version__.startswith('2.3.'):
        raise UserError('--compile: PyTorch 2.3 cannot compile these networks; install a newer one, or leave it out')
    if args.compile and process.n_gpus > 1:
        raise UserError('--compile works on one GPU only, as replicas cannot be compiled; give --n_GPUs 1')
    size = process.group.size
    parts, what = (size, 'processes') if size > 1 else (process.n_gpus, 'GPUs')
    share = parts * 2 if args.stage == 2 else parts
    if args.batch_size % share and not args.test_only:
        raise UserError(f'--batch_size {args.batch_size} cannot be split evenly among {parts} {what}'
                        + ' and halved on each' * (args.stage == 2) + f'; give a multiple of {share}')


def show_table(args: Namespace, scored: dict, line: str, run: Run) -> None:
    """Log the table of a test, a row per degradation beside published results, and write it as CSV, Markdown, JSON."""
    published = args.stage == 4 and args.mode == 'bicubic' and args.blur_kernel == 21 and not args.test_lr
    means = {name: [(scores.degradation, scores.mean()) for scores in several] for name, several in scored.items()}
    table = TestRun(args.protocol, args.scale, line, means, published)
    run.log('\n' + table_text(table))
    write_tables(run.results, table)


def upscale_photos(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> None:
    """--dir_demo: upscale photos, which have no ground truth, by the student."""
    folder = Path(args.dir_out) if args.dir_out else run.results / 'photos'
    upscaler = Upscaler(stage.trained, args.scale, args.rgb_range, process.device, stage.rounded,
                        TILE if args.chop else None, args.self_ensemble)
    output = Output(args.scale, overwrite=args.overwrite)
    photos = targets([args.dir_demo], folder, output, '--dir_demo')
    try:
        initialise(stage, args, notes.append)
    except UserError as error:
        if given(args, 'pre_train_ST'):
            raise
        raise UserError(f'{error}; or use python upscale.py, which has shipped weights') from error
    reserve(folder, 'results')
    run.open(config_text(args))
    for note in notes:
        run.log(note)
    with rounded(stage, args):
        upscale_files(upscaler, photos, output, run.log, left_out=left_out([args.dir_demo]))


def rounded(stage: Stage, args: Namespace) -> AbstractContextManager:
    """A context in which the weights are rounded if --qat asks for it."""
    return Quantized(stage.trained, stage.trained.parameters(), args.qat).applied() if args.qat else nullcontext()
