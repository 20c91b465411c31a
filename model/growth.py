"""Reusing a trained network: for one with more blocks, of the same function, or for another scale factor."""
from torch import Tensor, nn

from model.common import Blocks
from model.weights import Found, fit_weights, recognise
from utility import UserError


def sources(n_old: int, n_new: int) -> list[tuple[int, bool]]:
    """For each of n_new blocks (index of the old block that it copies, whether it is that block itself); the old blocks
    keep their order and are spread evenly."""
    places = {index * n_new // n_old: index for index in range(n_old)}
    found, last = [], 0
    for place in range(n_new):
        last = places.get(place, last)
        found.append((last, place in places))
    return found


def grow(weights: dict[str, Tensor], n_blocks: int, path: object) -> dict[str, Tensor]:
    """`weights` of a student or teacher, {key: tensor} read from `path`, extended to n_blocks with the same function.

    A new block is a copy of the one before it with a zero last convolution, so that its skip connection makes it the
    identity; the gradient of that convolution is not zero, so it trains from the first step. dtypes are kept. Raises
    UserError if the weights are not of a network with a chain of blocks, or if n_blocks is not larger.
    """
    found = recognise(weights)
    if not found or 'n_blocks' not in found.sizes:
        raise UserError(f'{path}: not weights of a student or teacher with a chain of blocks; give others')
    n_old = found.sizes['n_blocks']
    if n_blocks <= n_old:
        raise UserError(f'--n_blocks {n_blocks}: {path} has {n_old} blocks already; give a larger number')
    old, new = _built(found), _built(found._replace(sizes={**found.sizes, 'n_blocks': n_blocks}))
    fit_weights(old, weights, path)
    small, large = _chain(old), _chain(new)
    state = {key: tensor for key, tensor in old.state_dict().items() if key in new.state_dict()}
    new.load_state_dict(state, strict=False)
    for block, (source, same) in zip(large.body, sources(n_old, n_blocks), strict=True):
        block.load_state_dict(small.body[source].state_dict())
        if not same:
            last = [module for module in block.modules() if isinstance(module, nn.Conv2d)][-1]
            for parameter in last.parameters():
                parameter.data.zero_()
    kind = next(iter(weights.values())).dtype
    return {key: tensor.to(kind) for key, tensor in new.state_dict().items()}


def rescale(weights: dict[str, Tensor], scale: int, path: object) -> dict[str, Tensor]:
    """`weights` of any network, {key: tensor} read from `path`, for another scale.

    The upsampling tail, and the first convolution of KDSR's teacher, whose input depends on the scale, get initial
    weights. dtypes are kept. Raises UserError if the weights are of no network, or of that scale.
    """
    found = recognise(weights)
    if not found:
        raise UserError(f'{path}: not weights of a network of this project; give others')
    if scale == found.sizes['scale']:
        raise UserError(f'--scale {scale}: {path} is for x{scale} already; give another scale')
    new = _built(found._replace(sizes={**found.sizes, 'scale': scale}))
    kind = next(iter(weights.values())).dtype
    return {key: weights[key] if 'tail' not in key.split('.') and weights[key].shape == fresh.shape else fresh.to(kind)
            for key, fresh in new.state_dict().items()}


def _built(found: Found) -> nn.Module:
    return found.build().requires_grad_(False)


def _chain(network: nn.Module) -> Blocks:
    """The blocks of a network. Raises UserError if it has none."""
    for module in network.modules():
        if isinstance(module, Blocks):
            return module
    raise UserError('only a network with a chain of blocks (model.common.Blocks) can be grown')
