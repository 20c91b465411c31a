"""The training loop of all stages: learning rates, updates, moving average, guards, tests, checkpoints."""
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor, nn

from optim.ema import EMA
from optim.guard import Guard, NotFinite, Outcome
from optim.quantization import Quantized
from optim.replay import replay
from optim.schedule import learning_rate
from optim.update import Update
from process.group import Process
from process.signals import Stopped
from report import evaluation
from report.history import History
from report.meter import Meter, means, new_tally
from report.plots import draw_curves, draw_rate
from report.testing import Tester
from stage import Stage
from store import continuity
from store.checkpoint import Run, keeps_weights
from store.journal import explain_shortage
from utility import VERSION, UserError, derive_seed, shown

REDRAW = 60  # seconds between two drawings of the curves, which are also drawn after the last epoch


class Trainer:
    """Trains `stage`, which is on its device, for args.epochs_sr epochs. Independent of the particular stage.

    train: loader of uint8 patches (B, 3, P, P); tester: scores the test sets after each epoch; run: the run folder;
    process: device, GPUs, ranks, signals. tester and run can be None if only step() is called.
    """

    def __init__(self, args: Namespace, stage: Stage, train: Iterable, tester: Tester | None, run: Run | None,
                 process: Process) -> None:
        self.args, self.stage, self.train, self.tester, self.run = args, stage, train, tester, run
        self.device, self.stopper, self.n_gpus, self.group = process
        self.journal = tester and tester.journal
        self.updates = {}               # {name: Update}
        for name, part in stage.updates().items():
            weights = [p for p in part.parameters() if p.requires_grad]
            self.updates[name] = Update(name, weights, stage.optimizer(name, args, weights), args.precision == 'half')
        self.guard = Guard(self.group, self.stopper, all(update.takes_veto for update in self.updates.values()))
        self.networks = {}              # {update: the stage, wrapped for several GPUs or ranks}
        self.quantized = Quantized(stage.trained, self.parameters(), args.qat)
        self.replay = replay(args, stage, self.updates, self.quantized, process, run.log if run else print)
        self.ema = None                 # of the trained network, with --ema; created once all ranks have their weights
        self.epoch = args.start_epoch   # epochs done
        self.batch = 0                  # batches done of the next epoch
        self.tally = new_tally()        # of these batches
        self.tested = True              # whether the last epoch has been tested
        self.sound = True               # whether the weights may be saved: not within an update, not after divergence
        self.saved = self.drawn = time.monotonic()  # when the last checkpoint and curves were written
        self.history = History()

    def fit(self) -> None:
        """Train to the last epoch. Raises Stopped after a signal. Saves a checkpoint before any error between steps."""
        self.run.prepare(self.checkpoint_bytes())
        self.journal.begin(self.epoch, self.batch, self.tested)
        self.group.wait_for_rank0()
        self.stopper.deferred = True
        try:
            if not self.tested:
                self.test_epoch()
            while self.epoch < self.args.epochs_sr:
                self.train_epoch(self.epoch + 1)
                self.finish_epoch()
                self.test_epoch()
                self.stopper.check()
        except Stopped:
            if self.batch:
                self.save()
            self.group.wait_for_rank0()  # torchrun ends all ranks as soon as one ends
            raise
        except Exception:
            if self.batch and self.sound:
                self.save()
            raise
        finally:
            self.journal.close()
            self.stopper.deferred = False

    def train_epoch(self, epoch: int) -> None:
        """Train the rest of epoch `epoch`, from batch self.batch."""
        self.begin_epoch(epoch)
        self.train.batch_sampler.start(epoch, self.batch)
        rate, threshold = self.rate(epoch), self.args.skip_threshold * self.history.last_loss()
        self.meter = Meter(self.args, epoch, self.batch, self.tally, self.run.log, self.journal, self.run.is_rank0)
        self.run.log(f'[Epoch {epoch}] learning rate {rate:.2e}')
        try:
            for hr in self.meter.waiting(self.train):
                outcomes = self.step(hr, threshold)
                self.batch += 1
                self.count(outcomes)
                self.stopper.check()
                if time.monotonic() - self.saved >= 60 * self.args.save_every_min:
                    self.save()
                self.rate(epoch)
            self.settle()
        finally:
            self.meter.close()

    def count(self, outcomes: list[Outcome]) -> None:
        """Add steps of this epoch, in order, to its means and to the log."""
        for number, losses in outcomes:
            batch = number - self.epoch * self.args.test_every
            self.meter.add(losses, self.args.batch_size, batch + 1,
                           learning_rate(self.args, self.epoch + 1, self.stage.encoder_epochs, batch))

    def settle(self) -> None:
        """Wait for the outcomes of all steps started, and count them. Raises UserError as step()."""
        try:
            self.count(self.guard.settle())
        except NotFinite as error:
            self.refuse(error)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare the stage for training; wrap it anew when other parameters are trained from now on."""
        self.stage.begin_epoch(epoch)
        self.stage.train()
        if not self.networks or (self.group.size > 1 and epoch == self.stage.encoder_epochs + 1):
            self.networks.clear()  # releases the wrappers of the encoder's epochs
            self.networks = {name: self.wrap(name) for name in self.updates}
        if self.args.ema and self.ema is None:
            self.ema = self.average()

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all updates."""
        return [p for update in self.updates.values() for p in update.parameters]

    def average(self) -> EMA:
        """A moving average that starts with the current weights."""
        return EMA(self.stage.trained, self.parameters(), self.args.ema)

    def wrap(self, update: str) -> nn.Module:
        """The stage for one update, wrapped for several GPUs or ranks."""
        if self.n_gpus > 1:
            return nn.DataParallel(self.stage, range(self.n_gpus))
        self.learn(update)
        return self.group.wrap(self.stage) if self.group.size > 1 else self.stage

    def learn(self, update: str) -> None:
        """Let the parameters of this update, and of no other one, require gradients."""
        for name, each in self.updates.items() if len(self.updates) > 1 else ():
            for parameter in each.parameters:
                parameter.requires_grad_(name == update)

    def rate(self, epoch: int) -> float:
        """Set the learning rate of every update for the next batch; returns it."""
        scheduled = learning_rate(self.args, epoch, self.stage.encoder_epochs, self.batch)
        for name, update in self.updates.items():
            update.set_rate(self.stage.rate(name, scheduled))
        return scheduled

    def step(self, hr: Tensor, threshold: float) -> list[Outcome]:
        """One step on a batch of patches, update by update. Returns the outcomes available now: of this step or, on a
        GPU, of the one before. An update whose loss reaches `threshold` is skipped.
        Raises UserError if a loss or the gradient is not finite, or when out of memory; the weights are then unchanged.
        """
        self.guard.begin(self.number)
        try:
            hr = evaluation.to_float(hr, self.args.rgb_range, self.device, self.args.n_colors)  # (B, 3, P, P)
            for update in self.updates.values():
                losses = self.gradient(update, hr)
                if not self.guard.allows(update, losses, threshold):
                    update.skip()
                    return self.guard.end()
                self.sound = False
                update.step(self.guard.veto)
                self.sound = True
            if self.ema:
                self.ema.update(self.guard.skipped)
            return self.guard.end()
        except NotFinite as error:
            self.refuse(error)
        except (RuntimeError, MemoryError) as error:
            explain_shortage(error, self.device, f'with --batch_size {self.args.batch_size} and --patch_size '
                             f'{self.args.patch_size}: lower one of them; what was saved is intact, and a lower '
                             '--batch_size resumes it with --accept_changes')
            raise

    def gradient(self, update: Update, hr: Tensor) -> dict[str, Tensor]:
        """Compute the gradient of an update on hr (B, 3, P, P); returns its losses {name: scalar}, means over GPUs."""
        first, share = self.group.rank * len(hr), len(hr) // self.n_gpus
        devices = [torch.device('cuda', index) for index in range(self.n_gpus)] if self.n_gpus > 1 else [hr.device]
        seeds = {device: derive_seed(self.args.seed, 'degradation', self.number, first + index * share)
                 for index, device in enumerate(devices)}
        torch.manual_seed(derive_seed(self.args.seed, 'dropout', self.number, self.group.rank))
        if self.replay:
            return self.replay(hr, seeds[hr.device])
        self.learn(update.name)
        with self.quantized.applied(), self.group.waiting():
            losses = {name: loss.mean() for name, loss in self.networks[update.name](hr, seeds, update.name).items()}
            update.backward(losses['loss'])
        return losses

    def refuse(self, error: NotFinite) -> NoReturn:
        """Raises UserError about a step that is not finite, with the images of its batch."""
        self.sound = False
        epoch, batch = divmod(error.number, self.args.test_every)
        names = [shown(self.train.dataset.files[index].name)
                 for index in sorted(set(self.train.batch_sampler.images(epoch + 1, batch)))]
        raise UserError(f'step {error.number}: {", ".join(error.names)} not finite, with patches of {", ".join(names)};'
                        ' training stopped with the weights as they were before it, and what was saved is intact. A '
                        'lower learning rate usually helps: resume with another --lr_sr and --accept_changes') from None

    @property
    def number(self) -> int:
        """The number of the next step, over all epochs."""
        return self.epoch * self.args.test_every + self.batch

    def finish_epoch(self) -> None:
        """Finish an epoch: record its losses, write its weights and a checkpoint, all before the test."""
        self.history.note('losses', self.epoch + 1, means(self.tally))
        self.journal.epoch(self.epoch + 1, losses=means(self.tally), skipped=self.tally['skipped'],
                           lr=next(iter(self.updates.values())).optimizer.param_groups[0]['lr'])
        self.epoch, self.batch, self.tally, self.tested = self.epoch + 1, 0, new_tally(), False
        self.check_weights()
        self.run.save_weights(self.epoch, self.weights(), keeps_weights(self.args, self.epoch))
        self.save()

    def test_epoch(self) -> None:
        """Test the weights, and with --ema their average, after an epoch; then draw the curves."""
        self.tested = True
        if not self.run.is_rank0:
            return self.group.wait_for_test(self.stopper)
        try:
            with self.quantized.applied():
                scored = self.tester.score(self.stage, self.epoch)
            if self.ema:
                with self.ema.applied(), self.quantized.applied():
                    scored |= self.tester.score(self.stage, self.epoch, ' (EMA)')
        except (RuntimeError, MemoryError) as error:
            explain_shortage(error, self.device, f'in the test after epoch {self.epoch}, which is saved: the same '
                             'command tests it again; use smaller test images, or --chop in stage 4')
            raise
        self.group.tick(self.stopper, done=True)
        self.run.log(f'Protocol: {self.tester.evaluator.protocol(self.stage.oracle)}')
        means = {name: evaluation.overall(several) for name, several in scored.items()}
        for metric in self.tester.evaluator.metrics:
            self.history.note(metric, self.epoch, {name: values[metric] for name, values in means.items()})
        self.tester.keep_best(self.epoch, means, self.weights(), bool(self.ema))
        self.save()
        if time.monotonic() - self.drawn >= REDRAW or self.epoch == self.args.epochs_sr:
            draw_curves(self.run.folder, self.history.content, self.run.log)
            draw_rate(self.run.folder, self.journal.rates(), self.run.log)
            self.drawn = time.monotonic()
        self.run.log()

    def save(self) -> None:
        """Write a checkpoint. Raises UserError rather than save weights that are not finite."""
        if not self.run.is_rank0:
            return
        self.settle()
        self.check_weights()
        self.run.save((self.epoch, self.batch), self.checkpoint(), self.args.keep_states)
        self.saved = time.monotonic()

    def check_weights(self) -> None:
        """Raises UserError if weights are not finite or the training diverged, so that they are not saved."""
        self.history.check(self.stage.encoder_epochs)
        if not all(p.isfinite().all() for p in self.parameters()):
            raise UserError(f'weights are not finite after step {self.number - 1}; what was saved before is intact. A '
                            'lower learning rate usually helps: resume with another --lr_sr and --accept_changes')

    def weights(self) -> dict[str, Tensor]:
        """The content of weights files: the trained network's state dict, with --ema with averaged weights."""
        return self.stage.trained.state_dict() | (self.ema.state_dict() if self.ema else {})

    def checkpoint(self) -> dict:
        """Everything needed to resume without other files, with frozen networks: dicts of tensors and basic types."""
        return {'version': VERSION, 'epoch': self.epoch, 'batch': self.batch, 'tally': self.tally,
                'tested': self.tested, 'stage': self.args.stage, 'options': self.options(),
                'passing': continuity.passing(self.args, self.group.size), 'networks': self.stage.state_dict(),
                'updates': {name: update.state_dict() for name, update in self.updates.items()},
                'ema': self.ema.state_dict() if self.ema else {}, 'history': self.history.content}

    def options(self) -> dict:
        """The options and images that determine the result, for continuity.check()."""
        return continuity.binding(self.args) | {'images': continuity.describe(self.train.dataset.checksums)}

    def checkpoint_bytes(self) -> int:
        """Approximate size of a checkpoint: all networks, and two moments and an average of the trained weights."""
        tensors = [*self.stage.state_dict().values(), *(3 if self.args.ema else 2) * self.parameters()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 1_000_000

    def restore(self, checkpoint: dict) -> None:
        """Load a checkpoint, except the stage's networks, which have been loaded already."""
        for name, update in self.updates.items():
            update.load_state_dict(checkpoint['updates'][name])
        if self.args.ema:
            self.ema = self.average()
            self.ema.load_state_dict(checkpoint['ema'] or self.ema.state_dict())  # --ema may have been added since
        self.epoch, self.batch, self.tested, self.tally = map(checkpoint.get, ('epoch', 'batch', 'tested', 'tally'))
        self.history = History(checkpoint['history'], self.epoch if self.args.accept_changes else 0)
