"""The linear upsampling tail, features (C, h, w) → image (3, sh, sw): layer by layer, and fused into one convolution.

It contains no activation, so it is an affine map, here computed at the resolution of the features.

Support. The s x s pixels above one feature pixel are its block. The last convolution reaches one pixel out of a block;
for x4 the one before it, at half that resolution, one pixel more: in blocks, both together mean one. The first
convolution adds another. So an output block depends on 5x5 feature pixels, for s = 2, 3 and 4 alike, and

    sr = PixelShuffle(s)( K * x + b ),   K (3s², C, 5, 5)

Borders. Every convolution pads its own input with zeros, hence K sums the products of weights along all routes
output pixel → hidden pixels → feature pixel that stay inside the image at every level. Hidden levels are reached one
block out at most, so only blocks in the first or last row or column lack routes that the padding of x does not remove
already. That makes 3x3 classes, (first, middle, last row) x (first, middle, last column), each with its own K and b.
In a first or last row two of the five kernel rows lie outside the image and are cut off, 3 remain; columns alike.
An image of 3x3 blocks contains every class once: its output for x = 0 is b.

Fusing. Rows and columns of a route are independent, so 0/1 tables of one dimension, used for both, give the routes that
exist (`trace`), from the output backwards. PixelShuffle(r) follows a level's convolution, so the hidden pixels that an
output row reads group into blocks of r rows, one block per row of that convolution. The pixels it reads of one block, a
set of (tap, row in the block), recur at other output rows and in other classes: only the distinct sets, called
patterns, are multiplied with the weights, in one matrix product per level. For x4 there are 4² and then 12² of them;
computing all outputs of the nine classes would be ten times the work. At C = 128, x4, fusing takes 0.36 G
multiply-adds, applying K to 64x64 features 0.61 G, the separate layers 12.3 G.
"""
from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from utility import UserError, unrounded

SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2)}  # scale: the factors of its pixel shuffles
CUT = (3, 5, 3)  # kernel rows of the classes first, middle, last; columns alike


class Fused(NamedTuple):
    """The fused weights, by Tail.fuse: those of the nine classes, indexed [row class][column class]."""
    kernels: tuple  # of tensors (3s², C, 3 or 5, 3 or 5)
    biases: tuple  # of tensors (3s²,)


def trace(scale: int) -> list[Tensor]:
    """The routes of one dimension as 0/1 tables, from the output to the features.

    A table (patterns, patterns of the level before, 3 taps, r) a level: does a pattern read, at this row of its block,
    the pixel which that earlier pattern reads through that tap? Then one (s, 11, patterns, 3): does row 0..s-1 of an
    output block read, at this kernel row (3 first, 5 middle, 3 last), a feature through that tap of that pattern?
    """
    height, count, tables = 5 * scale, 1, []  # of five blocks, 0, 2 and 4 have class first, middle, last
    probes = [[(scale * block + p + tap - 1, 0, tap) for tap in range(3)] for block in (0, 2, 4) for p in range(scale)]
    for factor in reversed(SHUFFLES[scale]):
        patterns = {}  # what is read of one block, {(earlier pattern, tap, row in the block), ...}: its number
        for i, probe in enumerate(probes):
            blocks = defaultdict(set)
            for row, pattern, tap in probe:
                if 0 <= row < height:
                    blocks[row // factor].add((pattern, tap, row % factor))
            probes[i] = [(block + tap - 1, patterns.setdefault(frozenset(reads), len(patterns)), tap)
                         for block, reads in blocks.items() for tap in range(3)]
        table = torch.zeros(len(patterns), count, 3, factor)
        for reads, number in patterns.items():
            for read in reads:
                table[(number, *read)] = 1
        tables.append(table)
        height, count = height // factor, len(patterns)
    place = torch.zeros(scale, sum(CUT), count, 3)
    for i, probe in enumerate(probes):
        kind, p = divmod(i, scale)
        for row, pattern, tap in probe:
            if 0 <= row < height:
                place[p, 3 * kind + row, pattern, tap] = 1  # of the five rows, class first reads 0-2, last 2-4
    return [*tables, place]


def strips(x: Tensor) -> tuple[Tensor, ...]:
    """The outermost rows and columns of x (B, C, h, w): top, bottom (B, C, 3, w), left, right (B, C, h, 3)."""
    return x[:, :, :3], x[:, :, -3:], x[..., :3], x[..., -3:]


class Frame(torch.autograd.Function):
    """x and its three outermost rows and columns; the gradient of a plain slice would be a tensor of the size of x."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        """x (B, C, h, w) itself, then its strips()."""
        return (x.view_as(x), *(strip.contiguous() for strip in strips(x)))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
        """Saves nothing, but torch.func's transforms require the method."""

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, *edges: Tensor) -> Tensor:
        """The gradients of x and of its strips, added up."""
        grad = grad.clone()  # autograd may still use its argument
        for strip, edge in zip(strips(grad), edges, strict=True):
            strip += edge
        return grad


def convolve(fused: Fused, scale: int, x: Tensor, top: Tensor, bottom: Tensor, left: Tensor,
             right: Tensor) -> Tensor:
    """x (B, C, h, w), its strips (B, C, 3, w) twice and (B, C, h, 3) twice → (B, n_colors, sh, sw)."""
    parts = ((top[..., :3], top, top[..., -3:]), (left, x, right), (bottom[..., :3], bottom, bottom[..., -3:]))
    rows = [torch.cat([F.conv2d(parts[i][j], fused.kernels[i][j], fused.biases[i][j], padding=(i % 2, j % 2))
                       for j in range(3)], 3) for i in range(3)]  # (B, 3s², 1 or h - 2, w)
    return F.pixel_shuffle(torch.cat(rows, 2), scale)


class Tail(nn.Sequential):
    """Upsampler and last convolution: `0.0` conv, PixelShuffle (x4: once more from `0.2`), `1` conv C→n_colors.

    `tail(x)` fuses and applies, with gradients for x and the weights. Frozen weights are fused once and cached;
    `tail(x, tail.cached())` treats all weights as frozen. Raises UserError for a scale other than 2, 3, 4.
    """

    def __init__(self, n_feats: int, scale: int, n_colors: int = 3) -> None:
        if scale not in SHUFFLES:
            raise UserError(f'--scale {scale}: not supported; choose 2, 3 or 4')
        layers = []
        for factor in SHUFFLES[scale]:
            layers += [nn.Conv2d(n_feats, n_feats * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(nn.Sequential(*layers), nn.Conv2d(n_feats, n_colors, 3, padding=1))
        self.scale = scale
        self._cache = None  # (result of cached(), versions of the weights, weights)
        for i, table in enumerate(trace(scale)):
            self.register_buffer(f'table{i}', table, persistent=False)

    def plain(self, x: Tensor) -> Tensor:
        """The separate layers: (B, C, h, w) → (B, n_colors, sh, sw)."""
        return super().forward(x)

    def fuse(self) -> Fused:
        """The current weights as a Fused, differentiable; under torch.no_grad() a constant.

        Without autocast: rounding the weights only once gives smaller errors than the separate layers.
        """
        *tables, place = self.buffers(recurse=False)
        with unrounded(place.device):
            routes = self[1].weight[:, None, None]  # (n_colors, 1, 1, C, 3, 3): first one pattern, an output pixel
            for table, conv in zip(tables, reversed(list(self[0])[::2]), strict=True):
                reads = torch.einsum('oklcyx,mkyq,nlxr->omncqr', routes, table, table).flatten(3)  # its r²C pixels
                routes = (reads @ conv.weight.flatten(1)).unflatten(3, (-1, 3, 3))
            kernel = torch.einsum('oklcyx,pzky,qwlx->opqczw', routes, place, place).flatten(0, 2)  # (3s², C, 11, 11)
            bias = F.pixel_unshuffle(self.plain(kernel.new_zeros(1, kernel.shape[1], 3, 3)), self.scale)[0]
        return Fused(tuple(rows.split(CUT, 3) for rows in kernel.split(CUT, 2)),
                     tuple(rows.unbind(1) for rows in bias.unbind(1)))

    def cached(self) -> Fused:
        """fuse() without a graph, cached until a weight changes."""
        weights = self._weights()
        stamp = [(id(weight), weight._version, weight.data_ptr()) for weight in weights]
        if self._cache is None or self._cache[1] != stamp:
            # The result must be usable in any mode. The weights are kept so that their ids are not reused.
            with torch.inference_mode(False), torch.no_grad():
                self._cache = self.fuse(), stamp, weights
        return self._cache[0]

    def _weights(self):
        return [getattr(conv, name) for conv in (*self[0][::2], self[1]) for name in ('weight', 'bias')]

    def forward(self, x: Tensor, fused: Fused | None = None) -> Tensor:
        """Equals plain(x), but faster: (B, C, h, w) → (B, n_colors, sh, sw). `fused`: a result of cached()."""
        if min(x.shape[-2:]) < 3:
            return self.plain(x)  # the strips below need three rows and columns
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self._weights())
        fused = fused or (self.fuse() if trained else self.cached())
        if torch.is_grad_enabled():
            return convolve(fused, self.scale, *Frame.apply(x))
        with unrounded(x.device):  # the result is the image: rounding would cost up to a level of 8 bits
            return convolve(fused, self.scale, *Frame.apply(x.to(fused.biases[1][1].dtype)))
