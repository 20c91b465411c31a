"""A luma student (--n_colors 1) on colour images: it super-resolves the luma; colour is upsampled (bicubic)."""
from torch import Tensor, nn

from data.degradation import resize
from model.common import BlindSR
from utility import luma


class Luma(nn.Module):
    """(B, 3, h, w) → its luma (B, 1, h, w)."""

    def forward(self, image: Tensor) -> Tensor:
        """See utility.luma."""
        return luma(image)


class LumaEncoder(nn.Module):
    """The encoder of a luma student, on colour images. It has `E` and `read` if the encoder has: see represent() of
    model.inference."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        if hasattr(encoder, 'read'):
            self.E, self.read = nn.Sequential(Luma(), *encoder.E), encoder.read

    def forward(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        """lq (B, 3, h, w) → what the encoder returns for its luma."""
        return self.encoder(luma(lq))


class LumaNetwork(nn.Module):
    """The SR network of a luma student, on colour images: each channel is upsampled, and the luma's detail added."""

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, lq: Tensor, rep: Tensor) -> Tensor:
        """lq (B, 3, h, w), rep (B, R) → sr (B, 3, sh, sw), whose luma is that of the network."""
        up = resize(lq, self.scale, downsample=False)              # (B, 3, sh, sw)
        return up + (self.network(luma(lq), rep) - luma(up))   # (B, 3, sh, sw)


def in_colour(student: nn.Module, scale: int) -> nn.Module:
    """`student` itself if it is for RGB, else wrapped to take RGB."""
    if getattr(student.G, 'n_colors', 3) == 3:
        return student
    wrapped = BlindSR(LumaEncoder(student.encoder), LumaNetwork(student.G, scale), student=True)
    wrapped.overlap = student.overlap
    return wrapped
