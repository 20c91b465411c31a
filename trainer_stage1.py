"""Stage 1: MLN is pre-trained on plain bicubic pairs (MRDA, section III, "Training")."""
from argparse import Namespace

import torch
from torch import Tensor

from data.degradation import Degradation, DegradationRange, Degrader
from model import build
from stage import Source, Stage


class Stage1(Stage):
    """Minimises L1(MLN(lq, up), hr), lq and up by bicubic resizing alone, whatever --mode, blur and noise say."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.degrader = Degrader(args.scale, args.blur_kernel, 'bicubic', args.rgb_range)
        self.draws = DegradationRange()                     # none: plain bicubic pairs in training
        self.test_degradation = Degradation.bicubic()       # and in tests
        self.trained = self.mln = build(args, 'mln')

    def sources(self, testing: bool) -> list[Source]:
        return [Source('pre_train', self.mln, stage=1, required=testing)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        lq, up = self.degrade(hr, generator)        # (B, 3, h, w), (B, 3, H, W)
        sr, _ = self.mln(lq, up)               # (B, 3, H, W)
        return self.loss(sr, hr)

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        return self.mln(lq, up)[0]             # (B, 3, sh, sw)
