"""Blur kernels with sum 1; p is the offset (column, row) from the centre."""
import math

import torch

from data.degradation.resize import exact

SHARP = 1e-3  # pixels: a Gaussian this narrow is exactly one pixel, so sigma 0 needs no special case


def gaussian(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, size: int) -> torch.Tensor:
    """Gaussian kernels exp(-p^T Sigma^-1 p / 2), Sigma = U diag(lambda_1^2, lambda_2^2) U^T, U the rotation by theta.

    lambda_1, lambda_2: standard deviations in pixels, (n,); theta: radians, (n,). → (n, size, size), float64.
    """
    return _normalised(torch.exp(-squared_distance(lambda_1, lambda_2, theta, size) / 2))


def squared_distance(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, size: int) -> torch.Tensor:
    """p^T Sigma^-1 p of every pixel of a kernel: (n, size, size), float64; arguments: as of gaussian()."""
    values = torch.stack([lambda_1, lambda_2, theta])
    lambda_1, lambda_2, theta = values.to(exact(values.device))[:, :, None, None]   # (n, 1, 1) each
    x = torch.arange(size, device=theta.device, dtype=theta.dtype) - (size - 1) / 2
    y = x[:, None]
    along = (x * theta.cos() + y * theta.sin()) / lambda_1.clamp(min=SHARP)         # (n, size, size)
    across = (y * theta.cos() - x * theta.sin()) / lambda_2.clamp(min=SHARP)
    return along ** 2 + across ** 2


def generalised(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, beta: torch.Tensor,
                size: int) -> torch.Tensor:
    """exp(-q^beta / 2), q = squared_distance(); (n,) each → (n, size, size)."""
    q = squared_distance(lambda_1, lambda_2, theta, size)
    return _normalised(torch.exp(-q ** beta.to(q)[:, None, None] / 2))


def plateau(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, beta: torch.Tensor,
            size: int) -> torch.Tensor:
    """1 / (1 + q^beta), q = squared_distance(); (n,) each → (n, size, size)."""
    q = squared_distance(lambda_1, lambda_2, theta, size)
    return _normalised(1 / (1 + q ** beta.to(q)[:, None, None]))


def sinc(cutoff: torch.Tensor, size: int) -> torch.Tensor:
    """w J1(w r) / (2 pi r) with w = cutoff in radians per pixel, J1 the Bessel function: (n,) → (n, size, size)."""
    cutoff = cutoff.to(exact(cutoff.device))[:, None, None]                         # (n, 1, 1)
    x = torch.arange(size, device=cutoff.device, dtype=cutoff.dtype) - (size - 1) / 2
    r = torch.hypot(x, x[:, None])                                                  # (size, size)
    centre = r == 0
    weights = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r.masked_fill(centre, 1))
    return _normalised(torch.where(centre, cutoff ** 2 / (4 * math.pi), weights))


def _normalised(weights):
    return weights / weights.sum((-2, -1), keepdim=True)
