"""Weights of students by name, in zoo/, or from a file: the network that they need is built for them."""
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import torch

from model import FAMILIES
from model.weights import fit_weights, portrait
from store.files import write_bytes
from store.tensors import distrust, holed, load_weights, serialize
from utility import UserError, expand, shown

ZOO = Path(__file__).resolve().parent.parent / 'zoo'
INDEX = 'index.json'
OPTIONS = ('model', 'scale', 'n_blocks', 'n_feats', 'n_resblocks', 'rgb_range')  # what a student is built from
WHITE = 0.4488  # of red, by which MeanShift's bias shows the value of white


def index():
    """{name: facts} of what zoo/ holds. Raises UserError if the list cannot be read."""
    path = ZOO / INDEX
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        if all({'file', 'sha256', 'model', 'scale', 'n_blocks', 'rgb_range'} <= facts.keys()
               for facts in entries.values()):
            return entries
        reason = 'an entry lacks its file, checksum or options'
    except OSError as error:
        reason = error.strerror
    except (ValueError, AttributeError) as error:
        reason = ' '.join(str(error).split())
    raise UserError(f'{shown(path)}: no list of weights ({reason}); take this folder from the project again')


def load_student(weights=None, scale=None):
    """A student with the weights `weights`: a name in the zoo, a file of a plain state dict, or None, the default one.

    scale: 2, 3 or 4, which the weights must have; None for whatever they have. Returns the network (float32, frozen, on
    the CPU), its facts {model, scale, n_blocks, rgb_range, ...} and notes, what was taken in words. Raises UserError.
    """
    entries = index()
    if weights is None:
        weights = _default(entries, scale)
    facts = entries.get(str(weights))
    if facts:
        path = ZOO / facts['file']
        _check_sum(path, facts['sha256'])
        found, taken = load_weights(path), f'weights {weights} (shipped)'
    else:
        path = expand(weights)
        if not path.is_file():
            raise UserError(f'--weights {shown(weights)}: neither a file nor shipped weights; {_names(entries)}')
        found = load_weights(path)
        facts = infer(found, path)
        taken = f'weights {shown(path)}'
    if scale not in (None, facts['scale']):
        raise UserError(f'--scale {scale}: {shown(weights)} enlarges {facts["scale"]} times; leave --scale out, '
                        f'or choose other weights; {_names(entries)}')
    network = build(facts)
    fit_weights(network, found, path)
    inferred = ', '.join(f'{name} {facts[name]}' for name in OPTIONS if name in facts)
    notes = [f'{taken}: {inferred}' + ', as its tensors show' * (str(weights) not in entries)]
    if str(weights) not in entries and holed():
        notes.append(distrust(path))
    return network, facts, notes


def infer(weights, path):
    """The facts of the student that `weights`, {key: tensor} read from `path`, belong to, by their names and shapes.

    The value of white, 1 or 255, shows in the bias of G.sub_mean. Raises UserError if they are of no student.
    """
    seen = portrait(weights)
    family, _, role = seen.get('network', '').lower().partition(' ')
    bias = weights.get('G.sub_mean.bias')
    if role != 'student' or family not in FAMILIES or seen['--scale'] is None or bias is None or bias.shape != (3,):
        held = f'a {seen["network"]}' if role not in ('', 'student') else 'no student of this project'
        raise UserError(f'{shown(path)}: holds {held}; weights of a student are needed, as stage 4 writes them')
    options = {name[2:]: value for name, value in seen.items() if name.startswith('--')}
    return {'model': family, **options, 'rgb_range': 255 if abs(bias[0].item()) > 255 * WHITE / 2 else 1}


def build(facts):
    """The student that `facts` describe, frozen. The caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        return FAMILIES[facts['model']].student(SimpleNamespace(**facts)).requires_grad_(False).eval()


def ship(name, weights, facts, default=False):
    """Put weights into the zoo, as a half-precision file <name>.pt and an entry of the index.

    weights: {key: tensor} or a file of them. facts: what the index shall say of them, such as how they were trained;
    what the student is built from is inferred and must agree. default: they are taken where no weights are named.
    Returns the entry. Raises UserError if they are of no student, or not finite in half precision.
    """
    source = name if isinstance(weights, dict) else weights
    found = weights if isinstance(weights, dict) else load_weights(weights)
    options = infer(found, source)
    wrong = [option for option in options if facts.get(option, options[option]) != options[option]]
    if wrong:
        raise UserError(f'{shown(source)}: {wrong[0]} is {options[wrong[0]]}, not {facts[wrong[0]]}')
    fit_weights(build(options), found, source)
    data = halved(found, source)
    entries = index() if (ZOO / INDEX).exists() else {}
    if default:
        entries = {key: {**entry, 'default': False} for key, entry in entries.items()}
    entries[name] = {**facts, **options, 'file': f'{name}.pt', 'sha256': hashlib.sha256(data).hexdigest(),
                     'default': default}
    write_bytes(ZOO / f'{name}.pt', data)
    write_bytes(ZOO / INDEX, (json.dumps(entries, indent=1) + '\n').encode())
    return entries[name]


def halved(weights, source):
    """`weights`, {key: tensor} of `source`, as the bytes of a half-precision file. Raises UserError if too large."""
    halves = {key: tensor.detach().cpu().half().contiguous() for key, tensor in weights.items()}
    if not all(tensor.isfinite().all() for tensor in halves.values()):
        raise UserError(f'{shown(source)}: holds values that half precision does not')
    return serialize(halves)


def _default(entries, scale):
    """The name of the default weights, or with `scale` the first ones of it."""
    fitting = [name for name, facts in entries.items() if scale in (None, facts['scale'])]
    if not fitting:
        raise UserError(f'no weights{f" of --scale {scale}" if scale else ""} are shipped; {_names(entries)}')
    return max(fitting, key=lambda name: entries[name].get('default', False))


def _names(entries):
    """What to do, for an error."""
    there = ', '.join(f'{name} (x{facts["scale"]})' for name, facts in entries.items()) or 'none'
    return f'shipped are: {there}; or name a file by --weights'


def _check_sum(path, expected):
    """Raises UserError unless the SHA-256 of the file `path` is the expected one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'{shown(path)}: cannot be read ({error.strerror}); take it from the project again') from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(f'{shown(path)}: damaged or replaced (its checksum is not that of {INDEX}); '
                        'take it from the project again')
