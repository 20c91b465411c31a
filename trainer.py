"""The loop that every stage shares: rates, steps, logging, evaluation, saving, going on. It knows no stage."""
import math
import time

import torch
from torch import nn

from process.group import ALONE
from process.signals import Stopped
from report import evaluation
from report.meter import Meter, means, new_tally
from report.plots import draw_curves
from store import continuity
from store.journal import Journal, peak_text
from utility import UserError, derive_seed, out_of_memory, shown


def make_optimizer(args, parameters):
    """--optimizer with its settings; the rate is set anew before each epoch."""
    common = {'lr': args.lr_sr, 'weight_decay': args.weight_decay}
    if args.optimizer == 'SGD':
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    if args.optimizer == 'RMSprop':
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    return torch.optim.Adam(parameters, betas=(args.beta1, args.beta2), eps=args.epsilon,
                            fused=parameters[0].is_cuda or None, **common)


def learning_rate(args, epoch, encoder_epochs):
    """The rate of epoch `epoch` (from 1), of which the first `encoder_epochs` have their own schedule."""
    if epoch <= encoder_epochs:
        return args.lr_encoder * args.gamma_encoder ** (epoch // args.lr_decay_encoder)
    epoch -= encoder_epochs
    milestones = args.milestones or range(args.lr_decay_sr, epoch + 1, args.lr_decay_sr)
    decays = sum(milestone <= epoch for milestone in milestones)
    return args.lr_sr * args.gamma_sr ** decays


class Trainer:
    """Trains `stage` for args.epochs_sr epochs, or only tests it.

    train: loader of uint8 patches (B, 3, P, P), or None; tests: list of TestSet; evaluator: scores a set;
    run: the Run that keeps everything; stopper: tells that a signal asks to stop; n_gpus: replicas that share each
    batch; team: the Team of processes that share each batch.
    """

    def __init__(self, args, stage, train, tests, evaluator, run, device, stopper, n_gpus=1, team=ALONE):
        self.args, self.stage, self.train, self.tests = args, stage, train, tests
        self.evaluator, self.run, self.device, self.stopper = evaluator, run, device, stopper
        self.team = team
        self.journal = run and Journal(args, run, device)  # no run: single steps are timed
        self.network = nn.DataParallel(stage, range(n_gpus)) if n_gpus > 1 else stage
        self.parameters = [p for p in stage.trained.parameters() if p.requires_grad]
        self.epoch = args.start_epoch   # epochs done
        self.batch = 0                  # batches done of the next epoch
        self.tally = new_tally()        # of these
        self.saved = time.monotonic()   # when the last full state was written
        self.history = {}               # {'losses': {name: [one an epoch]}, metric: {test set: [one an epoch]}}
        if train is not None:
            self.optimizer = make_optimizer(args, self.parameters)
            self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == 'half')
            self.history = {'losses': {}}

    def fit(self):
        """Train to the last epoch. Raises Stopped, with everything saved, if a signal asks for it."""
        self.run.prepare(self.state_bytes())
        self.journal.begin(self.epoch, self.batch)
        self.team.await_leader()
        self.saved = time.monotonic()
        self.stopper.deferred = True
        try:
            while self.epoch < self.args.epochs_sr:
                self.train_epoch(self.epoch + 1)
                self.test_epoch(self.epoch + 1)
                self.finish_epoch()
                self.stopper.check()
        except Stopped:
            if self.batch:
                self.save()
            self.team.await_leader()  # torchrun ends all ranks as soon as one ends
            raise
        finally:
            self.journal.close()
            self.stopper.deferred = False

    def train_epoch(self, epoch):
        """The rest of epoch `epoch`, from where self.batch says."""
        rate = learning_rate(self.args, epoch, self.stage.encoder_epochs)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.stage.begin_epoch(epoch)
        if self.team.size > 1 and (self.network is self.stage or epoch == self.stage.encoder_epochs + 1):
            self.network = self.stage  # lets the wrapper of the encoder's epochs go
            self.network = self.team.wrap(self.stage)
        self.train.batch_sampler.start(epoch, self.batch)
        meter = Meter(self.args, epoch, self.batch, self.tally, self.run.log, self.journal, rate, bar=self.run.leader)
        threshold = self.threshold()
        self.run.log(f'[Epoch {epoch}] learning rate {rate:.2e}')
        try:
            for hr in meter.waiting(self.train):
                losses = self.step(hr, threshold)
                self.batch += 1
                meter.add(losses, self.args.batch_size, self.batch)
                self.stopper.check()
                if time.monotonic() - self.saved >= 60 * self.args.save_every_min:
                    self.save()
        finally:
            meter.close()

    def finish_epoch(self):
        """Count the epoch as done: its losses into the history, its weights and full state on disk."""
        self.note('losses', self.epoch + 1, means(self.tally))
        self.journal.epoch(self.epoch + 1, losses=means(self.tally), lr=self.optimizer.param_groups[0]['lr'],
                           skipped=self.tally['skipped'])
        self.epoch, self.batch, self.tally = self.epoch + 1, 0, new_tally()
        self.check_weights()
        self.run.save_weights(self.epoch, self.stage.trained, keeps_weights(self.args, self.epoch))
        self.save()
        if self.run.leader:
            draw_curves(self.run.folder, self.history)
        self.run.log()

    def note(self, kind, epoch, values):
        """Add an epoch's values to the history; nan stands for epochs in which a loss or test set was not there yet,
        such as the student's SR loss, or where every batch was skipped."""
        series = self.history.setdefault(kind, {})
        for name in series.keys() | values.keys():
            past = series.setdefault(name, [])
            past += [math.nan] * (epoch - 1 - len(past)) + [values.get(name, math.nan)]

    def step(self, hr, threshold):
        """One optimiser step on a batch of patches; returns {name: value}, or None if it was skipped.

        Raises UserError if a loss or the gradient is not finite, or memory runs out: the weights are then as they were.
        In half precision a gradient may overflow; the step is then left out, and the next ones are scaled by less.
        """
        try:
            return self._step(hr, threshold)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(f'out of memory ({peak_text(self.device)}) with --batch_size {self.args.batch_size} and '
                            f'--patch_size {self.args.patch_size}: lower one of them; what was saved is intact, and '
                            'a lower --batch_size goes on from it with --accept_changes') from error

    def _step(self, hr, threshold):
        step = self.epoch * self.args.test_every + self.batch
        hr = evaluation.to_float(hr, self.args.rgb_range, self.device)
        places = range(self.team.rank * len(hr), (self.team.rank + 1) * len(hr))  # of this rank's part in the batch
        seeds = torch.tensor([derive_seed(self.args.seed, 'degradation', step, i) for i in places])
        with self.team.waiting():
            losses = {name: loss.mean() for name, loss in self.network(hr, seeds).items()}
            self.optimizer.zero_grad()
            self.scaler.scale(losses['loss']).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, math.inf)  # infinite limit: measured, nothing clipped
        stop = norm.new_tensor(self.stopper.number is not None)
        *values, norm, stop = self.team.mean(torch.stack([*losses.values(), norm, stop]))  # the one wait for the device
        self.team.agree(self.stopper, stop)
        values = dict(zip(losses, values, strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad and values['loss'] >= threshold:
            self.scaler.update()
            return None
        if not bad and not math.isfinite(norm) and self.scaler.get_scale() <= 1:
            bad = ['gradient']
        if bad:
            names = [shown(self.train.dataset.files[index].name)
                     for index in sorted(set(self.train.batch_sampler.images(self.epoch + 1, self.batch)))]
            raise UserError(f'step {step}: {", ".join(bad)} not finite, with patches of {", ".join(names)}; training '
                            'stopped with the weights as they were before it, and what was saved is intact. A lower '
                            'learning rate usually helps: the run goes on with another --lr_sr and --accept_changes')
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values

    def threshold(self):
        """A batch whose loss reaches this is skipped: --skip_threshold times the mean of the last epoch with any."""
        past = [mean for mean in self.history['losses'].get('loss', []) if not math.isnan(mean)]
        return self.args.skip_threshold * past[-1] if past else math.inf

    def test(self, epoch=None):
        """{test set: its list of SetScores, one for each degradation}; the means are logged, the images' written.
        epoch: after which the test comes, None where nothing is trained."""
        start, scored = time.monotonic(), {}
        for testset in self.tests:
            scored[testset.name] = self.evaluator.score(self.stage, testset, self.check, self.journal.watch)
            for line in evaluation.lines(scored[testset.name]):
                self.run.log(line)
            for scores in scored[testset.name]:
                evaluation.write_csv(self.run.results, scores)
        images = sum(len(scores.by_step[-1]) for several in scored.values() for scores in several)
        spent = time.monotonic() - start
        self.run.log(f'{images} images in {spent:.1f} s')
        means = {name: evaluation.overall(each) for name, each in scored.items()}
        self.journal.test(epoch, means, images=images, seconds=spent)
        return scored

    def check(self):
        """Before each image of a test. Raises Stopped if a signal asks for it."""
        self.team.tick(self.stopper)
        self.stopper.check()

    def test_epoch(self, epoch):
        if not self.team.leader:
            self.team.follow(self.stopper)
            return
        means = {name: evaluation.overall(scored) for name, scored in self.test(epoch).items()}
        self.team.tick(self.stopper, done=True)
        self.run.log(f'Protocol: {self.evaluator.protocol(self.stage.oracle)}')
        for metric in self.evaluator.metrics:
            self.note(metric, epoch, {name: values[metric] for name, values in means.items()})

    def save(self):
        """The full state. It holds the frozen networks too, so that a run needs no other file to go on, and does not
        change when an earlier stage is trained again. Raises UserError rather than save weights that are not finite."""
        if not self.run.leader:
            return
        self.check_weights()
        self.run.save((self.epoch, self.batch), self.state(), self.args.keep_states)
        self.saved = time.monotonic()

    def check_weights(self):
        """Raises UserError if they are not finite: before anything of them is saved."""
        if not all(p.isfinite().all() for p in self.parameters):
            step = self.epoch * self.args.test_every + self.batch - 1
            raise UserError(f'weights are not finite after step {step}; what was saved before is intact. A lower '
                            'learning rate usually helps: the run goes on with another --lr_sr and --accept_changes')

    def state(self):
        """Everything that a training goes on from, as dicts of tensors and basic types."""
        args = self.args
        return {'epoch': self.epoch, 'batch': self.batch, 'tally': self.tally, 'stage': args.stage,
                'options': self.options(), 'passing': continuity.passing(args, self.team.size),
                'networks': self.stage.state_dict(),
                'optimizer': [args.optimizer, self.optimizer.state_dict()], 'scaler': self.scaler.state_dict(),
                'history': self.history}

    def options(self):
        """What the result follows from, for continuity.check()."""
        return continuity.binding(self.args) | {'images': continuity.describe(self.train.dataset.files)}

    def state_bytes(self):
        """About how large a full state is: every network, and two moments of what is trained."""
        tensors = [*self.stage.state_dict().values(), *2 * self.parameters]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 1_000_000

    def restore(self, state):
        """Go on from what state() gave, the networks apart: see restore_networks()."""
        name, moments = state['optimizer']
        if name != self.args.optimizer:
            raise UserError(f'{self.run.folder} was trained with --optimizer {name}, not {self.args.optimizer}; '
                            'go on with that or choose another --save')
        settings = [{key: value for key, value in group.items() if key != 'params'}
                    for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(moments)
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)  # the moments alone are the state's; options that differ were accepted
        if state['scaler'] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
        self.epoch, self.batch = state['epoch'], state['batch']
        self.tally, self.history = state['tally'], state['history']


def keeps_weights(args, epoch):
    """Whether the weights of `epoch` stay under its number."""
    return args.save_models or epoch > args.st_save_epoch


def restore_networks(stage, state, folder):
    """Load the networks of a full state into `stage`. Raises UserError if they are of another shape."""
    try:
        stage.load_state_dict(state['networks'])
    except RuntimeError as error:
        raise UserError(f'{folder} holds a run of another network; choose another --save or the options '
                        f'in its config.txt ({str(error).splitlines()[1].strip()})') from error
