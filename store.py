"""Files of weights and full states: written whole or not at all, read without ever executing what they hold."""
import hashlib
import io
import os
import pickle
import tempfile
from pathlib import Path

import torch

from utility import UserError

DIGEST = hashlib.sha256().digest_size
UMASK = os.umask(0)  # can only be read by setting it: once, before any thread starts
os.umask(UMASK)
PREFIXES = ('module.', '_orig_mod.')  # left by DataParallel and torch.compile


def write_bytes(path, data):
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    Raises UserError with the path and the size if it cannot be written.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix='.writing.', delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f'{path}: cannot write {len(data):,} bytes ({error.strerror or error}); '
                        'free some space or choose another place') from error


def _sync_folder(folder):
    """Make a rename itself durable; Windows cannot open folders and needs no such step."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _serialize(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_weights(path, network):
    """Write a plain state dict of CPU tensors, the format of published weight files."""
    write_bytes(path, _serialize({key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}))


def save_state(path, state):
    """Write dicts, lists, tensors and basic types, followed by a SHA-256 over them."""
    payload = _serialize(state)
    write_bytes(path, payload + hashlib.sha256(payload).digest())


def load_state(path):
    """What save_state wrote. Raises UserError if a single byte differs."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    payload, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise UserError(f'{path}: damaged (its checksum does not fit); take an older state with --resume N')
    return torch.load(io.BytesIO(payload), map_location='cpu', weights_only=True)


def load_weights(path):
    """{key: tensor} of a weights file, prefixes of wrappers removed. Raises UserError if it holds anything else."""
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise UserError(f'{path}: no readable weights file ({type(error).__name__}); '
                        'a plain state dict saved by torch.save is needed') from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f'{path}: holds something else than a plain state dict of tensors')
    return {_bare(key): tensor for key, tensor in weights.items()}


def _bare(key):
    while key.startswith(PREFIXES):
        key = key.split('.', 1)[1]
    return key
