"""Conversion of checkpoints of earlier versions."""
SCORES = ('psnr', 'psnr_y'), ('ssim', 'ssim_y')  # names in the history: before --metrics existed, now


def upgraded(checkpoint: dict) -> dict:
    """`checkpoint`, of any version that stored the options, in the format of Trainer.checkpoint(); one without options
    stays as it is."""
    history = dict(checkpoint.get('history', {}))
    for old, name in SCORES:
        if old in history:
            history[name] = history.pop(old)
    checkpoint = {**checkpoint, 'history': history}
    if 'updates' in checkpoint or 'options' not in checkpoint:
        return checkpoint
    # Before named updates: one optimiser, always tested, no moving average.
    name, moments = checkpoint.pop('optimizer')
    return {**checkpoint, 'options': {'optimizer': name, **checkpoint['options']}, 'tested': True, 'ema': {},
            'updates': {'sr': {'optimizer': moments, 'scaler': checkpoint.pop('scaler')}}}
