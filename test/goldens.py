"""Weights and inputs determined by their names; test/golden/ holds the outputs of the public code for them."""
import json
import lzma
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parent / 'golden'
TOLERANCE = 1e-4  # relative to the array's largest magnitude
THIN = 5  # shares no factor with the scales: what is left of an image holds every position of a pixel shuffle


def load(name):
    """All arrays of test/golden/<name>.npz as tensors."""
    with np.load(FOLDER / f'{name}.npz') as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def keys():
    """{network: {key: shape}} of the public code's state dicts."""
    return json.loads(lzma.decompress((FOLDER / 'keys.json.xz').read_bytes()))


def thinned(images):
    """What the goldens hold of images (..., H, W): every THIN-th row and column."""
    return images[..., ::THIN, ::THIN]


def state(key):
    return np.random.RandomState(zlib.crc32(key.encode()))


def noise(key, shape):
    return torch.from_numpy(state(key).rand(*shape).astype(np.float32))


def smooth(key, shape):
    """A smooth random image: 9x9 mean of noise, rescaled to [0, 1]."""
    image = F.avg_pool2d(F.pad(noise(key, shape), (4, 4, 4, 4), mode='reflect'), 9, stride=1)
    return (image - image.min()) / (image.max() - image.min())


def weight(key, shape):
    """One tensor of a network's state dict, determined by its name and shape alone."""
    if key.startswith('E') and key.endswith('body.1.weight'):
        return torch.full(tuple(shape), 0.2)
    gain = 0.5 if 'G.body' in key else 1.0
    scale = 0.02 if len(shape) == 1 else gain / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy((state(key).standard_normal(tuple(shape)) * scale).astype(np.float32))


def fill(net):
    """Give every weight of `net` its golden value; the mean shifts keep theirs."""
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if '_mean.' not in key:
                tensor.copy_(weight(key, tensor.shape))
    return net


def close(ours, golden):
    """Whether `ours` equals `golden` within the tolerance of the goldens."""
    return bool((ours - golden).abs().max() <= TOLERANCE * golden.abs().max())
