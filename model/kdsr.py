"""KDSR, the second family (Knowledge Distillation based Degradation Estimation for Blind Super-Resolution, ICLR 2023).

No meta-learning network: the teacher sees the degradation in lq and its ground truth, the student in lq alone."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.common import BlindSR, DynamicConv, SRNetwork, conv3x3, leaky_relu
from model.shapes import Weights, count, sr_sizes


class ResBlock(nn.Module):
    """A residual block of KDSR's encoder: (B, C, h, w) → the same."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(n_feats, n_feats), leaky_relu(), conv3x3(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x   # (B, C, h, w)


class Encoder(nn.Module):
    """The degradation estimator, KD-IDE in the paper. n_in: channels it reads; n_feats: width C.

    Stride 1 throughout. One LeakyReLU slope everywhere: public files hold no weight of an activation.
    """

    def __init__(self, n_in: int, n_feats: int, n_resblocks: int) -> None:
        super().__init__()
        shapes = ((n_feats, 2 * n_feats), (2 * n_feats, 2 * n_feats), (2 * n_feats, 4 * n_feats))
        self.E = nn.Sequential(conv3x3(n_in, n_feats), leaky_relu(),
                               *[ResBlock(n_feats) for _ in range(n_resblocks)],
                               *[layer for shape in shapes for layer in (conv3x3(*shape), leaky_relu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(4 * n_feats, 4 * n_feats), leaky_relu(),
                                 nn.Linear(4 * n_feats, 4 * n_feats), leaky_relu())
        self.compress = nn.Sequential(nn.Linear(4 * n_feats, n_feats), leaky_relu())

    def forward(self, cue: Tensor) -> tuple[Tensor, Tensor]:
        """cue (B, n_in, h, w) → representation for the SR network (B, C), distilled feature (B, 4C)."""
        return self.read(self.E(cue).flatten(1))

    def read(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """What forward returns, of the mean (B, 4C) over all pixels of E's convolutions."""
        feature = self.mlp(pooled)                   # (B, 4C)
        return self.compress(feature), feature       # (B, C), (B, 4C)


class Block(nn.Module):
    """IDR-DCB in the paper: a dynamic depthwise convolution and a plain one. Unlike RDAN's, it has no mask M."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.da_conv1 = DynamicConv(n_feats)
        self.conv1 = conv3x3(n_feats, n_feats)

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        return self.conv1(self.da_conv1(x, kernels[0])) + x   # (B, C, h, w)


class PairCue(nn.Module):
    """What KDSR's teacher looks at: lq beside the ground truth, whose s x s blocks become channels."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """lq (B, 3, h, w), hr (B, 3, sh, sw) → (B, 3 + 3s², h, w), or (B, 1, ..) → (B, 1 + s², h, w); up, which other
        families look at, is not used."""
        return torch.cat([lq, F.pixel_unshuffle(hr, self.scale)], dim=1)


def teacher(scale: int, n_feats: int = 64, n_blocks: int = 53, n_resblocks: int = 9, rgb_range: int = 1,
            n_colors: int = 3) -> BlindSR:
    """KDSR_T: its encoder sees a PairCue. At x4 5,822,747 parameters (M) or, with 128, 28, 5, 14,246,299 (L)."""
    return _network(n_colors * (1 + scale**2), scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, False)


def student(scale: int, n_feats: int = 64, n_blocks: int = 53, n_resblocks: int = 9, rgb_range: int = 1,
            n_colors: int = 3) -> BlindSR:
    """KDSR_S: its encoder sees lq alone. At x4 5,795,099 parameters (M) or, with 128, 28, 5, 14,191,003 (L)."""
    return _network(n_colors, scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, True)


def sizes(weights: Weights, role: str) -> dict[str, int]:
    """The options that KDSR's networks show. Raises LookupError for those of other families."""
    encoder = {'teacher': 'E', 'student': 'E_st'}[role]
    return sr_sizes(weights) | {'n_feats': weights[f'{encoder}.compress.0.weight'].shape[0],
                                'n_resblocks': count(weights, rf'{encoder}\.E\.(\d+)\.body\.')}


def _network(n_in, scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, student):
    sr_network = SRNetwork(scale, n_feats, (Block(n_feats) for _ in range(n_blocks)), rgb_range, n_colors=n_colors)
    return BlindSR(Encoder(n_in, n_feats, n_resblocks), sr_network, student)
