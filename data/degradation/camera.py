"""Degradations by cameras and the web: resizing to any size, photon noise, clipping, JPEG."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from data.degradation.step import Context, Step, Value, text
from utility import send

LUMA = (0.2989, 0.587, 0.114)  # of R, G and B


@dataclass(frozen=True)
class Resize(Step, name='resize'):
    """Resizing to `factor` times the size of the pipeline's hr, at least one pixel, without antialiasing.

    mode: area, bilinear or bicubic, as of torch.nn.functional.interpolate.
    """
    factor: float
    mode: str

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        size = [max(1, round(side * self.factor)) for side in (context.height, context.width)]
        if size == list(image.shape[-2:]):
            return image
        return F.interpolate(image, size, mode=self.mode)

    def __str__(self) -> str:
        return f'{self.mode} {text(float(self.factor))}'


@dataclass(frozen=True)
class PoissonNoise(Step, name='poisson'):
    """Photon noise: (Poisson(x v) / v - x) scale, x the image on 8 bits, v = 2^ceil(log2(its number of levels)).

    scale: its strength. gray: sampled on the luma, the same for all channels.
    """
    per_image = True
    scale: Value
    gray: bool = False

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        generator = context.source()
        unit = image / context.rgb_range
        if self.gray and image.shape[1] > 1:
            unit = (unit * send(torch.tensor(LUMA, dtype=unit.dtype), unit.device)[:, None, None]).sum(1, keepdim=True)
        levels = (unit * 255).round().clamp(0, 255)
        present = torch.zeros(len(image), 256, device=image.device).scatter_(1, levels.flatten(1).long(), 1)
        peak = torch.exp2(present.sum(1).log2().ceil())[:, None, None, None]         # (B, 1, 1, 1)
        clean = levels / 255
        drawn = torch.poisson((clean * peak).to(generator.device, torch.float32), generator=generator).to(image)
        scale = self.scale[:, None, None, None] if isinstance(self.scale, torch.Tensor) else self.scale
        return image + (drawn / peak - clean) * (scale * context.rgb_range)

    def __str__(self) -> str:
        return f'poisson {text(self.to_dict()["scale"])}' + ' gray' * self.gray


@dataclass(frozen=True)
class Clamp(Step, name='clamp'):
    """Clipping to the data range, as by a sensor."""
    per_image = True

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        return image.clamp(0, context.rgb_range)

    def __str__(self) -> str:
        return ''


@dataclass(frozen=True)
class JPEG(Step, name='jpeg'):
    """JPEG compression by libjpeg with 4:2:0 chroma subsampling, on the CPU. quality: 1-100."""
    quality: Value

    def __call__(self, image: torch.Tensor, context: Context) -> torch.Tensor:
        levels = (image * (255 / context.rgb_range)).round().clamp(0, 255).byte()
        decoded = [_through_jpeg(each, round(self.quality)) for each in levels.movedim(1, 3).cpu().numpy()]
        return torch.from_numpy(np.stack(decoded)).movedim(3, 1).contiguous().to(image) * (context.rgb_range / 255)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, C), C 1 or 3 → the same, encoded and decoded."""
    _, file = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])  # OpenCV has BGR
    return np.atleast_3d(cv2.imdecode(file, cv2.IMREAD_UNCHANGED))[:, :, ::-1]
