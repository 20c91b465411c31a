"""A direct, unoptimised implementation of the method, which the project's must equal in results.

Adaptation trains a copy of the network; blur uses all taps of its kernel; every layer (reference/networks.py) runs in
PyTorch's default memory format. State dicts are interchangeable. The project imports nothing from here.
"""
import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Degrade = Callable[[Tensor], tuple[Tensor, Tensor]]       # hr → lq, up
Cue = Callable[[Tensor, Tensor, Tensor], Tensor]          # lq, up, hr → input of the teacher's encoder


def adapted(mln: nn.Module, lq: Tensor, up: Tensor, hr: Tensor, rates: Sequence[float],
            freeze_tail: bool = False) -> nn.Module:
    """A copy of mln after one SGD step on L1 for each of `rates`; stage 4 freezes the tail."""
    net = copy.deepcopy(mln).requires_grad_(True)
    net.tail.requires_grad_(not freeze_tail)
    for rate in rates:
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=rate)
        optimizer.zero_grad()
        F.l1_loss(net(lq, up)[0], hr).backward()
        optimizer.step()
    return net


def stage1(mln: nn.Module, hr: Tensor, degrade: Degrade) -> Tensor:
    """Computes the gradient of one step in .grad of the trained network; returns the scalar loss. hr (B, 3, H, W)."""
    lq, up = degrade(hr)
    loss = F.l1_loss(mln(lq, up)[0], hr)
    loss.backward()
    return loss.detach()


def stage2(mln: nn.Module, hr: Tensor, degrade: Degrade, n_tasks: int, rates: Sequence[float]) -> Tensor:
    """First-order MAML: the outer gradient is computed on a copy with the adapted weights."""
    total, half = 0, len(hr) // 2
    for _ in range(n_tasks):
        lq, up = degrade(hr)
        net = adapted(mln, lq[:half], up[:half], hr[:half], rates)
        net.zero_grad()
        loss = F.l1_loss(net(lq[half:], up[half:])[0], hr[half:]) / n_tasks
        loss.backward()
        for weight, copied in zip(mln.parameters(), net.parameters(), strict=True):
            weight.grad = copied.grad if weight.grad is None else weight.grad + copied.grad
        total += loss.detach()
    return total


def stage3(teacher: nn.Module, cue: Cue, hr: Tensor, degrade: Degrade) -> Tensor:
    """The teacher is trained with the cue as the input of its encoder."""
    lq, up = degrade(hr)
    loss = F.l1_loss(teacher(lq, cue(lq, up, hr))[0], hr)
    loss.backward()
    return loss.detach()


def stage4(student: nn.Module, teacher: nn.Module, cue: Cue, hr: Tensor, degrade: Degrade, encoder_only: bool = False,
           temperature: float = 0.15, feature_l1: float = 0.1) -> Tensor:
    """The student is distilled from the teacher: its encoder only, or all of it."""
    lq, up = degrade(hr)
    with torch.no_grad():
        _, target = teacher(lq, cue(lq, up, hr))
    sr, feature = student(lq, lq)
    loss = F.kl_div(F.log_softmax(feature / temperature, 1), F.softmax(target / temperature, 1),
                    reduction='batchmean') + feature_l1 * F.l1_loss(feature, target)
    if not encoder_only:
        loss = loss + F.l1_loss(sr, hr)
    loss.backward()
    return loss.detach()


def adapted_features(mln: nn.Module, rates: Sequence[float], freeze_tail: bool) -> Cue:
    """The cue of MRDA's teacher: features of the MLN adapted to the pair."""
    def cue(lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        with torch.enable_grad():
            net = adapted(mln, lq, up, hr, rates, freeze_tail)
        with torch.no_grad():
            return net(lq, up)[1]                                   # (B, C, h, w)
    return cue


def pair_cue(scale: int) -> Cue:
    """The cue of KDSR's teacher: lq and the pixel-unshuffled hr."""
    return lambda lq, up, hr: torch.cat([lq, F.pixel_unshuffle(hr, scale)], 1)          # (B, 3 + 3s², h, w)


def gaussian(lambda_1: float, lambda_2: float, theta: float, size: int = 21) -> Tensor:
    """A Gaussian kernel (1, size, size), sum 1; lambda_1, lambda_2: standard deviations in pixels; theta in radians."""
    sigma = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]], dtype=torch.double)
    sigma = sigma @ torch.diag(torch.tensor([lambda_1**2, lambda_2**2], dtype=torch.double)) @ sigma.T
    axis = torch.arange(size, dtype=torch.double) - (size - 1) / 2
    p = torch.stack(torch.meshgrid(axis, axis, indexing='xy'), -1)  # (size, size, 2): column, row offset
    weights = torch.exp(-0.5 * torch.einsum('yxi,ij,yxj->yx', p, torch.linalg.inv(sigma), p))
    return (weights / weights.sum())[None]


def correlate(image: Tensor, kernels: Tensor) -> Tensor:
    """image (B, C, H, W) with kernels (n, k, k), n = 1 or B, all k² taps, without padding."""
    (b, c, h, w), k = image.shape, kernels.shape[-1]
    weights = kernels.to(image).expand(b, k, k).repeat_interleave(c, 0)[:, None]     # (B·C, 1, k, k)
    return F.conv2d(image.reshape(1, b * c, h, w), weights, groups=b * c).view(b, c, h - k + 1, w - k + 1)


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """The same, reflecting at the borders: (B, C, H, W) → (B, C, H, W)."""
    return correlate(F.pad(image, (kernels.shape[-1] // 2,) * 4, mode='reflect'), kernels)


def resize(image: Tensor, factor: float) -> Tensor:
    """MATLAB's bicubic along both axes, image (B, C, H, W): every output pixel gathers its taps; antialiased if
    factor < 1."""
    stretch = max(1, 1 / factor)
    for dim in (2, 3):
        size = image.shape[dim]
        centre = (torch.arange(round(size * factor), dtype=torch.double) + 0.5) / factor - 0.5
        taps = (centre - 2 * stretch).floor()[:, None] + torch.arange(math.ceil(4 * stretch) + 2)
        x = ((centre[:, None] - taps) / stretch).abs()
        weights = torch.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x < 2)
        weights = (weights / weights.sum(1, keepdim=True)).to(image)                 # (out, taps)
        index = taps.long().clamp(0, size - 1).to(image.device)
        gathered = image.transpose(dim, 3)[..., index]                               # (B, C, other, out, taps)
        image = (gathered * weights).sum(-1).transpose(dim, 3)
    return image


def degrade(hr: Tensor, scale: int, kernel: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """hr (B, 3, H, W) in [0, 1] → lq (B, 3, H/s, W/s), up (B, 3, H, W), 8-bit."""
    lq = resize(hr if kernel is None else blur(hr, kernel), 1 / scale)
    return tuple((image * 255).round().clamp(0, 255) / 255 for image in (lq, resize(lq, scale)))
