"""State dicts: recognising the family and sizes of their network, and loading them into one."""
from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model import FAMILIES, make
from model.shapes import data_range, role_of
from utility import VERSION, UserError

SHOWN = 5  # most differing keys in an error
DEFAULTS = {'rgb_range': 1, 'n_colors': 3}  # for sizes that a family does not return
# What a family's sizes() may raise for weights of other families.
MISMATCH = LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError


class Found(NamedTuple):
    """The network of a state dict. role: mln, teacher or student; sizes: {option of main.py: value}."""
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
        """The network with random weights. The global random state is not changed."""
        with torch.random.fork_rng(devices=[]):
            return make(self.family, self.role, Sizes(**{**DEFAULTS, **self.sizes}))


class Sizes(SimpleNamespace):
    """Options as attributes. Raises UserError for one that cannot be read from the weights."""

    def __getattr__(self, name: str) -> None:
        raise UserError(f'--{name}: this family of networks needs it, but it is not read from the weights; '
                        "return it from the family's sizes()")


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """The network that `weights`, {key: tensor}, belong to; None if of no family of FAMILIES.

    If several families match, for example one derived from another, that whose network has exactly these keys.
    """
    role, matches = role_of(weights), []
    for name, family in FAMILIES.items():
        try:
            sizes = family.sizes(weights, role)
        except MISMATCH:
            continue
        if sizes:
            matches.append(Found(name, role, sizes))
    exact = (match for match in matches if _is_exact(match, weights)) if len(matches) > 1 else ()
    return next(iter(exact), matches[0] if matches else None)


def _is_exact(match, weights):
    try:
        return not differences(match.build(), weights)
    except UserError:  # too few options to build it
        return False


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Load `weights`, {key: tensor} read from `path`, into `network`; converts half precision.

    Raises UserError with the likely reason and the first differing keys, and changes nothing, unless all keys and
    shapes match and all values are finite.
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
        raise UserError(f'{path}: holds values that are not finite, of a failed training; use other weights')
    network.load_state_dict(weights)


def differences(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Descriptions of the keys of `network` or `weights` that are absent or differ in shape in the other."""
    own = network.state_dict()
    return [f'{key} {_shape(weights, key)} instead of {_shape(own, key)}'
            for key in [*own, *(weights.keys() - own.keys())] if _shape(weights, key) != _shape(own, key)]


def _shape(weights, key):
    return tuple(weights[key].shape) if key in weights else 'absent'


def reason(found: Found | None, needed: Found | None) -> str:
    """Why a file with weights `found` does not fit a network of `needed`, as text."""
    if not found:
        return 'not weights of a network of this project'
    if needed and str(found) != str(needed):
        return f'holds a {found} (another stage or family), but a {needed} is needed'
    own = {**DEFAULTS, **needed.sizes} if needed else {}
    wrong = [f'--{name} {value} instead of {own[name]}' for name, value in {**DEFAULTS, **found.sizes}.items()
             if value != own.get(name, value)]
    return f'holds a {found} with {", ".join(wrong)}' if wrong else f'holds a damaged {found}'
