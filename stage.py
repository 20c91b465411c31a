"""The base class of training stages: a stage turns a batch of HR patches into named losses."""
from argparse import Namespace
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.degradation import DEGRADATIONS, resize
from loss import Loss
from optim.update import make_optimizer
from utility import ROUNDED, arithmetic, place, quantize, seeded


class Source(NamedTuple):
    """The source of a network's initial weights: the file of option `flag`, or the one that `stage` wrote."""
    flag: str
    network: nn.Module
    stage: int
    required: bool = True
    takes_other_role: bool = False  # also the SR network of a student's file for a teacher, and vice versa


class Stage(nn.Module):
    """One training stage. Subclasses define the trained network, its initial weights and the losses.

    trained: the network that weights files hold and EMA averages.
    A step is one or more named updates, each one forward pass of the stage, so nn.DataParallel and
    DistributedDataParallel wrap every stage in the same way: each replica degrades and adapts on its part of the batch.
    """
    trained: nn.Module
    oracle = False      # whether its tests adapt on the ground truth
    encoder_epochs = 0  # number of first epochs that train the encoder only, with their own learning rate
    encoder_only = False  # whether this is one of them
    draws = 1           # number of degradations of a step

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.degradation = DEGRADATIONS[args.degradation](args, testing=False)
        self.test_degradation = DEGRADATIONS[args.degradation](args, testing=True)
        self.rgb_range, self.lr_scale = args.rgb_range, args.scale if args.train_lr else None
        self.given = None  # the LR images of the step, with --train_lr
        self.drawn = []    # what degrade() returns next, in this order, if the step was degraded before: pairs (lq, up)
        self.per_sample = args.degradation_per == 'sample'
        self.loss = None if args.test_only else Loss(args.loss, args.rgb_range)
        self.rounded = ROUNDED[args.precision]

    def updates(self) -> dict[str, nn.Module]:
        """{name: module to train}, in the order of a step. The losses of the first update keep their names."""
        return {'sr': self.trained}

    def optimizer(self, update: str, args: Namespace, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of an update, by default that of --optimizer."""
        return make_optimizer(args, parameters)

    def rate(self, update: str, scheduled: float) -> float:
        """The learning rate of an update, where `scheduled` is that of the options' schedule."""
        return scheduled

    def begin_epoch(self, epoch: int) -> None:
        """Called before epoch `epoch`, counted from 1."""

    def sources(self, testing: bool) -> list[Source]:
        """The sources of the networks' initial weights."""
        raise NotImplementedError

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        """hr (B, 3, H, W), generator of the step's random numbers → {name: scalar}; `update` minimises 'loss', every
        entry is logged."""
        raise NotImplementedError

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """The image that is scored: sr (B, 3, sh, sw). hr may be used to adapt, as the method's oracle tests do."""
        raise NotImplementedError

    def super_resolve_by_step(self, lq: Tensor, up: Tensor, hr: Tensor) -> list[Tensor]:
        """A list of sr, one after each adaptation step if the stage adapts; the last one is the result."""
        return [self.super_resolve(lq, up, hr)]

    def forward(self, hr: Tensor, seeds: dict[torch.device, int], update: str) -> dict[str, Tensor]:
        """hr (B, 3, H, W), with --train_lr (B, 6, H, W) from PatchDataset; seeds: {device: seed of the step's random
        numbers} → {name: (1,)}."""
        generator = seeded(hr.device, seeds[hr.device])
        if self.lr_scale:
            hr, repeated = hr.chunk(2, 1)
            self.given = repeated[..., ::self.lr_scale, ::self.lr_scale].contiguous()   # (B, 3, h, w)
        return self.score(hr, generator, update)

    def score(self, hr: Tensor, generator: torch.Generator | None, update: str) -> dict[str, Tensor]:
        """losses() in the arithmetic of --precision, {name: (1,)}. generator: None if the step is drawn already."""
        with self.arithmetic(hr.device):
            return {name: loss.float().reshape(1) for name, loss in self.losses(hr, generator, update).items()}

    def predict(self, lq: Tensor, up: Tensor | None = None, hr: Tensor | None = None) -> list[Tensor]:
        """super_resolve_by_step in the arithmetic of --precision, for tests and photos; a list of float32 sr."""
        with self.arithmetic(lq.device):
            return [sr.float() for sr in self.super_resolve_by_step(lq, up, hr)]

    def train(self, mode: bool = True) -> 'Stage':
        """As nn.Module.train, but frozen networks stay in eval mode."""
        learning = {id(module) for part in self.updates().values() for module in part.modules()} if mode else set()
        for module in self.modules():
            module.training = id(module) in learning
        self.training = mode
        return self

    def arithmetic(self, device: torch.device) -> AbstractContextManager:
        """A context of the arithmetic of --precision."""
        return arithmetic(device, self.rounded)

    def place(self, device: torch.device) -> 'Stage':
        """Move to `device`, as utility.place does. Returns self."""
        return place(self, device, self.rounded)

    def degrade(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random degradation of hr (B, 3, sh, sw), one for the whole batch or one per sample; or the given LR images.
        → lq (B, 3, h, w), up (B, 3, sh, sw)"""
        if self.drawn:
            return self.drawn.pop(0)
        if self.lr_scale:
            return self.given, quantize(resize(self.given, self.lr_scale, downsample=False), self.rgb_range)
        return self.degradation(hr, generator, self.rgb_range, self.per_sample)
