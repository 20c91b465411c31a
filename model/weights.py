"""Weights and networks: which family and sizes a state dict belongs to, whether it fits a network, and why not."""
from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model import FAMILIES, make
from model.shapes import data_range, role_of
from utility import VERSION, UserError

SHOWN = 5  # differing keys in an error
UNSAID = {'rgb_range': 1, 'n_colors': 3}  # sizes of a network whose family does not name them
# What a family's sizes() may raise on weights of other families.
NOT_SHOWN = LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError


class Found(NamedTuple):
    """What a state dict belongs to. role: mln, teacher or student; sizes: {option of main.py: value}."""
    family: str
    role: str
    sizes: dict

    def __str__(self) -> str:
        return f'{self.family.upper()} {"MLN" if self.role == "mln" else self.role}'

    def about(self) -> dict[str, str]:
        """The same as texts for a .safetensors file, with the version of this project."""
        sizes = {name: str(size) for name, size in self.sizes.items()}
        return {'version': VERSION, 'family': self.family, 'role': self.role, **sizes}

    def build(self) -> nn.Module:
        """The network, with random weights. The caller's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            return make(self.family, self.role, Sizes(**{**UNSAID, **self.sizes}))


class Sizes(SimpleNamespace):
    """Options as attributes. Raises UserError for one that the weights do not show."""

    def __getattr__(self, name: str) -> None:
        raise UserError(f'--{name}: a network of this family is built from it, but its weights do not show it; '
                        "add it to what the family's sizes() returns")


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """What `weights`, {key: tensor}, belong to; None if to no family of FAMILIES.

    Where several families claim them, as one derived from another may, the one whose network has exactly these keys.
    """
    role, claims = role_of(weights), []
    for name, family in FAMILIES.items():
        try:
            sizes = family.sizes(weights, role)
        except NOT_SHOWN:
            continue
        if sizes:
            claims.append(Found(name, role, sizes))
    exact = (claim for claim in claims if _exact(claim, weights)) if len(claims) > 1 else ()
    return next(iter(exact), claims[0] if claims else None)


def _exact(claim, weights):
    try:
        return not differences(claim.build(), weights)
    except UserError:  # it shows too few options to be built
        return False


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Load `weights`, {key: tensor} read from `path`, into `network`; half precision becomes the network's own.

    Raises UserError with the likely reason and the first differing keys, and changes nothing, unless all of them fit
    and are finite.
    """
    own = network.state_dict()
    different = differences(network, weights)
    if different:
        more = f' and {len(different) - SHOWN} more' if len(different) > SHOWN else ''
        raise UserError(f'{path}: {reason(recognise(weights), recognise(own))}: ' + '; '.join(different[:SHOWN]) + more)
    if 'G.sub_mean.bias' in own and data_range(own) != data_range(weights):
        found, needed = data_range(weights), data_range(own)
        raise UserError(f'{path}: trained with --rgb_range {found}, not {needed}; give --rgb_range {found}')
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError(f'{path}: holds weights that are not finite, of a training that failed; take others')
    network.load_state_dict(weights)


def differences(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """In words, each key of `network` or `weights` that the other lacks or has in another shape."""
    own = network.state_dict()
    return [f'{key} {_shape(weights, key)} instead of {_shape(own, key)}'
            for key in [*own, *(weights.keys() - own.keys())] if _shape(weights, key) != _shape(own, key)]


def _shape(weights, key):
    return tuple(weights[key].shape) if key in weights else 'absent'


def reason(found: Found | None, needed: Found | None) -> str:
    """In words, why a file of weights `found` does not fit a network whose own are `needed`."""
    if not found:
        return 'holds no network of this project'
    if needed and str(found) != str(needed):
        return f'holds a {found} (another stage or family), but a {needed} is needed'
    own = {**UNSAID, **needed.sizes} if needed else {}
    wrong = [f'--{name} {value} instead of {own[name]}' for name, value in {**UNSAID, **found.sizes}.items()
             if value != own.get(name, value)]
    return f'holds a {found} with {", ".join(wrong)}' if wrong else f'holds a damaged {found}'
