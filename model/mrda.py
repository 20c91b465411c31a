"""MRDA's teacher and student (TIP 2023): DEN estimates the degradation, RDAN super-resolves."""
from model.common import BlindSR
from model.den import DEN
from model.rdan import RDAN
from model.shapes import Weights, colours, sr_sizes, tail_scale


def teacher(scale: int, n_feats: int = 128, n_blocks: int = 27, rgb_range: int = 1,
            n_colors: int = 3) -> BlindSR:
    """MRDA_T: its encoder reads the adapted MLN's n_feats-channel features. 5,910,737 parameters at x4."""
    return BlindSR(DEN(n_feats), RDAN(scale, n_blocks=n_blocks, rgb_range=rgb_range, n_colors=n_colors), student=False)


def student(scale: int, n_blocks: int = 27, rgb_range: int = 1, n_colors: int = 3) -> BlindSR:
    """MRDA_S: its encoder reads lq alone. 5,838,737 parameters at x4."""
    return BlindSR(DEN(n_colors), RDAN(scale, n_blocks=n_blocks, rgb_range=rgb_range, n_colors=n_colors), student=True)


def sizes(weights: Weights, role: str) -> dict[str, int]:
    """The options of an MRDA network, read from its weights; {} or LookupError for other families."""
    if role == 'mln':
        return {'scale': tail_scale(weights, 'tail.'), 'n_feats': weights['tail.0.0.weight'].shape[1],
                **colours(weights, 'head.')}
    if 'G.compress.0.weight' not in weights:
        return {}
    own = {'n_feats': weights['E.E.0.weight'].shape[1]} if role == 'teacher' else {}
    return sr_sizes(weights) | own
