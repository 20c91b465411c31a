"""Checkpoints of earlier versions, read as this version writes them."""
from pathlib import Path

from utility import UserError


def upgraded(state: dict, folder: Path) -> dict:
    """`state`, a checkpoint of any version that bound its options, as Trainer.checkpoint() makes it.

    Raises UserError for one of a version before that.
    """
    if 'options' not in state:
        raise UserError(f'{folder} holds a run of an older version of this program; choose another --save, '
                        'and its weights by --pre_train')
    if 'updates' in state:
        return state
    # Before named updates: one optimiser, the test always done, no moving average.
    name, moments = state['optimizer']
    return {**state, 'options': {'optimizer': name, **state['options']}, 'tested': True, 'ema': {},
            'updates': {'sr': {'optimizer': moments, 'scaler': state['scaler']}}}
