"""Train or test the four stages of MRDA, or enlarge one's own photos: see README.md and python main.py --help."""
import os
import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads, which takes seconds, ends without a word

import torch

from data import Rank, make_loaders
from data.pairs import Degraded, Files
from data.protocol import degradations
from model.inference import TILE
from option import config_text, parse, stage_options, stages
from photo.batch import upscale_files
from photo.targets import targets
from photo.upscaler import Upscaler
from process.group import ALONE, Team, leave, lost, report_loss
from process.signals import Stopper
from report.evaluation import Evaluator
from report.table import TestRun, table_text, write_tables
from run.pretrained import check_named, given, initialise
from store import continuity
from store.checkpoint import Run, run_folder
from store.files import reserve
from trainer import Trainer, keeps_weights, restore_networks
from trainer_stage1 import Stage1
from trainer_stage2 import Stage2
from trainer_stage3 import Stage3
from trainer_stage4 import Stage4
from utility import UserError, choose_device, command_line

STAGES = {1: Stage1, 2: Stage2, 3: Stage3, 4: Stage4}


@command_line()
def main(argv=None):
    """Returns the exit status: as of any program, but 75 for a training that a signal stopped and that goes on when run
    again, 128 + its number for anything else that a signal stopped."""
    args, team, orderly = None, ALONE, False
    with Stopper() as stopper:
        try:
            team = Team.from_environment()
            args = parse(argv)
            if args.test_only:
                if not team.leader:
                    return 0
                team = ALONE  # it works alone
            if args.retired and team.leader:
                print(f'warning: these flags no longer do anything: {", ".join(args.retired)}', file=sys.stderr)
            work(argv, args, stopper, team)
            orderly = True
        except UserError as error:
            if team.tell(str(error)):
                print(f'error: {error}', file=sys.stderr)
            return 2
        except RuntimeError as error:
            if team.size == 1 or not lost(error):
                raise
            return report_loss(team, error)
        except KeyboardInterrupt:
            training = args is not None and not args.test_only
            if team.leader:
                print('\ninterrupted' + going_on(args) * training, file=sys.stderr)
            return stopper.status(training)
        finally:
            team.close(orderly)
    return 0


def work(argv, args, stopper, team):
    """All stages that were asked for, one after the other."""
    for stage in stages(args) if args.stage == 'all' and team.leader else ():  # told before an earlier one trains
        check_named(stage_options(argv, stage))
    device = team.open(choose_device(args.device), args.dist_timeout)
    if team.size > 1:
        stopper.join(team.leader)
    for stage in stages(args):
        args = stage_options(argv, stage)
        if team.restarted:  # torchrun starts all ranks anew where one was lost: what there is, is to go on from
            args.reset, args.resume = False, -1
        run_stage(args, device, stopper, team)


def going_on(args):
    """How to go on with a training that was stopped."""
    if args.reset or args.resume != -1:
        return '; the same command without --reset and --resume goes on from here'
    return '; the same command goes on from here'


def run_stage(args, device, stopper, team=ALONE):
    """Build everything for one stage, then enlarge photos, test or train."""
    stage = STAGES[args.stage](args)
    run = Run(run_folder(args.run_name, args) if args.load == '.' else loaded_folder(args), args.stage, team.leader)
    notes = present_notes(args, team)
    if args.dir_demo is not None:
        enlarge_photos(args, stage, run, device, notes)
    elif args.test_only:
        test(args, stage, run, device, notes, stopper)
    else:
        with run.lock():
            train(args, stage, run, device, notes, stopper, team)


def test(args, stage, run, device, notes, stopper):
    """--test_only: the table of a test."""
    trainer = make_trainer(args, stage, run, device, stopper)
    initialise(stage, args, notes.append)
    open_run(run, args, notes)
    show_table(args, trainer.test(), trainer.evaluator.protocol(stage.oracle), run)


def train(args, stage, run, device, notes, stopper, team):
    """Train from where the run is. Nothing of it is changed before all that was given is known to be good."""
    state = team.share(run.start(args.resume, args.reset, notes.append) if team.leader else None)
    if state:
        notes += check_options(args, run, state, team)
        restore_networks(stage, state, run.folder)
        if state['epoch'] >= args.epochs_sr:
            notes.append(f'Epoch {state["epoch"]} is done; nothing is left to do. A higher --epochs_sr goes on.')
            open_run(run, args, notes)
            settle(run, stage, state, args)
            return
    trainer = make_trainer(args, stage, run, device, stopper, team)
    if state:
        notes += continuity.check(run.folder, {'images': state['options']['images']},
                                  {'images': trainer.options()['images']}, args.accept_changes)
        trainer.restore(state)
        more = f' and {trainer.batch} batches' * (trainer.batch > 0)
        notes.append(f'Going on after epoch {trainer.epoch}{more}.')
    elif team.leader:  # the others take its weights
        initialise(stage, args, notes.append)
        notes.append(f'Training on {trainer.options()["images"]}.')
    open_run(run, args, notes)
    if state:
        settle(run, stage, state, args)
    trainer.fit()


def check_options(args, run, state, team):
    """Notes on the options that differ from those of a full state. Raises UserError about those that must not."""
    if state.get('stage') != args.stage:
        raise UserError(f'{run.folder} holds a run of stage {state.get("stage")}, not {args.stage}; '
                        'choose another --save')
    if state.get('options', {}).get('model', args.model) != args.model:
        raise UserError(f'{run.folder} holds a run of --model {state["options"]["model"]}, not {args.model}; '
                        'choose another --save')
    if 'options' not in state:
        raise UserError(f'{run.folder} holds a run of an older version of this program; choose another --save, '
                        'and its weights by --pre_train')
    return [*continuity.check(run.folder, state['options'], continuity.binding(args), args.accept_changes),
            *continuity.differences(state['passing'], continuity.passing(args, team.size))]


def open_run(run, args, notes):
    """Begin to write: the options and the notes so far."""
    run.open(config_text(args), clear=args.reset and not args.test_only)
    for note in notes:
        run.log(note)


def settle(run, stage, state, args):
    """Make the run folder agree with the full state that it goes on from."""
    run.supersede((state['epoch'], state['batch']))
    if not state['batch']:
        run.save_weights(state['epoch'], stage.trained, keeps_weights(args, state['epoch']))


def loaded_folder(args):
    """The run folder that --load names. Raises UserError if there is none."""
    folder = Path('experiment') / args.load
    if not folder.is_dir():
        raise UserError(f'--load {args.load}: there is no {folder} to go on from')
    return folder


def present_notes(args, team):
    """What the user should know about the options before anything runs."""
    notes = [*args.notes]
    if team.size > 1 and 'n_GPUs' in args.given:
        notes.append(f'--n_GPUs has no effect here: torchrun started {team.size} processes, one for each GPU')
    if args.load != '.' and 'save' in args.given:
        notes.append('--save has no effect here: --load goes on in the folder that it names')
    if args.chop and args.stage != 4:
        notes.append('--chop has no effect here: only the student works in tiles, other stages adapt to whole images')
    if args.tensorboard and args.test_only:
        notes.append('--tensorboard has no effect here: only trainings are drawn')
    if args.stage == 4 and not args.test_only and args.epochs_encoder >= args.epochs_sr:
        notes.append(f'--epochs_sr {args.epochs_sr} counts the {args.epochs_encoder} of --epochs_encoder too: '
                     "only the student's encoder will be trained")
    return notes


def make_trainer(args, stage, run, device, stopper, team=ALONE):
    """The Trainer of a stage, its images found and checked. Raises UserError about what does not fit together."""
    n_gpus = present_gpus(args.n_GPUs, device) if team.size == 1 else 1
    check_shares(args, n_gpus, team)
    series = degradations(args.protocol, args.scale, stage.test_degradation)
    rank = Rank(team.rank, team.size, team.local_rank)
    train, tests = team.in_turn(lambda: make_loaders(args, rank))
    pairs = Degraded(stage.degrader, args.seed)
    if args.test_lr:
        pairs = Files(args.test_lr, args.scale, args.rgb_range, flat=len(series) * len(tests) == 1)
        pairs.check(tests, series)
    evaluator = Evaluator(pairs, series, args.scale, args.rgb_range, device,
                          ensemble=args.self_ensemble, results=run.results if args.save_results else None,
                          metrics=args.metrics.split(','))
    return Trainer(args, stage.place(device), train, tests, evaluator, run, device, stopper, n_gpus, team)


def check_shares(args, n_gpus, team):
    """Raises UserError if the batches cannot be shared by so many GPUs, or the ranks of the team."""
    if args.compile and torch.__version__.startswith('2.3.'):
        raise UserError('--compile: PyTorch 2.3 cannot compile these networks; take a newer one, or leave it out')
    if args.compile and n_gpus > 1:
        raise UserError('--compile works on one GPU only: replicas would run the code of the first; take --n_GPUs 1')
    parts, what = (team.size, 'processes') if team.size > 1 else (n_gpus, 'GPUs')
    share = parts * 2 if args.stage == 2 else parts
    if args.batch_size % share and not args.test_only:
        raise UserError(f'--batch_size {args.batch_size} cannot be shared evenly by {parts} {what}'
                        + ' and halved on each' * (args.stage == 2) + f'; take a multiple of {share}')


def show_table(args, scored, line, run):
    """The table of a test, a row per degradation, published results beside it; also as CSV, Markdown and JSON."""
    published = args.stage == 4 and args.mode == 'bicubic' and args.blur_kernel == 21 and not args.test_lr
    means = {name: [(scores.degradation, scores.mean()) for scores in several] for name, several in scored.items()}
    table = TestRun(args.protocol, args.scale, line, means, published)
    run.log('\n' + table_text(table))
    write_tables(run.results, table)


def enlarge_photos(args, stage, run, device, notes):
    """--dir_demo: the student on photos without ground truth."""
    folder = Path(args.dir_out) if args.dir_out else run.results / 'photos'
    upscaler = Upscaler(stage.trained, args.scale, args.rgb_range, device, stage.rounded,
                        TILE if args.chop else None, args.self_ensemble)
    photos = targets([args.dir_demo], folder, args.scale, '--dir_demo')
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
    upscale_files(upscaler, photos, args.overwrite, run.log)


def present_gpus(wanted, device):
    """How many replicas there will be: fewer than --n_GPUs where there are fewer GPUs, 1 where there are none."""
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if device.type == 'cuda' and wanted > present:
        print(f'--n_GPUs {wanted}: {present} present, so {present} it is')
    return min(wanted, present)


if __name__ == '__main__':
    status = main()
    if 'RANK' in os.environ:
        leave(status)
    sys.exit(status)
