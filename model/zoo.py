"""Students from weights: shipped ones in zoo/, by name, or from files. Their network is built to match."""
import hashlib
import json
from pathlib import Path

from torch import Tensor, nn

from model.weights import Found, fit_weights, recognise
from store import safe
from store.files import write_bytes
from store.tensors import load_weights, trust_warning, unsafe_torch
from utility import UserError, expand, shown

ZOO = Path(__file__).resolve().parent.parent / 'zoo'
INDEX = 'index.json'
TOLD = 'licence', 'training'  # facts that a weights file holds too
# Of the steps of quantized weights, by the first part of a key that matches, so that a rounding error changes the image
# alike wherever it is: errors average out in what acts on means over all pixels, the student's encoder and the
# prediction of dynamic kernels; those of the last convolutions reach the image as they are.
SHARES = {'E_st.E.': 0.2, 'E_st.': 0.8, '.kernel.2.': 0.25, 'G.tail.': 1.6, 'G.body.1.': 4}


def index() -> dict[str, dict]:
    """{name: facts} of the shipped weights. Raises UserError if the index cannot be read."""
    path = ZOO / INDEX
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        if all({'file', 'sha256', 'model', 'scale', 'rgb_range'} <= facts.keys()
               for facts in entries.values()):
            return entries
        reason = 'an entry has no file, checksum or options'
    except OSError as error:
        reason = error.strerror
    except (ValueError, AttributeError) as error:
        reason = ' '.join(str(error).split())
    raise UserError(f'{shown(path)}: not a valid index of weights ({reason}); copy zoo/ from the project again')


def locate(weights: str | Path) -> tuple[Path, bool] | None:
    """(file, whether it is shipped) of `weights`, a name in zoo/ or a path; None if there is no such file.

    Raises UserError if the shipped file is damaged.
    """
    path = expand(weights)
    facts = None if path.suffix else index().get(str(weights))  # names in zoo/ have no suffix
    if facts:
        path = ZOO / facts['file']
        _check_sum(path, facts['sha256'])
        return path, True
    return (path, False) if path.is_file() else None


def load_student(weights: str | Path | dict | None = None,
                 scale: int | None = None) -> tuple[nn.Module, dict, list[str]]:
    """A student with the weights `weights`: a name in zoo/, a state dict or a file of one, or None, the default.

    scale: 2, 3 or 4, which the weights must have; None: any. Returns the network (float32, frozen, on the CPU), the
    options read from its weights, {model, scale, rgb_range, ...}, and notes for the user on what was loaded. Raises
    UserError if the weights cannot be used.
    """
    if weights is None:
        weights = default(scale)
    if isinstance(weights, dict):
        found, path, taken, own = weights, 'weights', 'of a state dict', False
        if not weights or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise UserError('weights: not a dict of tensors; give a state dict')
    else:
        located = locate(weights)
        if not located:
            raise UserError(f'--weights {shown(weights)}: neither a file nor shipped weights; {shipped()}')
        path, own = located[0], not located[1]
        found, taken = load_weights(path), shown(path) if own else f'{weights} (shipped)'
    student = student_of(found, path)
    facts = facts_of(student)
    if scale not in (None, facts['scale']):
        raise UserError(f'--scale {scale}: the weights {taken} are for x{facts["scale"]}; leave --scale out, '
                        f'or choose other weights; {shipped()}')
    network = student.build().requires_grad_(False).eval()
    fit_weights(network, found, path)
    shows = ', '.join(f'{name} {value}' for name, value in facts.items())
    notes = [f'weights {taken}: {shows}']
    if own and unsafe_torch():
        notes.append(trust_warning(path))
    return network, facts, notes


def student_of(weights: dict[str, Tensor], path: object) -> Found:
    """The student that `weights`, {key: tensor} read from `path`, belong to. Raises UserError for other weights."""
    found = recognise(weights)
    if not found:
        raise UserError(f'{shown(path)}: not a student of a known family; give weights written by stage 4, '
                        'and --extension FILE.py for a family of your own')
    if found.role != 'student':
        raise UserError(f'{shown(path)}: holds a {found}; give weights of a student, as written by stage 4')
    return found


def facts_of(student: Found) -> dict:
    """The options of a student: {model, scale, rgb_range, ...}."""
    return {'model': student.family, **student.sizes, 'rgb_range': student.sizes.get('rgb_range', 1)}


def ship(name: str, weights: dict[str, Tensor] | str | Path, facts: dict, default: bool = False,
         steps: float = safe.STEPS) -> dict:
    """Put weights into zoo/, as a file <name>.safetensors.xz of 8 bits a weight and an entry of the index.

    weights: {key: tensor} or a file of them. facts: further content of the entry, such as how they were trained; facts
    that can be read from the weights must agree. default: whether they are used if no weights are given. steps: see
    compact(). Returns the entry. Raises UserError if the weights are not of a student, or not finite as shipped.
    """
    source = name if isinstance(weights, dict) else weights
    found = weights if isinstance(weights, dict) else load_weights(weights)
    student = student_of(found, source)
    shows = facts_of(student)
    wrong = [option for option in shows if facts.get(option, shows[option]) != shows[option]]
    if wrong:
        raise UserError(f'{shown(source)}: {wrong[0]} is {shows[wrong[0]]}, not {facts[wrong[0]]}')
    fit_weights(student.build(), found, source)
    file = name + safe.COMPRESSED
    about = student.about() | {option: str(facts[option]) for option in TOLD if option in facts}
    data = safe.packed(file, compact(found, source, steps), about)
    entries = index() if (ZOO / INDEX).exists() else {}
    if default:
        entries = {key: {**entry, 'default': False} for key, entry in entries.items()}
    older = entries.get(name, {}).get('file', file)
    entries[name] = {**facts, **shows, 'file': file, 'sha256': hashlib.sha256(data).hexdigest(), 'default': default}
    write_bytes(ZOO / file, data)
    write_bytes(ZOO / INDEX, (json.dumps(entries, indent=1) + '\n').encode())
    if older != file:
        (ZOO / older).unlink(missing_ok=True)
    return entries[name]


def compact(weights: dict[str, Tensor], source: object, steps: float = safe.STEPS) -> dict[str, Tensor]:
    """`weights`, {key: tensor} of `source`, as they are shipped, with 8 bits each. Raises UserError unless finite.

    steps: in a standard deviation of a tensor, see steps_of and store.safe.quantized.
    """
    small = safe.quantized(weights, lambda key: steps_of(key, steps))
    if not all(tensor.isfinite().all() for tensor in small.values()):
        raise UserError(f'{shown(source)}: holds values that are not finite in half precision; train again')
    return small


def steps_of(key: str, steps: float) -> float:
    """The steps in the standard deviation of the tensor of a key: `steps` and its share of SHARES."""
    return steps * next((share for part, share in SHARES.items() if part in key), 1)


def default(scale: int | None = None) -> str:
    """The name of the default weights, or with `scale` the first ones with it. Raises UserError if there are none."""
    entries = index()
    matching = [name for name, facts in entries.items() if scale in (None, facts['scale'])]
    if not matching:
        raise UserError(f'no weights{f" for --scale {scale}" if scale else ""} are shipped; {shipped()}')
    return max(matching, key=lambda name: entries[name].get('default', False))


def shipped() -> str:
    """The names of the shipped weights, for an error."""
    there = ', '.join(f'{name} (x{facts["scale"]})' for name, facts in index().items()) or 'none'
    return f'shipped weights: {there}'


def _check_sum(path, expected):
    """Raises UserError unless the SHA-256 of the file `path` is the expected one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'{shown(path)}: cannot be read ({error.strerror}); copy it from the project again') from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(f'{shown(path)}: damaged or replaced (its checksum differs from that in {INDEX}); '
                        'copy it from the project again')
