"""Stage 5: the student is fine-tuned against a discriminator, as KDSR-GAN (KDSR, ICLR 2023, real-world SR)."""
from argparse import Namespace

import torch
from torch import Tensor, nn

from loss.adversarial import gan_loss
from loss.sharpening import sharpened
from model import build_discriminator
from stage import Source
from trainer_stage4 import Stage4


class Stage5(Stage4):
    """Minimises L(S(lq), hr) + KL + w · BCE(D(S(lq)), 1) for the student S, with L of --loss (L1 + perceptual), then
    BCE(D(hr), 1) + BCE(D(S(lq)), 0) for the discriminator D, with S(lq) of the student's update."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.gan_weight, self.sharpen = args.gan_weight, args.sharpen_hr
        self.fakes = {}  # {device: S(lq)} of the student's update; replicas of DataParallel share this dict
        if not args.test_only:
            self.discriminator = build_discriminator(args)

    def updates(self) -> dict[str, nn.Module]:
        return {'sr': self.student, 'discriminator': self.discriminator}

    def sources(self, testing: bool) -> list[Source]:
        *others, student = super().sources(testing)
        return [*others, student._replace(stage=5 if testing else 4, takes_other_role=False)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        if update == 'discriminator':
            sr = self.fakes.pop(hr.device)                             # (B, 3, H, W)
            real, fake = gan_loss(self.discriminate(hr), real=True), gan_loss(self.discriminate(sr), real=False)
            return {'loss': real + fake, 'real': real, 'fake': fake}
        lq, up = self.degrade(hr, generator)                          # (B, 3, h, w), (B, 3, H, W)
        rep, distillation, terms = self.distil(lq, up, hr)            # (B, R)
        sr = self.student.G(lq, rep)                                  # (B, 3, H, W)
        self.fakes[hr.device] = sr.detach()
        losses = self.loss(sr, sharpened(hr, self.rgb_range) if self.sharpen else hr)
        adversarial = gan_loss(self.discriminate(sr), real=True)
        total = losses['loss'] + distillation + self.gan_weight * adversarial
        return {**losses, 'loss': total, 'SR': losses['loss'], **terms, 'GAN': adversarial}

    def discriminate(self, image: Tensor) -> Tensor:
        """The discriminator's logits (B, 1, H, W) of an image (B, 3, H, W) in the data range of the networks."""
        return self.discriminator(image / self.rgb_range)
