"""Colours of photos: clear pixels, gray photos, areas of a single colour."""
import cv2
import numpy as np
import torch
from torch import Tensor

ROWS = 1024  # rows that are processed together
MARGIN = 64  # rows around them: more than the overlap of tiles


def is_gray(array: np.ndarray, tolerance: int = 0) -> bool:
    """Whether the three channels of (H, W, 3) differ by at most `tolerance` everywhere."""
    if tolerance:
        return all(int(np.ptp(array[top:top + ROWS].astype(np.int32), axis=2).max()) <= tolerance
                   for top in range(0, len(array), ROWS))
    return all(np.array_equal(part[..., 0], part[..., 1]) and np.array_equal(part[..., 0], part[..., 2])
               for part in (array[top:top + ROWS] for top in range(0, len(array), ROWS)))


def is_flat(array: np.ndarray) -> bool:
    """Whether all pixels of (H, W, C) are equal."""
    return all((array[top:top + ROWS] == array[0, 0]).all() for top in range(0, len(array), ROWS))


def spread(array: np.ndarray) -> np.ndarray:
    """(H, W, C) with alpha as the last channel → the same with the colour of the nearest visible pixel in clear ones.

    Otherwise the colour of clear pixels, often black, would be mixed into visible edges. Clear pixels without a visible
    one within MARGIN rows get the mean colour of all visible pixels.
    """
    visible = array[:, :, -1] > 0
    if visible.all() or not visible.any():
        return array
    result = array.copy()
    mean = np.array([array[:, :, channel].mean(where=visible) for channel in range(array.shape[2] - 1)])
    mean = mean if array.dtype.kind == 'f' else np.rint(mean)
    for top in range(0, len(array), ROWS):
        first, bottom = max(0, top - MARGIN), min(len(array), top + ROWS)
        part, clear = array[first:bottom + MARGIN], ~visible[first:bottom + MARGIN]
        if clear.all():
            result[top:bottom, :, :-1] = mean
            continue
        _, labels = cv2.distanceTransformWithLabels(clear.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5,
                                                    labelType=cv2.DIST_LABEL_PIXEL)       # (H', W) int32
        colours = np.empty((int(labels.max()) + 1, array.shape[2] - 1), array.dtype)
        colours[labels[~clear]] = part[~clear][:, :-1]
        own = slice(top - first, bottom - first)
        result[top:bottom][clear[own], :-1] = colours[labels[own][clear[own]]]
    return result


def keep_plain(sr: Tensor, lq: Tensor) -> Tensor:
    """sr (B, 3, sh, sw), made gray if lq (B, 3, h, w) is gray, and of a single colour if lq is."""
    gray = (lq - lq[:, :1]).abs().amax((1, 2, 3), keepdim=True) == 0                           # (B, 1, 1, 1)
    flat = (lq - lq[:, :, :1, :1]).abs().amax((1, 2, 3), keepdim=True) == 0                    # (B, 1, 1, 1)
    return torch.where(flat, lq[:, :, :1, :1], torch.where(gray, sr.mean(1, keepdim=True), sr))
