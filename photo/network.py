"""A student as a module on images in [0, 1], with borders and gray handled as in upscale.py, for torch.hub and ONNX."""
import torch
from torch import Tensor, nn

from photo.colour import keep_plain
from photo.luma import in_colour

EDGE = 4  # pixels of replicated border: enough for a white image to stay white up to the corners


class PhotoNetwork(nn.Module):
    """A student on images in [0, 1]: lq (B, 3, h, w) → sr (B, 3, sh, sw), not clipped.

    As in upscale.py the border is replicated, as zero padding would darken corners, and gray stays gray.
    rgb_range: the student's data range. `student` is not copied.
    """

    def __init__(self, student: nn.Module, scale: int, rgb_range: int) -> None:
        super().__init__()
        self.student, self.scale, self.rgb_range = in_colour(student, scale), scale, rgb_range

    def forward(self, lq: Tensor) -> Tensor:
        edged, edge = lq * self.rgb_range, EDGE * self.scale
        for axis in 2, 3:  # not by F.pad, with which PyTorch's older ONNX exporter loses the shapes
            first, last = edged.narrow(axis, 0, 1), edged.flip(axis).narrow(axis, 0, 1)
            edged = torch.cat(EDGE * [first] + [edged] + EDGE * [last], axis)
        sr, _ = self.student(edged)                                                      # (B, 3, s(h + 2·EDGE), …)
        sr = sr[:, :, edge:-edge, edge:-edge] / self.rgb_range                           # (B, 3, sh, sw)
        return keep_plain(sr, lq)
