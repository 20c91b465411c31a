"""Dynamic convolutions of both families on GPUs, as Triton kernels: one pass forward, two backward.

With x (B, C, h, w), the kernels k predicted from z, the LeakyReLU l and the sigmoid s,

    d = k * x,    y = l(x + s(weight . x + bias) l(d)) in RDAN, y = l(d) in KDSR.

A program goes down a strip of ROWS rows of a few pixels, with all channels. It reads each row once, at three shifts,
while the row before is computed, and adds it to the three rows of d that need it; neighbouring strips both read the two
rows and columns at their border. All arithmetic is in float32. The backward pass computes everything but x anew, so
nothing else is kept; its sums over pixels do not depend on the order in which programs run.
"""
import subprocess
import warnings
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

ROWS = 32  # of a strip
ROW = 512  # elements of one of its rows: pixels times channels
WARPS = 4


@triton.jit
def _leaky(value, SLOPE: tl.constexpr):
    """LeakyReLU."""
    return tl.where(value > 0, value, value * SLOPE)


@triton.jit
def _strip(h, w, ROWS: tl.constexpr, PIXELS: tl.constexpr, C: tl.constexpr):
    """Where this program works: the first element of its image, its first row, its columns (PIXELS,)."""
    across = tl.cdiv(w, PIXELS)
    strips = tl.cdiv(h, ROWS) * across
    image, number = tl.program_id(0) // strips, tl.program_id(0) % strips
    return image.to(tl.int64) * h * w * C, number // across * ROWS, number % across * PIXELS + tl.arange(0, PIXELS)


@triton.jit
def _places(row, column, channel, h, w, wanted, C: tl.constexpr):
    """Offsets (PIXELS, CHANNELS) in an image (h, w, C), and which of them are wanted and inside it."""
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h) & wanted
    return ((row * w + column) * C)[:, None] + channel[None, :], inside[:, None] & (channel < C)[None, :]


@triton.jit
def _read(image, row, column, channel, h, w, wanted, C: tl.constexpr):
    """Values (PIXELS, CHANNELS) of an image (h, w, C), 0 where they are not wanted or outside of it."""
    offsets, inside = _places(row, column, channel, h, w, wanted, C)
    return tl.load(image + offsets, mask=inside, other=0.0)


@triton.jit
def _read_three(image, row, column, channel, h, w, C: tl.constexpr):
    """The row, and shifted by a pixel to both sides."""
    return (_read(image, row, column - 1, channel, h, w, True, C), _read(image, row, column, channel, h, w, True, C),
            _read(image, row, column + 1, channel, h, w, True, C))


@triton.jit
def _float32(left, middle, right):
    """The three in float32."""
    return left.to(tl.float32), middle.to(tl.float32), right.to(tl.float32)


@triton.jit
def _write(image, values, row, column, channel, h, w, wanted, C: tl.constexpr):
    """The inverse of _read(), rounded to the dtype of the image."""
    offsets, inside = _places(row, column, channel, h, w, wanted, C)
    tl.store(image + offsets, values.to(image.dtype.element_ty), mask=inside)


@triton.jit
def _channels(pointer, channel, C: tl.constexpr):
    """Values (1, CHANNELS) in float32."""
    return tl.load(pointer + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _taps(kernel, channel, C: tl.constexpr):
    """One row of a kernel (3, 3, C)."""
    return _channels(kernel, channel, C), _channels(kernel + C, channel, C), _channels(kernel + 2 * C, channel, C)


@triton.jit
def _forward_kernel(x, kernel, weight, bias, y, h, w, C: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
                    PIXELS: tl.constexpr, MASK: tl.constexpr, SLOPE: tl.constexpr):
    """y (B, h, w, C) from x and kernel (B, 3, 3, C)."""
    start, first, column = _strip(h, w, ROWS, PIXELS, C)
    x, y, kernel = x + start, y + start, kernel + start // (h * w) * 9
    channel = tl.arange(0, CHANNELS)
    a0, a1, a2 = _taps(kernel, channel, C)
    b0, b1, b2 = _taps(kernel + 3 * C, channel, C)
    c0, c1, c2 = _taps(kernel + 6 * C, channel, C)
    if MASK:
        factor, shift = _channels(weight, channel, C), tl.load(bias).to(tl.float32)
    own = tl.zeros([PIXELS, CHANNELS], tl.float32)
    above, here = own, own                      # d of the row before and of this row, so far
    next0, next1, next2 = _read_three(x, first - 1, column, channel, h, w, C)
    for i in range(ROWS + 2):
        row = first + i - 1
        left, middle, right = _float32(next0, next1, next2)
        next0, next1, next2 = _read_three(x, row + 1, column, channel, h, w, C)
        value = _leaky(above + left * c0 + middle * c1 + right * c2, SLOPE)
        if MASK:
            value = _leaky(own + value * tl.sigmoid(tl.sum(own * factor, 1) + shift)[:, None], SLOPE)
        _write(y, value, row - 1, column, channel, h, w, i > 1, C)
        above = here + left * b0 + middle * b1 + right * b2
        here = left * a0 + middle * a1 + right * a2
        own = middle


@triton.jit
def _backward_values(x, kernel, weight, bias, grad, grad_d, grad_x, grad_mask, h, w, C: tl.constexpr,
                     CHANNELS: tl.constexpr, ROWS: tl.constexpr, PIXELS: tl.constexpr, MASK: tl.constexpr,
                     SLOPE: tl.constexpr):
    """grad_d and, except for what comes through d, grad_x (B, h, w, C), from grad, that of y; grad_mask
    (programs, C + 1): of the mask's weight and bias."""
    start, first, column = _strip(h, w, ROWS, PIXELS, C)
    x, grad, kernel = x + start, grad + start, kernel + start // (h * w) * 9
    grad_d, grad_x = grad_d + start, grad_x + start
    channel = tl.arange(0, CHANNELS)
    a0, a1, a2 = _taps(kernel, channel, C)
    b0, b1, b2 = _taps(kernel + 3 * C, channel, C)
    c0, c1, c2 = _taps(kernel + 6 * C, channel, C)
    own = tl.zeros([PIXELS, CHANNELS], tl.float32)
    above, here = own, own
    if MASK:
        factor, shift = _channels(weight, channel, C), tl.load(bias).to(tl.float32)
        sums, count = own, tl.zeros([PIXELS], tl.float32)
    next0, next1, next2 = _read_three(x, first - 1, column, channel, h, w, C)
    after = _read(grad, first - 2, column, channel, h, w, False, C)
    for i in range(ROWS + 2):
        row = first + i - 1
        left, middle, right = _float32(next0, next1, next2)
        g = after.to(tl.float32)
        next0, next1, next2 = _read_three(x, row + 1, column, channel, h, w, C)
        after = _read(grad, row, column, channel, h, w, i > 0, C)
        d = above + left * c0 + middle * c1 + right * c2
        if MASK:
            value, m = _leaky(d, SLOPE), tl.sigmoid(tl.sum(own * factor, 1) + shift)
            g = tl.where(own + value * m[:, None] > 0, g, g * SLOPE)
            through = tl.sum(g * value, 1) * m * (1 - m)
            _write(grad_x, g + through[:, None] * factor, row - 1, column, channel, h, w, i > 1, C)
            sums += through[:, None] * own
            count += through
            g = g * m[:, None]
        _write(grad_d, tl.where(d > 0, g, g * SLOPE), row - 1, column, channel, h, w, i > 1, C)
        above = here + left * b0 + middle * b1 + right * b2
        here = left * a0 + middle * a1 + right * a2
        own = middle
    if MASK:
        place = grad_mask + tl.program_id(0) * (C + 1)
        tl.store(place + channel, tl.sum(sums, 0), mask=channel < C)
        tl.store(place + C, tl.sum(count, 0))


@triton.jit
def _write_sum(pointer, values, channel, C: tl.constexpr):
    """The sum of values (PIXELS, CHANNELS) over pixels."""
    tl.store(pointer + channel, tl.sum(values, 0), mask=channel < C)


@triton.jit
def _backward_convolution(x, kernel, grad_d, grad_x, grad_kernel, h, w, C: tl.constexpr, CHANNELS: tl.constexpr,
                          ROWS: tl.constexpr, PIXELS: tl.constexpr, MASK: tl.constexpr):
    """Adds to grad_x what comes through d, without a mask all; grad_kernel (programs, 3, 3, C)."""
    start, first, column = _strip(h, w, ROWS, PIXELS, C)
    x, grad_d, grad_x, kernel = x + start, grad_d + start, grad_x + start, kernel + start // (h * w) * 9
    channel = tl.arange(0, CHANNELS)
    a0, a1, a2 = _taps(kernel, channel, C)
    b0, b1, b2 = _taps(kernel + 3 * C, channel, C)
    c0, c1, c2 = _taps(kernel + 6 * C, channel, C)
    own = tl.zeros([PIXELS, CHANNELS], tl.float32)
    above, here = own, own                      # grad_x of the row before and of this row, so far
    before = tl.zeros([PIXELS, CHANNELS], tl.float32)  # not `own`: Triton would take it for a constant of the loop
    p0, p1, p2, q0, q1, q2, r0, r1, r2 = own, own, own, own, own, own, own, own, own
    next0, next1, next2 = _read_three(grad_d, first - 1, column, channel, h, w, C)
    next_x = _read(x, first, column, channel, h, w, True, C)
    for i in range(ROWS + 2):
        row = first + i - 1
        left, middle, right = _float32(next0, next1, next2)
        after = next_x.to(tl.float32)
        next0, next1, next2 = _read_three(grad_d, row + 1, column, channel, h, w, C)
        next_x = _read(x, row + 2, column, channel, h, w, i < ROWS - 1, C)
        total = above + right * a0 + middle * a1 + left * a2
        if MASK:
            total += _read(grad_x, row - 1, column, channel, h, w, i > 1, C).to(tl.float32)
        _write(grad_x, total, row - 1, column, channel, h, w, i > 1, C)
        p0 += right * before
        p1 += middle * before
        p2 += left * before
        q0 += right * own
        q1 += middle * own
        q2 += left * own
        r0 += right * after
        r1 += middle * after
        r2 += left * after
        above = here + right * b0 + middle * b1 + left * b2
        here = right * c0 + middle * c1 + left * c2
        before, own = own, after
    place = grad_kernel + tl.program_id(0) * 9 * C
    _write_sum(place, p0, channel, C)
    _write_sum(place + C, p1, channel, C)
    _write_sum(place + 2 * C, p2, channel, C)
    _write_sum(place + 3 * C, q0, channel, C)
    _write_sum(place + 4 * C, q1, channel, C)
    _write_sum(place + 5 * C, q2, channel, C)
    _write_sum(place + 6 * C, r0, channel, C)
    _write_sum(place + 7 * C, r1, channel, C)
    _write_sum(place + 8 * C, r2, channel, C)


def programs(x: Tensor) -> tuple[int, dict[str, int]]:
    """The number of programs for an image of x, and their sizes."""
    c, h, w = x.shape[1:]
    channels = triton.next_power_of_2(c)
    pixels = max(ROW // channels, 1)
    return triton.cdiv(h, ROWS) * triton.cdiv(w, pixels), {'C': c, 'CHANNELS': channels, 'ROWS': ROWS, 'PIXELS': pixels}


class DynamicConvolution(torch.autograd.Function):
    """dynamic_convolution() on the current device."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, kernel: Tensor, slope: float, weight: Tensor | None,
                bias: Tensor | None) -> Tensor:
        """As dynamic_convolution()."""
        x = x.contiguous(memory_format=torch.channels_last)
        b, c, h, w = x.shape
        factors = kernel.view(b, c, 9).transpose(1, 2).contiguous()                     # (B, 9, C)
        masked, mask = weight is not None, (factors, factors) if weight is None else (weight, bias)
        number, sizes = programs(x)
        y = torch.empty_like(x)                                                         # (B, C, h, w)
        _forward_kernel[(b * number,)](x, factors, *mask, y, h, w, **sizes, MASK=masked, SLOPE=slope, num_warps=WARPS)
        ctx.save_for_backward(x, factors, weight, bias)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, C, h, w) → the gradients of forward's arguments."""
        x, factors, weight, bias = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        b, c, h, w = x.shape
        masked, mask = weight is not None, (factors, factors) if weight is None else (weight, bias)
        number, sizes = programs(x)
        grad_d, grad_x = torch.empty_like(x), torch.empty_like(x)                       # (B, C, h, w)
        sums = x.new_empty(b * number, c + 1, dtype=torch.float32)
        _backward_values[(b * number,)](x, factors, *mask, grad, grad_d, grad_x, sums, h, w, **sizes, MASK=masked,
                                        SLOPE=ctx.slope, num_warps=WARPS)
        partial = x.new_empty(b, number, 9, c, dtype=torch.float32)
        _backward_convolution[(b * number,)](x, factors, grad_d, grad_x, partial, h, w, **sizes, MASK=masked,
                                             num_warps=WARPS)
        grad_kernel = partial.sum(1).transpose(1, 2).reshape(b * c, 1, 3, 3).to(factors.dtype)
        if not masked:
            return grad_x, grad_kernel, None, None, None
        total = sums.sum(0)                                                             # (C + 1,)
        return grad_x, grad_kernel, None, total[:c].view_as(weight).to(weight.dtype), total[c:].to(bias.dtype)


def dynamic_convolution(x: Tensor, kernel: Tensor, slope: float, weight: Tensor | None = None,
                        bias: Tensor | None = None) -> Tensor:
    """x (B, C, h, w) on a GPU, kernel (B·C, 1, 3, 3); weight (1, C, 1, 1) and bias (1,) of the mask, if there is one
    → y (B, C, h, w) in channels-last memory."""
    if torch.compiler.is_compiling():
        return DynamicConvolution.apply(x, kernel, slope, weight, bias)
    with torch.cuda.device(x.device):  # Triton starts kernels on the current one
        return DynamicConvolution.apply(x, kernel, slope, weight, bias)


@cache
def works(device: torch.device) -> bool:
    """Whether Triton compiles these kernels: it needs a V100 or newer, a C compiler and a folder for its cache. Warns
    once if it does not."""
    if torch.cuda.get_device_capability(device) < (7, 0):
        return False
    x = torch.zeros(1, 1, 3, 3, device=device)
    try:
        dynamic_convolution(x, x, 0.0)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f'dynamic convolutions are computed without Triton, which takes longer: {reason}', stacklevel=2)
        return False
    return True
