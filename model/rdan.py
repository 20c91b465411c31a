"""RDAN, the region degradation aware SR network of MRDA (TIP 2023, section III)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.common import SLOPE, DynamicConv, SRNetwork, conv3x3, fused, fuses, leaky_relu


class RDAConv(DynamicConv):
    """Region degradation aware convolution and LeakyReLU: a dynamic convolution weighted by the mask M, and a skip."""

    def __init__(self, n_feats: int) -> None:
        super().__init__(n_feats)
        self.conv = nn.Conv2d(n_feats, 1, 1)

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        if fuses(x):
            return fused.dynamic_convolution(x, kernel, SLOPE, self.conv.weight, self.conv.bias)
        mask = torch.sigmoid(self.conv(x)).to(x.dtype)                      # (B, 1, h, w)
        y = torch.addcmul(x, super().forward(x, kernel), mask)              # (B, C, h, w)
        return F.leaky_relu(y, SLOPE, inplace=True)                         # of the block; here, to be in place


class RDABlock(nn.Module):
    """RDA convolution and plain convolution, twice, and a skip (MRDA, section III): (B, C, h, w) → the same."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.da_conv1 = RDAConv(n_feats)
        self.conv1 = conv3x3(n_feats, n_feats)
        self.da_conv2 = RDAConv(n_feats)
        self.conv2 = conv3x3(n_feats, n_feats)

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        y = self.conv1(self.da_conv1(x, kernels[0]))                        # (B, C, h, w)
        y = F.leaky_relu(y, SLOPE, inplace=True)
        return self.conv2(self.da_conv2(y, kernels[1])) + x                 # (B, C, h, w)


class RDAN(SRNetwork):
    """n_feats 64 and n_blocks 27 in the paper; n_rep: length of the representation it is conditioned on."""

    def __init__(self, scale: int, n_feats: int = 64, n_blocks: int = 27, n_rep: int = 256,
                 rgb_range: int = 1, n_colors: int = 3) -> None:
        compress = nn.Sequential(nn.Linear(n_rep, n_feats, bias=False), leaky_relu())
        super().__init__(scale, n_feats, (RDABlock(n_feats) for _ in range(n_blocks)), rgb_range, compress, n_colors)
