"""What the four stages have in common: a stage turns a batch of HR patches into named losses."""
from typing import NamedTuple

import torch
from torch import nn

from data.degradation import Degradation, DegradationRange, Degrader
from loss import Loss
from utility import ROUNDED, arithmetic, place


class Source(NamedTuple):
    """Where a network's first weights come from: the file of option `flag`, or what `stage` wrote."""
    flag: str
    network: nn.Module
    stage: int
    required: bool = True
    may_be_teacher: bool = False  # a teacher's file serves too: its SR network is taken over


class Stage(nn.Module):
    """One training stage. Subclasses say what is trained, from what, and by which losses.

    trained: the network whose weights the stage learns; everything else is frozen.
    Because a whole step is one forward, nn.DataParallel wraps every stage alike: each replica degrades and adapts
    on its own share of the batch.
    """
    trained: nn.Module
    oracle = False      # whether its tests adapt on the ground truth
    encoder_epochs = 0  # the first epochs that train the encoder only, at a rate of their own
    encoder_only = False  # whether this is one of them

    def __init__(self, args):
        super().__init__()
        self.degrader = Degrader(args.scale, args.blur_kernel, args.mode, args.rgb_range)
        self.draws = DegradationRange(args.blur_type, args.sig_min, args.sig_max,
                                      args.lambda_min, args.lambda_max, args.noise)
        self.test_degradation = fixed_degradation(args)
        self.per_sample = args.degradation_per == 'sample'
        self.loss = Loss(args.loss, args.rgb_range)
        self.rounded = ROUNDED[args.precision]

    def begin_epoch(self, epoch):
        """Called before epoch `epoch`, counted from 1."""

    def sources(self, testing):
        """Where the networks' first weights come from, a list of Source."""
        raise NotImplementedError

    def losses(self, hr, draw):
        """hr (B, 3, H, W), draw: the step's torch.Generator → {name: scalar}; 'loss' is back-propagated."""
        raise NotImplementedError

    def restore(self, lq, up, hr):
        """The image that is scored: sr (B, 3, sh, sw). hr may be used to adapt, as the method's oracle tests do."""
        raise NotImplementedError

    def restore_by_step(self, lq, up, hr):
        """A list of sr, one after each adaptation step where the stage's test shows them; the last one counts."""
        return [self.restore(lq, up, hr)]

    def forward(self, hr, seeds):
        """hr (B, 3, H, W), seeds (B,) int64, the first of which seeds the draws → {name: (1,)}."""
        draw = torch.Generator(hr.device).manual_seed(int(seeds[0]))
        with self.arithmetic(hr.device):
            return {name: loss.float().reshape(1) for name, loss in self.losses(hr, draw).items()}

    def enlarge(self, lq, up=None, hr=None):
        """What tests and photos call: restore_by_step in the arithmetic of --precision, a list of float32 sr."""
        with self.arithmetic(lq.device):
            return [sr.float() for sr in self.restore_by_step(lq, up, hr)]

    def arithmetic(self, device):
        """A context in which convolutions and matrix products are computed as --precision says."""
        return arithmetic(device, self.rounded)

    def place(self, device):
        """Move to `device`, as utility.place does. Returns self."""
        return place(self, device, self.rounded)

    def degrade(self, hr, draw):
        """A random degradation of hr (B, 3, sh, sw), one for the whole batch or one per sample
        → lq (B, 3, h, w), up (B, 3, sh, sw)."""
        degradation = self.draws.sample(draw, len(hr) if self.per_sample else 1)
        return self.degrader(hr, degradation, draw)


def fixed_degradation(args):
    """The degradation of the tests, as the options fix it."""
    if args.blur_type == 'iso_gaussian':
        return Degradation.iso(args.sig, args.noise)
    return Degradation.aniso(args.lambda_1, args.lambda_2, args.theta, args.noise)
