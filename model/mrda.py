"""MRDA's teacher and student (TIP 2023): DEN reads the degradation, RDAN restores."""
from model.common import BlindSR
from model.den import DEN
from model.rdan import RDAN


def teacher(scale, n_feats=128, n_blocks=27, rgb_range=1):
    """MRDA_T: its encoder sees the adapted MLN's n_feats-channel features. 5,910,737 parameters at x4."""
    return BlindSR(DEN(n_feats), RDAN(scale, n_blocks=n_blocks, rgb_range=rgb_range), student=False)


def student(scale, n_blocks=27, rgb_range=1):
    """MRDA_S: its encoder sees lq alone. 5,838,737 parameters at x4."""
    return BlindSR(DEN(3), RDAN(scale, n_blocks=n_blocks, rgb_range=rgb_range), student=True)
