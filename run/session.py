"""A session of one stage: train it from where its run is, test it, or apply its student to photos."""
from argparse import Namespace
from pathlib import Path

import torch

from data import Rank, make_loaders
from data.pairs import Degraded, Files
from data.protocol import degradations
from model.inference import TILE
from optim import schedule
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
    """All stages that were asked for, one after the other. argv: the command line that `args` were parsed from."""
    for stage in stages(args) if args.stage == 'all' and process.group.is_rank0 else ():
        check_named(parse(argv, stage))  # told before an earlier one trains
    for stage in stages(args):
        own = parse(argv, stage)
        if process.group.restarted:  # torchrun starts all ranks anew where one was lost: they resume
            own.reset, own.resume = False, -1
        run_stage(own, process)


def run_stage(args: Namespace, process: Process) -> None:
    """Build everything for one stage, then upscale photos, test or train."""
    notes = adopt_sizes(args)
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
    """--test_only: the table of a test."""
    _, tester = prepare(args, stage, run, process, notes)
    initialise(stage, args, notes.append)
    open_run(run, args, notes)
    show_table(args, tester.score(stage), tester.evaluator.protocol(stage.oracle), run)


def train(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> None:
    """Train from where the run is. Nothing of it is changed before all that was given is known to be good."""
    group = process.group
    state = group.share(run.start(args.resume, args.reset, notes.append) if group.is_rank0 else None)
    if state:
        notes += check_options(args, stage, run, state, process)
        restore_networks(stage, state, run.folder)
        if state['epoch'] >= args.epochs_sr and state['tested']:
            notes.append(f'Epoch {state["epoch"]} is done; nothing is left to do. Raise --epochs_sr to continue.')
            open_run(run, args, notes)
            settle(run, stage, state, args)
            return
    loader, tester = prepare(args, stage, run, process, notes)
    loader.on_wait = process.stopper.check
    trainer = Trainer(args, stage, loader, tester, run, process)
    if state:
        images = loader.dataset
        notes += continuity.check_images(run.folder, state['options']['images'], images.files, images.checksums,
                                         args.accept_changes)
        trainer.restore(state)
        if state.get('version', VERSION) != VERSION:  # those before 2.0 name none
            notes.append(f'The checkpoint is of version {state["version"]}, this is {VERSION}.')
        more = f' and {trainer.batch} batches' * (trainer.batch > 0)
        notes.append(f'Resuming after epoch {trainer.epoch}{more}.')
    elif group.is_rank0:  # the others take its weights
        initialise(stage, args, notes.append)
        notes.append(f'Training on {trainer.options()["images"]}.')
    open_run(run, args, notes)
    if state:
        settle(run, stage, state, args)
    trainer.fit()


def check_options(args: Namespace, stage: Stage, run: Run, state: dict, process: Process) -> list[str]:
    """Notes on the options that differ from those of a checkpoint. Raises UserError about those that must not."""
    if 'options' not in state:
        raise UserError(f'{run.folder} holds a run of an older version of this program; choose another --save, '
                        'and its weights by --pre_train')
    if state['stage'] != args.stage:
        raise UserError(f'{run.folder} holds a run of stage {state["stage"]}, not {args.stage}; choose another --save')
    if state['options'].get('model', args.model) != args.model:
        raise UserError(f'{run.folder} holds a run of --model {state["options"]["model"]}, not {args.model}; '
                        'choose another --save')
    if state['options'].get('optimizer', args.optimizer) != args.optimizer:
        raise UserError(f'{run.folder} was trained with --optimizer {state["options"]["optimizer"]}, not '
                        f'{args.optimizer}; resume with that, or choose another --save')
    new, passing = continuity.binding(args), continuity.passing(args, process.group.size)
    old = state['passing'] | state['options']
    known = {name: value for name, value in old.items() if name in schedule.OPTIONS}
    rates_kept = schedule.equal_until(known, args, stage.encoder_epochs, state['epoch'], state['batch'])
    # Rates of batches to come may change; what gave those that were trained another rate may not.
    bound = {name: value for name, value in (new | {'epochs_sr': args.epochs_sr}).items()
             if not (name in schedule.OPTIONS and rates_kept)}
    free = {name: value for name, value in (new | passing).items() if name not in bound}
    return [*continuity.check(run.folder, old, bound, args.accept_changes), *continuity.differences(old, free)]


def restore_networks(stage: Stage, state: dict, folder: Path) -> None:
    """Load the networks of a checkpoint into `stage`. Raises UserError if they are of another shape."""
    try:
        stage.load_state_dict(state['networks'])
    except RuntimeError as error:
        raise UserError(f'{folder} holds a run of another network; choose another --save or the options '
                        f'in its config.txt ({str(error).splitlines()[1].strip()})') from error


def open_run(run: Run, args: Namespace, notes: list[str]) -> None:
    """Begin to write: the options and the notes so far."""
    run.open(config_text(args), clear=args.reset and not args.test_only)
    for note in notes:
        run.log(note)


def settle(run: Run, stage: Stage, state: dict, args: Namespace) -> None:
    """Make the run folder agree with the checkpoint that it resumes from."""
    run.supersede((state['epoch'], state['batch']))
    if not state['batch']:
        run.save_weights(state['epoch'], stage.trained.state_dict() | state['ema'], keeps_weights(args, state['epoch']))


def loaded_folder(args: Namespace) -> Path:
    """The run folder that --load names. Raises UserError if there is none."""
    folder = Path('experiment') / args.load
    if not folder.is_dir():
        raise UserError(f'--load {args.load}: there is no {folder} to resume')
    return folder


def present_notes(args: Namespace, process: Process) -> list[str]:
    """What the user should know about the options before anything runs."""
    notes = [*args.notes]
    if process.group.size > 1 and 'n_GPUs' in args.given:
        notes.append(f'--n_GPUs has no effect here: torchrun started {process.group.size} processes, one for each GPU')
    if args.load != '.' and 'save' in args.given:
        notes.append('--save has no effect here: --load resumes in the folder that it names')
    if args.chop and args.stage < 4:
        notes.append('--chop has no effect here: only the student works in tiles, other stages adapt to whole images')
    if args.tensorboard and args.test_only:
        notes.append('--tensorboard has no effect here: only trainings are drawn')
    if args.stage == 4 and not args.test_only and args.epochs_encoder >= args.epochs_sr:
        notes.append(f'--epochs_sr {args.epochs_sr} counts the {args.epochs_encoder} of --epochs_encoder too: '
                     "only the student's encoder will be trained")
    return notes


def prepare(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> tuple:
    """(loader of training patches or None, Tester) of a stage, which is placed on its device, all images found and
    checked. Raises UserError about what does not fit together."""
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
    """Raises UserError if the batches cannot be shared by the GPUs, or the ranks of the process group."""
    if args.compile and torch.__version__.startswith('2.3.'):
        raise UserError('--compile: PyTorch 2.3 cannot compile these networks; take a newer one, or leave it out')
    if args.compile and process.n_gpus > 1:
        raise UserError('--compile works on one GPU only: replicas would run the code of the first; take --n_GPUs 1')
    size = process.group.size
    parts, what = (size, 'processes') if size > 1 else (process.n_gpus, 'GPUs')
    share = parts * 2 if args.stage == 2 else parts
    if args.batch_size % share and not args.test_only:
        raise UserError(f'--batch_size {args.batch_size} cannot be shared evenly by {parts} {what}'
                        + ' and halved on each' * (args.stage == 2) + f'; take a multiple of {share}')


def show_table(args: Namespace, scored: dict, line: str, run: Run) -> None:
    """The table of a test, a row per degradation, published results beside it; also as CSV, Markdown and JSON."""
    published = args.stage == 4 and args.mode == 'bicubic' and args.blur_kernel == 21 and not args.test_lr
    means = {name: [(scores.degradation, scores.mean()) for scores in several] for name, several in scored.items()}
    table = TestRun(args.protocol, args.scale, line, means, published)
    run.log('\n' + table_text(table))
    write_tables(run.results, table)


def upscale_photos(args: Namespace, stage: Stage, run: Run, process: Process, notes: list[str]) -> None:
    """--dir_demo: the student on photos without ground truth."""
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
        raise UserError(f'{error}; python upscale.py has shipped weights') from error
    reserve(folder, 'results')
    run.open(config_text(args))
    for note in notes:
        run.log(note)
    upscale_files(upscaler, photos, output, run.log, left_out=left_out([args.dir_demo]))
