"""The networks of MRDA and KDSR, layer by layer as in the papers; state dicts have the published keys."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with bias."""
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1)


def lrelu() -> nn.LeakyReLU:
    """The activation used everywhere."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def tail(n_feats: int, scale: int) -> nn.Sequential:
    """The upsampler, features (B, C, h, w) → image (B, 3, sh, sw)."""
    layers = []
    for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        layers += [conv(n_feats, n_feats * factor**2), nn.PixelShuffle(factor)]
    return nn.Sequential(nn.Sequential(*layers), conv(n_feats, 3))


class MLN(nn.Module):
    """The meta-learning network."""

    def __init__(self, n_feats: int = 128, scale: int = 4) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(3, n_feats), lrelu())
        self.body = nn.Sequential(*[layer for _ in range(6) for layer in (conv(n_feats, n_feats), lrelu())])
        self.tail = tail(n_feats, scale)

    def forward(self, lq: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """(sr, features) of lq (B, 3, h, w) and up (B, 3, sh, sw), its bicubic upsampling."""
        features = self.body(self.head(lq))                         # (B, C, h, w)
        return self.tail(features) + up, features                   # (B, 3, sh, sw), (B, C, h, w)


class MeanShift(nn.Conv2d):
    """Adds the mean colour of DIV2K (sign +1) or subtracts it (-1)."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * torch.tensor(DIV2K_MEAN)
        self.requires_grad_(False)


class DynamicConv(nn.Module):
    """A depthwise convolution whose kernels are predicted from z (B, C); in MRDA masked by region."""

    def __init__(self, n_feats: int, mask: bool) -> None:
        super().__init__()
        self.kernel = nn.Sequential(nn.Linear(n_feats, n_feats, bias=False), lrelu(),
                                    nn.Linear(n_feats, n_feats * 9, bias=False))
        self.conv = nn.Conv2d(n_feats, 1, 1) if mask else None
        self.relu = lrelu()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, h, w), z (B, C)."""
        b, c, h, w = x.shape
        kernel = self.kernel(z).view(b * c, 1, 3, 3)
        y = F.conv2d(x.view(1, b * c, h, w), kernel, groups=b * c, padding=1)
        y = self.relu(y.view(b, c, h, w))                           # (B, C, h, w)
        return y * torch.sigmoid(self.conv(x)) + x if self.conv else y


class RDABlock(nn.Module):
    """The region degradation aware block of MRDA."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.da_conv1, self.da_conv2 = (DynamicConv(n_feats, mask=True) for _ in range(2))
        self.conv1, self.conv2 = conv(n_feats, n_feats), conv(n_feats, n_feats)
        self.relu = lrelu()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, h, w), z (B, C)."""
        y = self.relu(self.da_conv1(x, z))
        y = self.relu(self.conv1(y))
        y = self.relu(self.da_conv2(y, z))
        return self.conv2(y) + x                                    # (B, C, h, w)


class KDSRBlock(nn.Module):
    """The block of KDSR."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.da_conv1 = DynamicConv(n_feats, mask=False)
        self.conv1 = conv(n_feats, n_feats)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, h, w), z (B, C)."""
        return self.conv1(self.da_conv1(x, z)) + x                  # (B, C, h, w)


class Body(nn.Module):
    """A sequence of blocks that all get the same z."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.body = nn.ModuleList(blocks)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, h, w), z (B, C)."""
        for block in self.body:
            x = block(x, z)
        return x                                                    # (B, C, h, w)


class SRNetwork(nn.Module):
    """The SR network of both families; compress: rep → z, None if rep is z."""

    def __init__(self, scale: int, n_feats: int, blocks: list[nn.Module], compress: nn.Module | None = None) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(+1)
        self.compress = compress or nn.Identity()
        self.head = nn.Sequential(conv(3, n_feats))
        self.body = nn.ModuleList([Body(blocks), conv(n_feats, n_feats)])
        self.tail = tail(n_feats, scale)

    def forward(self, lq: Tensor, rep: Tensor) -> Tensor:
        """lq (B, 3, h, w), rep (B, 256) in MRDA, (B, C) in KDSR."""
        z = self.compress(rep)                                      # (B, C)
        x = self.head(self.sub_mean(lq))                            # (B, C, h, w)
        y = self.body[1](self.body[0](x, z)) + x
        return self.add_mean(self.tail(y))                          # (B, 3, sh, sw)


class DEN(nn.Module):
    """The degradation extraction network, the encoder of MRDA."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        shapes = ((n_in, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.E = nn.Sequential(*[layer for shape in shapes for layer in (conv(*shape), lrelu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(256, 256), lrelu(), nn.Linear(256, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(representation, distilled feature), one and the same here, of x (B, n_in, h, w)."""
        feature = self.mlp(self.E(x).flatten(1))
        return feature, feature                                     # (B, 256) twice


class ResBlock(nn.Module):
    """A residual block of KDSR's encoder."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(n_feats, n_feats), lrelu(), conv(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w)."""
        return self.body(x) + x                                     # (B, C, h, w)


class KDSREncoder(nn.Module):
    """The encoder of KDSR."""

    def __init__(self, n_in: int, c: int, n_resblocks: int) -> None:
        super().__init__()
        shapes = ((c, 2 * c), (2 * c, 2 * c), (2 * c, 4 * c))
        self.E = nn.Sequential(conv(n_in, c), lrelu(), *[ResBlock(c) for _ in range(n_resblocks)],
                               *[layer for shape in shapes for layer in (conv(*shape), lrelu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(4 * c, 4 * c), lrelu(), nn.Linear(4 * c, 4 * c), lrelu())
        self.compress = nn.Sequential(nn.Linear(4 * c, c), lrelu())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(representation, distilled feature) of x (B, n_in, h, w)."""
        feature = self.mlp(self.E(x).flatten(1))
        return self.compress(feature), feature                      # (B, C), (B, 4C)


class BlindSR(nn.Module):
    """A teacher or a student: an encoder, and the SR network conditioned on its representation."""

    def __init__(self, encoder: nn.Module, sr_network: nn.Module, student: bool) -> None:
        super().__init__()
        self.encoder_name = 'E_st' if student else 'E'
        self.add_module(self.encoder_name, encoder)
        self.G = sr_network

    def forward(self, lq: Tensor, cue: Tensor) -> tuple[Tensor, Tensor]:
        """(sr, distilled feature) of lq (B, 3, h, w); cue: the input of the encoder."""
        rep, feature = getattr(self, self.encoder_name)(cue)
        return self.G(lq, rep), feature                             # (B, 3, sh, sw), (B, 256 or 4C)


def mrda(scale: int, n_feats: int, n_blocks: int, student: bool) -> BlindSR:
    """MRDA_T or MRDA_S; n_feats: channels of the MLN's features, the input of the teacher's encoder."""
    compress = nn.Sequential(nn.Linear(256, 64, bias=False), lrelu())
    network = SRNetwork(scale, 64, [RDABlock(64) for _ in range(n_blocks)], compress)
    return BlindSR(DEN(3 if student else n_feats), network, student)


def kdsr(scale: int, n_feats: int, n_blocks: int, n_resblocks: int, student: bool) -> BlindSR:
    """KDSR_T or KDSR_S; n_feats: channels of the network itself."""
    network = SRNetwork(scale, n_feats, [KDSRBlock(n_feats) for _ in range(n_blocks)])
    return BlindSR(KDSREncoder(3 if student else 3 + 3 * scale**2, n_feats, n_resblocks), network, student)
