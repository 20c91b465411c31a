"""Stage 1: MLN is pre-trained on plain bicubic pairs (MRDA, section III, "Training")."""
from data.degradation import Degradation, DegradationRange, Degrader
from model import build
from stage import Source, Stage


class Stage1(Stage):
    """Minimises L1(MLN(lq, up), hr), lq and up by bicubic resizing alone, whatever --mode, blur and noise say."""

    def __init__(self, args):
        super().__init__(args)
        self.degrader = Degrader(args.scale, args.blur_kernel, 'bicubic', args.rgb_range)
        self.draws = DegradationRange()                     # none: plain bicubic pairs in training
        self.test_degradation = Degradation.bicubic()       # and in tests
        self.trained = self.mln = build(args, 'mln')

    def sources(self, testing):
        return [Source('pre_train', self.mln, stage=1, required=testing)]

    def losses(self, hr, draw):
        lq, up = self.degrade(hr, draw)        # (B, 3, h, w), (B, 3, H, W)
        sr, _ = self.mln(lq, up)               # (B, 3, H, W)
        return self.loss(sr, hr)

    def restore(self, lq, up, hr):
        return self.mln(lq, up)[0]             # (B, 3, sh, sw)
