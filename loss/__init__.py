"""Training losses: '1*L1+0.1*MSE' names what a restored image is compared with its ground truth by."""
from contextlib import suppress
from math import isfinite

import torch.nn.functional as F
from torch import nn

from utility import UserError

TERMS = {'L1': F.l1_loss, 'MSE': F.mse_loss}


class Loss(nn.Module):
    """Weighted sum of terms, written as weight*name joined by +; a bare name counts once.

    Raises UserError for a term it does not know or a weight that is no number.
    """

    def __init__(self, text='1*L1'):
        super().__init__()
        self.terms = [self._parse(part.strip(), text) for part in text.split('+')]

    @staticmethod
    def _parse(part, text):
        weight, _, name = part.rpartition('*')
        with suppress(ValueError):
            if name in TERMS and isfinite(float(weight or 1)):
                return float(weight or 1), TERMS[name]
        raise UserError(f"--loss '{text}': '{part}' is not weight*name with a name of {', '.join(TERMS)}")

    def forward(self, sr, hr):
        """sr and hr (B, 3, H, W) → the loss, a scalar."""
        return sum(weight * term(sr, hr) for weight, term in self.terms)
