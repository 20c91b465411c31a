"""KDSR, the second family (Knowledge Distillation based Degradation Estimation for Blind Super-Resolution, ICLR 2023).

No meta-learning network: the teacher estimates the degradation from lq and the ground truth, the student from lq alone.
"""
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
    """The degradation estimator, KD-IDE in the paper. n_in: input channels; n_feats: width C.

    Stride 1 throughout. One LeakyReLU slope everywhere: published files hold no weights of activations.
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
        """The output of forward from the global mean (B, 4C) of E's convolutions."""
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
    """The input of the encoder of KDSR's teacher: lq concatenated with the pixel-unshuffled ground truth."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """lq (B, 3, h, w), hr (B, 3, sh, sw) → (B, 3 + 3s², h, w), or (B, 1, ..) → (B, 1 + s², h, w); up, an input in
        other families, is not used."""
        return torch.cat([lq, F.pixel_unshuffle(hr, self.scale)], dim=1)


def teacher(scale: int, n_feats: int = 64, n_blocks: int = 53, n_resblocks: int = 9, rgb_range: int = 1,
            n_colors: int = 3) -> BlindSR:
    """KDSR_T: its encoder reads a PairCue. At x4 5,822,747 parameters (M) or, with 128, 28, 5, 14,246,299 (L)."""
    return _network(n_colors * (1 + scale**2), scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, False)


def student(scale: int, n_feats: int = 64, n_blocks: int = 53, n_resblocks: int = 9, rgb_range: int = 1,
            n_colors: int = 3) -> BlindSR:
    """KDSR_S: its encoder reads lq alone. At x4 5,795,099 parameters (M) or, with 128, 28, 5, 14,191,003 (L)."""
    return _network(n_colors, scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, True)


def sizes(weights: Weights, role: str) -> dict[str, int]:
    """The options of a KDSR network, read from its weights. Raises LookupError for other families."""
    encoder = {'teacher': 'E', 'student': 'E_st'}[role]
    return sr_sizes(weights) | {'n_feats': weights[f'{encoder}.compress.0.weight'].shape[0],
                                'n_resblocks': count(weights, rf'{encoder}\.E\.(\d+)\.body\.')}


def _network(n_in, scale, n_feats, n_blocks, n_resblocks, rgb_range, n_colors, student):
    sr_network = SRNetwork(scale, n_feats, (Block(n_feats) for _ in range(n_blocks)), rgb_range, n_colors=n_colors)
    return BlindSR(Encoder(n_in, n_feats, n_resblocks), sr_network, student)
