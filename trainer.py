"""The loop that every stage shares: rates, steps, logging, evaluation, saving, going on. It knows no stage."""
import math
import time

import torch
from torch import nn
from tqdm import tqdm

import evaluation
from plots import draw_curves
from utility import UserError, derive_seed


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
    run: the Run that keeps everything; n_gpus: replicas that share each batch.
    """

    def __init__(self, args, stage, train, tests, evaluator, run, device, n_gpus=1):
        self.args, self.stage, self.train, self.tests = args, stage, train, tests
        self.evaluator, self.run, self.device = evaluator, run, device
        self.network = nn.DataParallel(stage, range(n_gpus)) if n_gpus > 1 else stage
        self.parameters = [p for p in stage.trained.parameters() if p.requires_grad]
        self.epoch = args.start_epoch   # epochs done
        self.history = {}               # {'losses': {name: [one a epoch]}, 'psnr': {set: [...]}, 'ssim': {set: [...]}}
        if train is not None:
            self.optimizer = make_optimizer(args, self.parameters)
            self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == 'half')
            self.history = {'losses': {}, 'psnr': {}, 'ssim': {}}

    def fit(self):
        if self.epoch >= self.args.epochs_sr:
            self.run.log(f'Epoch {self.epoch} is done; nothing is left to do. A higher --epochs_sr goes on.')
        for epoch in range(self.epoch + 1, self.args.epochs_sr + 1):
            self.train_epoch(epoch)
            self.test_epoch(epoch)
            self.epoch = epoch
            self.save()

    def train_epoch(self, epoch):
        rate = learning_rate(self.args, epoch, self.stage.encoder_epochs)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.stage.begin_epoch(epoch)
        self.train.batch_sampler.start(epoch)
        meter = Meter(self.args, epoch, self.threshold(), self.run.log)
        self.run.log(f'[Epoch {epoch}] learning rate {rate:.2e}')
        for batch, hr in enumerate(meter.waiting(self.train), 1):
            losses = self.step(hr, (epoch - 1) * self.args.test_every + batch - 1, meter.threshold)
            meter.add(losses, len(hr), batch)
        meter.close()
        self.note('losses', epoch, meter.means())

    def note(self, kind, epoch, values):
        """Add an epoch's values to the history; nan stands for epochs in which a loss or test set was not there yet,
        such as the student's SR loss, or where every batch was skipped."""
        series = self.history[kind]
        for name in series.keys() | values.keys():
            past = series.setdefault(name, [])
            past += [math.nan] * (epoch - 1 - len(past)) + [values.get(name, math.nan)]

    def step(self, hr, step, threshold):
        """One optimiser step on a batch of patches; returns {name: value}, or None if it was skipped.

        Raises UserError if a loss or the gradient is not finite: the weights are then as they were. In half precision
        a gradient may overflow; the step is then left out, and the next ones are scaled by less.
        """
        hr = evaluation.to_float(hr, self.args.rgb_range, self.device)
        seeds = torch.tensor([derive_seed(self.args.seed, 'degradation', step, i) for i in range(len(hr))])
        losses = {name: loss.mean() for name, loss in self.network(hr, seeds).items()}
        self.optimizer.zero_grad()
        self.scaler.scale(losses['loss']).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, math.inf)  # infinite limit: measured, nothing clipped
        *values, norm = torch.stack([*losses.values(), norm]).tolist()  # the one time that a step waits for the device
        values = dict(zip(losses, values, strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad and values['loss'] >= threshold:
            self.scaler.update()
            return None
        if not bad and not math.isfinite(norm) and self.scaler.get_scale() <= 1:
            bad = ['gradient']
        if bad:
            raise UserError(f'step {step}: {", ".join(bad)} not finite; training stopped with the weights as they were '
                            'before it. A lower learning rate usually helps; --resume -1 goes on from the last epoch')
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values

    def threshold(self):
        """A batch whose loss reaches this is skipped: --skip_threshold times the mean of the epoch before."""
        past = self.history['losses'].get('loss', [math.nan])[-1]
        return math.inf if math.isnan(past) else self.args.skip_threshold * past

    def test(self):
        """{test set: its list of SetScores, one for each degradation}; the means are logged, the images' written."""
        start, scored = time.monotonic(), {}
        for testset in self.tests:
            scored[testset.name] = self.evaluator.score(self.stage, testset)
            for line in evaluation.lines(scored[testset.name]):
                self.run.log(line)
            for scores in scored[testset.name]:
                evaluation.write_csv(self.run.results, scores)
        images = sum(len(scores.by_step[-1]) for several in scored.values() for scores in several)
        self.run.log(f'{images} images in {time.monotonic() - start:.1f} s')
        return scored

    def test_epoch(self, epoch):
        means = {name: evaluation.overall(scored) for name, scored in self.test().items()}
        self.run.log(f'Protocol: {self.evaluator.protocol(self.stage.oracle)}')
        self.note('psnr', epoch, {name: psnr for name, (psnr, _) in means.items()})
        self.note('ssim', epoch, {name: ssim for name, (_, ssim) in means.items()})

    def save(self):
        """Weights, full state and curves. The state holds the frozen networks too, so that a run needs no other file
        to go on, and does not change when an earlier stage is trained again."""
        args = self.args
        state = {'epoch': self.epoch, 'stage': args.stage, 'networks': self.stage.state_dict(),
                 'optimizer': [args.optimizer, self.optimizer.state_dict()], 'scaler': self.scaler.state_dict(),
                 'history': self.history}
        self.run.save(self.epoch, state, self.stage.trained, self.keeps_weights(), args.keep_states)
        draw_curves(self.run.folder, self.history)
        self.run.log()

    def keeps_weights(self):
        """Whether this epoch's weights stay under its number."""
        return self.args.save_models or self.epoch > self.args.st_save_epoch

    def restore(self, state):
        """Go on from what save() wrote."""
        if state['stage'] != self.args.stage:
            raise UserError(f'{self.run.folder} holds a run of stage {state["stage"]}, not {self.args.stage}; '
                            'choose another --save')
        try:
            self.stage.load_state_dict(state['networks'])
        except RuntimeError as error:
            raise UserError(f'{self.run.folder} holds a run of another network; choose another --save or the options '
                            f'in its config.txt ({str(error).splitlines()[1].strip()})') from error
        name, moments = state['optimizer']
        if name != self.args.optimizer:
            raise UserError(f'{self.run.folder} was trained with --optimizer {name}, not {self.args.optimizer}; '
                            'go on with that or choose another --save')
        self.optimizer.load_state_dict(moments)
        if state.get('scaler') and self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
        self.epoch, self.history = state['epoch'], state['history']


class Meter:
    """Mean losses of an epoch so far, shown as a bar on a terminal and as lines in the log."""

    def __init__(self, args, epoch, threshold, log):
        self.args, self.epoch, self.threshold, self.log = args, epoch, threshold, log
        self.sums, self.counted, self.skipped, self.images, self.waited = {}, 0, 0, 0, 0.0
        self.start = time.monotonic()
        self.bar = tqdm(total=args.test_every, unit='batch', desc=f'Epoch {epoch}/{args.epochs_sr}', leave=False,
                        disable=None, dynamic_ncols=True)  # None: no bar where there is no terminal

    def waiting(self, batches):
        """The batches, with the time taken that each one is waited for."""
        batches = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, losses, images, batch):
        self.images += images
        if losses is None:
            self.skipped += 1
            self.log(f'Skip this batch {batch}: its loss exceeds --skip_threshold x the last epoch\'s mean '
                     f'({self.skipped} so far)')
        else:
            self.counted += 1
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0) + value
        self.bar.update()
        self.bar.set_postfix_str(self._losses() + f', {self._speed():.1f} images/s')
        if batch % self.args.print_every == 0 or batch == self.args.test_every:
            spent = time.monotonic() - self.start
            self.log(f'[{batch}/{self.args.test_every}] {self._losses()}  {self._speed():.1f} images/s  '
                     f'{self.waited / spent:.0%} of the time waiting for data  '
                     f'{spent / batch * (self.args.test_every - batch):.0f} s left in this epoch')

    def means(self):
        return {name: total / max(self.counted, 1) for name, total in self.sums.items()}

    def close(self):
        self.bar.close()

    def _losses(self):
        return '  '.join(f'{name}: {value:.4f}' for name, value in self.means().items())

    def _speed(self):
        return self.images / max(time.monotonic() - self.start, 1e-9)
