"""Properties of a network read from the keys and shapes of its state dict, by which a family recognises its weights.

Each function raises LookupError if the weights do not show the property.
"""
import re
from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]


def role_of(weights: Weights) -> str:
    """'teacher' or 'student' by the name of the encoder (E, E_st), 'mln' if there is none."""
    starts = {key.split('.')[0] for key in weights}
    return 'teacher' if 'E' in starts else 'student' if 'E_st' in starts else 'mln'


def tail_scale(weights: Weights, prefix: str) -> int:
    """The scale of the Tail whose keys begin with `prefix`."""
    out, into = weights[f'{prefix}0.0.weight'].shape[:2]
    return {9: 3, 4: 4 if f'{prefix}0.2.weight' in weights else 2}[out // max(into, 1)]


def data_range(weights: Weights) -> int:
    """--rgb_range, from the bias (3,) of an SRNetwork's mean shift: a mean above 1 means 255."""
    return 255 if weights['G.sub_mean.bias'].abs().max() > 1 else 1


def count(weights: Weights, pattern: str) -> int:
    """The number of different values of the group of the regular expression `pattern` in the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in weights) if match})


def colours(weights: Weights, prefix: str) -> dict[str, int]:
    """{'n_colors': channels of the images}, from the convolution whose keys begin with `prefix`; {} for 3 channels."""
    channels = weights[f'{prefix}0.weight'].shape[1]
    return {} if channels == 3 else {'n_colors': channels}


def sr_sizes(weights: Weights) -> dict[str, int]:
    """The options of an SRNetwork G, read from its weights: scale, n_blocks, rgb_range and n_colors."""
    return {'scale': tail_scale(weights, 'G.tail.'), 'n_blocks': count(weights, r'G\.body\.0\.body\.(\d+)\.'),
            'rgb_range': data_range(weights), **colours(weights, 'G.head.')}
