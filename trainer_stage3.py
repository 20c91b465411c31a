"""Stage 3: the teacher is trained to super-resolve, conditioned on the features of the MLN adapted to each pair."""
from argparse import Namespace

import torch
from torch import Tensor

from model import build, build_cue
from stage import Source, Stage


class Stage3(Stage):
    """Minimises L1(T(lq, D), hr), D the features of MLN after test_iter gradient steps on L1(MLN(lq, up), hr)."""
    oracle = True

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.trained = self.teacher = build(args, 'teacher')
        self.cue, self.mln = build_cue(args)

    def sources(self, testing: bool) -> list[Source]:
        meta = [Source('pre_train_meta', self.mln, stage=2)] if self.mln else []
        return [*meta, Source('pre_train_TA', self.teacher, stage=3, required=testing, takes_other_role=not testing)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        lq, up = self.degrade(hr, generator)        # (B, 3, h, w), (B, 3, H, W)
        cue = self.cue(lq, up, hr)             # (B, C, h, w), no graph
        sr, _ = self.teacher(lq, cue)          # (B, 3, H, W)
        return self.loss(sr, hr)

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        sr, _ = self.teacher(lq, self.cue(lq, up, hr))   # (B, 3, sh, sw)
        return sr
