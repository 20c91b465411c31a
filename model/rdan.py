"""RDAN, the region degradation aware SR network of MRDA (TIP 2023, section III)."""
import torch
import torch.nn.functional as F
from torch import nn

from model.common import SLOPE, DynamicConv, MeanShift, conv3x3, leaky_relu
from model.tail import Tail


class RDAConv(DynamicConv):
    """Region degradation aware convolution: the dynamic convolution counts where the mask M says so."""

    def __init__(self, n_feats):
        super().__init__(n_feats)
        self.conv = nn.Conv2d(n_feats, 1, 1)

    def forward(self, x, z):
        mask = torch.sigmoid(self.conv(x))                      # (B, 1, h, w)
        return torch.addcmul(x, super().forward(x, z), mask)    # (B, C, h, w)


class RDABlock(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.da_conv1 = RDAConv(n_feats)
        self.conv1 = conv3x3(n_feats, n_feats)
        self.da_conv2 = RDAConv(n_feats)
        self.conv2 = conv3x3(n_feats, n_feats)

    def forward(self, x, z):
        y = F.leaky_relu(self.da_conv1(x, z), SLOPE)   # (B, C, h, w)
        y = F.leaky_relu(self.conv1(y), SLOPE)         # (B, C, h, w)
        y = F.leaky_relu(self.da_conv2(y, z), SLOPE)   # (B, C, h, w)
        return self.conv2(y) + x                       # (B, C, h, w)


class Blocks(nn.Module):
    """A chain of blocks, each of which sees z; its own module only because published keys say `body.0.body.{i}`."""

    def __init__(self, blocks):
        super().__init__()
        self.body = nn.ModuleList(blocks)

    def forward(self, x, z):
        for block in self.body:
            x = block(x, z)   # (B, C, h, w)
        return x


class RDAN(nn.Module):
    """n_feats 64 and n_blocks 27 in the paper; n_rep: length of the representation it is steered by."""

    def __init__(self, scale, n_feats=64, n_blocks=27, n_rep=256, rgb_range=1):
        super().__init__()
        self.sub_mean = MeanShift(rgb_range, -1)
        self.add_mean = MeanShift(rgb_range, +1)
        self.compress = nn.Sequential(nn.Linear(n_rep, n_feats, bias=False), leaky_relu())
        self.head = nn.Sequential(conv3x3(3, n_feats))
        self.body = nn.ModuleList([Blocks(RDABlock(n_feats) for _ in range(n_blocks)), conv3x3(n_feats, n_feats)])
        self.tail = Tail(n_feats, scale)

    def forward(self, lq, rep):
        """lq (B, 3, h, w), rep (B, n_rep) → sr (B, 3, sh, sw)."""
        blocks, conv = self.body
        z = self.compress(rep)                  # (B, C)
        x = self.head(self.sub_mean(lq))        # (B, C, h, w)
        y = conv(blocks(x, z)) + x              # (B, C, h, w)
        return self.add_mean(self.tail(y))      # (B, 3, sh, sw)
