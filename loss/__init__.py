"""Training losses: LOSSES, the table of terms, and their weighted sum, such as '1*L1+0.1*MSE'."""
from contextlib import suppress
from math import isfinite

import torch
from torch import Tensor, nn

from loss.perceptual import Perceptual
from utility import UserError, derive_seed

LOSSES: dict[str, type[nn.Module]] = {'L1': nn.L1Loss, 'MSE': nn.MSELoss, 'Perceptual': Perceptual}


class Loss(nn.Module):
    """Weighted sum of terms of LOSSES, written as weight*name joined by +; the default weight is 1.

    A term is a module (sr, hr) → scalar, built without arguments; rgb_range: the data range of both, which each term
    gets as an attribute. A network inside a term is frozen: in eval mode, not in any state dict, and initialised in the
    same way in each run, independent of --seed; unless the term sets `keeps_state = True`.
    Raises UserError for an unknown name or a weight that is not a number.
    """

    def __init__(self, text: str = '1*L1', rgb_range: int = 1) -> None:
        super().__init__()
        self.weights = {}
        for part in text.split('+'):
            weight, name = _parse(part.strip(), text)
            self.weights[name] = self.weights.get(name, 0) + weight
        self.terms = nn.ModuleDict({name: _build(name, rgb_range) for name in self.weights})

    def forward(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """sr and hr (B, 3, H, W) → scalars {'loss': the weighted sum} and, if there are several terms, each by name."""
        values = {name: term(sr, hr) for name, term in self.terms.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        return {'loss': total, **(values if len(values) > 1 else {})}


def freeze(network: nn.Module) -> nn.Module:
    """`network` in eval mode, without gradients for its weights, and left out of state dicts, on saving and loading.
    Changed in place and returned."""
    for module in network.modules():
        module._save_to_state_dict = module._load_from_state_dict = _nothing
    return network.eval().requires_grad_(False)


def _nothing(*args, **kwargs):
    """Saves nothing to a state dict and loads nothing from one."""


def _build(name, rgb_range):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed('loss', name))
        term = LOSSES[name]()
    term.rgb_range = rgb_range
    return term if getattr(term, 'keeps_state', False) else freeze(term)


def _parse(part, text):
    weight, _, name = part.rpartition('*')
    with suppress(ValueError):
        if name in LOSSES and isfinite(float(weight or 1)):
            return float(weight or 1), name
    raise UserError(f"--loss '{text}': '{part}' is not weight*name with a name of {', '.join(LOSSES)}")
