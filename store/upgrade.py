"""Checkpoints of earlier versions, read as this version writes them."""
SCORES = ('psnr', 'psnr_y'), ('ssim', 'ssim_y')  # in the history: before --metrics, now


def upgraded(state: dict) -> dict:
    """`state`, a checkpoint of any version that bound its options, as Trainer.checkpoint() makes it; one of a version
    before that as it is, without options."""
    history = dict(state.get('history', {}))
    for old, name in SCORES:
        if old in history:
            history[name] = history.pop(old)
    state = {**state, 'history': history}
    if 'updates' in state or 'options' not in state:
        return state
    # Before named updates: one optimiser, the test always done, no moving average.
    name, moments = state.pop('optimizer')
    return {**state, 'options': {'optimizer': name, **state['options']}, 'tested': True, 'ema': {},
            'updates': {'sr': {'optimizer': moments, 'scaler': state.pop('scaler')}}}
