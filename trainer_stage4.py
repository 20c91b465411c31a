"""Stage 4: the student, whose encoder reads lq alone, is distilled from the teacher: first the encoder, then all."""
from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from loss.distillation import kl_divergence
from model import FAMILIES, build, build_cue
from model.inference import TILE, super_resolve
from stage import Source, Stage


class Stage4(Stage):
    """Minimises KL + 0.1·L1 between the representations of student and teacher in the encoder's epochs, then
    L1(S(lq), hr) + KL + 0.1·L1 (the L1 between representations for MRDA only). --distill is the weight of the
    distillation terms; at 0 the student is fine-tuned alone, without teacher and MLN."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.trained = self.student = build(args, 'student')
        self.encoder_epochs = args.epochs_encoder
        self.temperature = args.temperature
        self.feature_l1 = FAMILIES[args.model].feature_l1
        self.scale, self.chop = args.scale, args.chop
        self.distill = args.distill
        if self.distill and not args.test_only:
            self.teacher = build(args, 'teacher').requires_grad_(False)
            self.cue, self.mln = build_cue(args)

    def begin_epoch(self, epoch: int) -> None:
        self.encoder_only = epoch <= self.encoder_epochs

    def sources(self, testing: bool) -> list[Source]:
        if testing or not self.distill:
            return [Source('pre_train_ST', self.student, stage=4)]
        meta = [Source('pre_train_meta', self.mln, stage=2)] if self.mln else []
        return [*meta, Source('pre_train_TA', self.teacher, stage=3),
                Source('pre_train_ST', self.student, stage=3, takes_other_role=True)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        lq, up = self.degrade(hr, generator)                          # (B, 3, h, w), (B, 3, H, W)
        rep, distillation, terms = self.distil(lq, up, hr)            # (B, R)
        if self.encoder_only:
            return {'loss': distillation, **terms}
        losses = self.loss(self.student.G(lq, rep), hr)
        return {**losses, 'loss': losses['loss'] + distillation, 'SR': losses['loss'], **terms} if terms else losses

    def distil(self, lq: Tensor, up: Tensor, hr: Tensor) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """lq (B, 3, h, w), up and hr (B, 3, sh, sw) → the student's representation (B, R), the weighted distillation
        loss, and its terms by name ({} without a teacher)."""
        rep, feature = self.student.encoder(lq)                       # (B, R), (B, F)
        if not self.distill:
            return rep, 0.0, {}
        with torch.no_grad():
            _, target = self.teacher.encoder(self.cue(lq, up, hr))    # (B, F)
        kl = kl_divergence(feature, target, self.temperature)
        l1 = F.l1_loss(feature, target)
        return rep, self.distill * (kl + self.feature_l1 * l1), {'KL': kl, 'feature L1': l1}

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """The student needs lq alone. With --chop, and automatically for a large lq or when out of memory, it is
        applied in tiles, with one representation of the whole image.

        Raises UserError if memory is too small even for small tiles.
        """
        return super_resolve(self.student, lq, self.scale, TILE if self.chop else None)        # (B, 3, sh, sw)
