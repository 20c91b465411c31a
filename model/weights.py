"""State dicts of networks: what they are of, whether they fit, and why not."""
import re

from utility import UserError

SHOWN = 5  # differing keys in an error


def fit_weights(network, weights, path):
    """Load `weights`, {key: tensor} read from `path`, into `network`; half precision becomes the network's own.

    Raises UserError with the likely reason and the first differing keys, and changes nothing, unless all of them fit
    and are finite.
    """
    own = network.state_dict()
    differences = [f'{key} {_shape(weights, key)} instead of {_shape(own, key)}'
                   for key in [*own, *(weights.keys() - own.keys())] if _shape(weights, key) != _shape(own, key)]
    if differences:
        more = f' and {len(differences) - SHOWN} more' if len(differences) > SHOWN else ''
        raise UserError(f'{path}: {reason(portrait(weights), portrait(own))}: ' + '; '.join(differences[:SHOWN]) + more)
    needed, found = (next((white(bias) for key, bias in each.items() if key.endswith('sub_mean.bias')), None)
                     for each in (own, weights))
    if found != needed:
        raise UserError(f'{path}: trained with --rgb_range {found}, not {needed}; give --rgb_range {found}')
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError(f'{path}: holds weights that are not finite, of a training that failed; take others')
    network.load_state_dict(weights)


def white(bias):
    """The --rgb_range that a MeanShift's bias (3,) shows: a mean colour above 1 can only be one of 255."""
    return 255 if bias.abs().max() > 1 else 1


def _shape(weights, key):
    return tuple(weights[key].shape) if key in weights else 'absent'


def portrait(weights):
    """What a state dict shows of its network, {property: value}; {} if it is of none that this project knows."""
    try:
        return _portrait(weights)
    except (KeyError, IndexError, ZeroDivisionError):  # familiar names, but not all of them or not their shapes
        return {}


def _portrait(weights):
    role = next((role for start, role in (('E.', 'teacher'), ('E_st.', 'student'))
                 if any(key.startswith(start) for key in weights)), 'MLN')
    encoder, network = {'teacher': ('E.', 'G.'), 'student': ('E_st.', 'G.'), 'MLN': ('', '')}[role]
    family = 'KDSR' if f'{encoder}compress.0.weight' in weights else 'MRDA'
    up = weights[f'{network}tail.0.0.weight'].shape
    found = {'network': f'{family} {role}',
             '--scale': {9: 3, 4: 4 if f'{network}tail.0.2.weight' in weights else 2}.get(up[0] // up[1])}
    if role == 'MLN' or family == 'KDSR':
        found['--n_feats'] = up[1]
    elif role == 'teacher':
        found['--n_feats'] = weights['E.E.0.weight'].shape[1]
    if role != 'MLN':
        found['--n_blocks'] = _count(weights, r'G\.body\.0\.body\.(\d+)\.')
    if family == 'KDSR':
        found['--n_resblocks'] = _count(weights, re.escape(encoder) + r'E\.(\d+)\.body\.')
    return found


def _count(weights, pattern):
    """How many different numbers stand in the keys at the pattern's group."""
    return len({match[1] for match in (re.match(pattern, key) for key in weights) if match})


def reason(found, needed):
    """In words, why a file of portrait `found` does not fit a network of portrait `needed`."""
    if not found:
        return 'holds no network of this project'
    if found['network'] != needed.get('network', found['network']):
        return f'holds a {found["network"]} (another stage or family), but a {needed["network"]} is needed'
    wrong = [f'{name} {value} instead of {needed[name]}' for name, value in found.items()
             if value != needed.get(name, value)]
    return f'holds a {found["network"]} with {", ".join(wrong)}' if wrong else f'holds a damaged {found["network"]}'
