"""Modules shared by the networks of both families."""
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.tail import Tail
from utility import LUMA, unrounded

fused = None
if torch.cuda.is_available():
    with suppress(ImportError):  # Triton comes with PyTorch on Linux; without it GPUs use depthwise()
        from model import fused

SLOPE = 0.1  # of every LeakyReLU
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
CONVOLUTIONS = 'convolutions'  # as BlindSR.overlap


def conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """(B, n_in, h, w) → (B, n_out, h/stride, w/stride), rounded up; zero padding."""
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1)


class ImageConv(nn.Conv2d):
    """A 3x3 convolution of an image, zero padding: (B, n_in, h, w) → (B, n_out, h, w), in single precision also under
    autocast, as bfloat16 has no more than 8 significant bits, like the image itself."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        with unrounded(image.device):
            return super().forward(image)


def leaky_relu() -> nn.LeakyReLU:
    """LeakyReLU with slope SLOPE, in place."""
    return nn.LeakyReLU(SLOPE, inplace=True)


class MeanShift(nn.Conv2d):
    """Adds sign · DIV2K's mean colour or luma: a fixed 1x1 convolution, in the state dict as in published files, whose
    weight is a diagonal matrix. Computed as a sum, which autocast does not round, unlike a convolution."""

    def __init__(self, rgb_range: int, sign: int, n_colors: int = 3) -> None:
        super().__init__(n_colors, n_colors, kernel_size=1)
        mean = torch.tensor(DIV2K_MEAN)
        with torch.no_grad():
            self.weight.copy_(torch.eye(n_colors)[:, :, None, None])
            self.bias.copy_(sign * rgb_range * (mean if n_colors == 3 else mean @ torch.tensor(LUMA)))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, n_colors, h, w) → the same."""
        return image * self.weight.flatten(1).diagonal()[:, None, None] + self.bias[:, None, None]


class DynamicConv(nn.Module):
    """LeakyReLU of a depthwise 3x3 convolution whose kernels, one per sample and channel, `kernel` predicts from z."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.kernel = nn.Sequential(nn.Linear(n_feats, n_feats, bias=False), leaky_relu(),
                                    nn.Linear(n_feats, n_feats * 9, bias=False))

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """x (B, C, h, w), kernel (B·C, 1, 3, 3) as predict_kernels makes it → (B, C, h, w)."""
        b, c, h, w = x.shape
        if fuses(x):
            return fused.dynamic_convolution(x, kernel, SLOPE)
        if x.is_cuda:
            return F.leaky_relu(depthwise(x, kernel), SLOPE, inplace=True)
        # One group per sample and channel, in channels-last memory: several times faster on CPUs than contiguous.
        rows = x.permute(2, 3, 0, 1).reshape(1, h, w, b * c).permute(0, 3, 1, 2)    # (1, B·C, h, w)
        rows = F.conv2d(rows, kernel, padding=1, groups=b * c)                      # (1, B·C, h, w)
        rows = F.leaky_relu(rows, SLOPE, inplace=True)
        return rows.permute(0, 2, 3, 1).reshape(h, w, b, c).permute(2, 3, 0, 1)     # (B, C, h, w)


def fuses(x: Tensor) -> bool:
    """Whether model.fused computes dynamic convolutions of x: on GPUs for which Triton compiles, not in float64."""
    if fused is None or not x.is_cuda or x.dtype == torch.float64:
        return False
    return torch.compiler.is_compiling() or fused.works(x.device)


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """x (B, C, h, w), kernel (B·C, 1, 3, 3) → (B, C, h, w) in contiguous memory, for which PyTorch uses its own kernels
    on GPUs instead of cuDNN's."""
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernel, padding=1, groups=len(kernel))  # (1, B·C, h, w)
    return y.view(x.shape)                                                              # (B, C, h, w)


def predict_kernels(convs: Sequence[DynamicConv], z: Tensor) -> Tensor:
    """The kernels of all dynamic convolutions `convs` in one pass: z (B, C) → (len(convs), B·C, 1, 3, 3)."""
    if not convs:
        return z.new_empty(0, z.numel(), 1, 3, 3)
    first, second = (torch.stack([conv.kernel[i].weight for conv in convs]) for i in (0, 2))
    hidden = F.leaky_relu(z @ first.transpose(1, 2), SLOPE)                         # (N, B, C); no mT in ONNX
    return (hidden @ second.transpose(1, 2)).view(len(convs), -1, 1, 3, 3)


class Blocks(nn.Module):
    """A chain of blocks conditioned on z; a module of its own because published keys are `body.0.body.{i}`.

    recompute: gradient checkpointing: only the input of each block is kept, and the block, except for its last
    convolution, is recomputed in the backward pass; a sixth of the memory for a fifth more time.
    """
    recompute = True

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.body = nn.ModuleList(blocks)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, h, w), z (B, C) → (B, C, h, w)."""
        counts = [sum(isinstance(module, DynamicConv) for module in block.modules()) for block in self.body]
        convs = [module for module in self.modules() if isinstance(module, DynamicConv)]
        kernels = predict_kernels(convs, z).split(counts)                           # for each block (n, B·C, 1, 3, 3)
        for block, own in zip(self.body, kernels, strict=True):
            if torch.is_grad_enabled():
                # checkpoint() restores the random state, so that dropout is the same when a block is recomputed.
                x = (checkpoint(block, x, own, use_reentrant=False) if self.recompute
                     else block(x, own))                                            # (B, C, h, w)
            else:
                # `forward` bypasses the compiled block: PyTorch 2.14 fails for varying sizes, as of test images.
                x = block.forward(x, own)                                           # (B, C, h, w)
        return x


class SRNetwork(nn.Module):
    """The SR network of both families: a residual chain of `blocks` conditioned on z = compress(rep).

    blocks: modules (x (B, C, h, w), the kernels of their n dynamic convolutions (n, B·C, 1, 3, 3)) → (B, C, h, w), with
    C = n_feats; compress: module that maps the encoder's representation to z (B, C), None if it is z already;
    n_colors: 3 for RGB images, 1 for their luma.
    """

    def __init__(self, scale: int, n_feats: int, blocks: Iterable[nn.Module], rgb_range: int = 1,
                 compress: nn.Module | None = None, n_colors: int = 3) -> None:
        super().__init__()
        self.n_colors = n_colors
        self.sub_mean = MeanShift(rgb_range, -1, n_colors)
        self.add_mean = MeanShift(rgb_range, +1, n_colors)
        self.compress = compress or nn.Identity()
        self.head = nn.Sequential(ImageConv(n_colors, n_feats))
        self.body = nn.ModuleList([Blocks(blocks), conv3x3(n_feats, n_feats)])
        self.tail = Tail(n_feats, scale, n_colors)

    def forward(self, lq: Tensor, rep: Tensor) -> Tensor:
        """lq (B, 3, h, w), rep (B, R) → sr (B, 3, sh, sw)."""
        blocks, conv = self.body
        z = self.compress(rep)                  # (B, C)
        x = self.head(self.sub_mean(lq))        # (B, C, h, w)
        x = x.to(z.dtype)                       # rounded under autocast, else the whole chain would be float32
        y = conv(blocks(x, z)) + x              # (B, C, h, w)
        return self.add_mean(self.tail(y))      # (B, 3, sh, sw)


class BlindSR(nn.Module):
    """A degradation encoder and the SR network conditioned on it: the teacher or student of any family.

    The input of the teacher's encoder is a cue that needs the ground truth; that of the student's is `lq`.
    In published files the encoders are named `E` and `E_st`, and the SR network `G`.
    overlap: of tiles, see model.Family.
    """
    overlap: int | str | None = CONVOLUTIONS

    def __init__(self, encoder: nn.Module, sr_network: nn.Module, student: bool) -> None:
        super().__init__()
        self.student = student
        self.add_module('E_st' if student else 'E', encoder)
        self.G = sr_network

    @property
    def encoder(self) -> nn.Module:
        """E of a teacher, E_st of a student."""
        return self.E_st if self.student else self.E

    def forward(self, lq: Tensor, cue: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """lq (B, 3, h, w); cue (B, K, h, w), left out for a student → sr (B, 3, sh, sw), feature (B, F)."""
        rep, feature = self.encoder(lq if self.student else cue)   # (B, R), (B, F)
        return self.G(lq, rep), feature                            # (B, 3, sh, sw), (B, F)
