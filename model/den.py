"""DEN, the degradation extraction network of MRDA (TIP 2023, section III)."""
from torch import Tensor, nn

from model.common import conv3x3, leaky_relu


class DEN(nn.Module):
    """n_in: input channels: the MLN's width for the teacher, the channels of lq for the student."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        shapes = ((n_in, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.E = nn.Sequential(*[layer for shape in shapes for layer in (conv3x3(*shape), leaky_relu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(256, 256), leaky_relu(), nn.Linear(256, 256))

    def forward(self, cue: Tensor) -> tuple[Tensor, Tensor]:
        """cue (B, n_in, h, w) → representation for RDAN (B, 256), distilled feature (B, 256): here the same."""
        return self.read(self.E(cue).flatten(1))

    def read(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The output of forward from the global mean (B, 256) of E's convolutions."""
        feature = self.mlp(pooled)   # (B, 256)
        return feature, feature
