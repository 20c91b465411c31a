"""Stage 1: MLN is pre-trained on plain bicubic pairs (MRDA, section III, "Training")."""
from argparse import Namespace

import torch
from torch import Tensor

from data.degradation import bicubic
from model import build
from stage import Source, Stage


class Stage1(Stage):
    """Minimises L1(MLN(lq, up), hr). With --degradation classic lq is downsampled by bicubic resizing alone: --mode and
    the options of blur and noise have no effect."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        if args.degradation == 'classic':
            self.degradation = self.test_degradation = bicubic(args.scale, args.blur_kernel)
        self.trained = self.mln = build(args, 'mln')

    def sources(self, testing: bool) -> list[Source]:
        return [Source('pre_train', self.mln, stage=1, required=testing)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        lq, up = self.degrade(hr, generator)        # (B, 3, h, w), (B, 3, H, W)
        sr, _ = self.mln(lq, up)               # (B, 3, H, W)
        return self.loss(sr, hr)

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        return self.mln(lq, up)[0]             # (B, 3, sh, sw)
