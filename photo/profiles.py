"""Conversion of colour profiles that a format cannot hold."""
import io

import numpy as np
from PIL import Image, ImageCms

from data.png import LONGEST


def fitted_profile(pixels: np.ndarray, icc: bytes | None, suffix: str,
                   notes: list[str]) -> tuple[np.ndarray, bytes | None]:
    """(pixels, profile) for a file with this suffix; changes are added to `notes`.

    PNG: a profile of more than a megabyte, which readers reject, is replaced by sRGB and the pixels (H, W, C) are
    converted, if Pillow can. WebP: a profile for gray is dropped.
    """
    if icc and suffix == '.webp' and pixels.shape[2] < 3:
        notes.append('dropped: a colour profile for gray, which WebP does not support')
        return pixels, None
    if not icc or suffix != '.png' or len(icc) < LONGEST:
        return pixels, icc
    size = f'a colour profile of {len(icc):,} bytes, too large for readers of PNG'
    try:
        if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
            raise ImageCms.PyCMSError('not 8-bit RGB')
        image = ImageCms.profileToProfile(Image.fromarray(pixels[:, :, :3]), io.BytesIO(icc),
                                          ImageCms.createProfile('sRGB'))
    except (ImageCms.PyCMSError, OSError):
        notes.append(f'dropped: {size}; --format tif keeps it')
        return pixels, None
    notes.append(f'converted to sRGB: {size}; --format tif keeps it')
    return np.concatenate([np.asarray(image), pixels[:, :, 3:]], axis=2), None
