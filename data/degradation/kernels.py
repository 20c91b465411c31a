"""Blur kernels: p is the offset (column, row) from the centre, each kernel sums to 1."""
import torch

from data.degradation.resize import exact

SHARP = 1e-3  # pixels: a Gaussian this narrow is exactly one pixel, so no blur needs no case of its own


def gaussian(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, size: int) -> torch.Tensor:
    """Gaussian kernels exp(-p^T Sigma^-1 p / 2), Sigma = U diag(lambda_1^2, lambda_2^2) U^T, U the rotation by theta.

    lambda_1, lambda_2: standard deviations in pixels, (n,); theta: radians, (n,). → (n, size, size), float64.
    """
    weights = torch.exp(-squared_distance(lambda_1, lambda_2, theta, size) / 2)
    return weights / weights.sum((-2, -1), keepdim=True)


def squared_distance(lambda_1: torch.Tensor, lambda_2: torch.Tensor, theta: torch.Tensor, size: int) -> torch.Tensor:
    """p^T Sigma^-1 p of every pixel of a kernel: (n, size, size), float64; arguments as of gaussian()."""
    values = torch.stack([lambda_1, lambda_2, theta])
    lambda_1, lambda_2, theta = values.to(exact(values.device))[:, :, None, None]   # (n, 1, 1) each
    x = torch.arange(size, device=theta.device, dtype=theta.dtype) - (size - 1) / 2
    y = x[:, None]
    along = (x * theta.cos() + y * theta.sin()) / lambda_1.clamp(min=SHARP)         # (n, size, size)
    across = (y * theta.cos() - x * theta.sin()) / lambda_2.clamp(min=SHARP)
    return along ** 2 + across ** 2
