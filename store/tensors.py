"""Files of weights and checkpoints, read without executing code in them; checkpoints have a checksum."""
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from store import files, safe
from utility import UserError, shown

DIGEST = hashlib.sha256().digest_size
LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # start of files by torch.save before torch 1.6
FOLDER = 0x10  # attribute of a record in a zip file
NEEDED = 'a plain state dict saved by torch.save is needed'
PREFIXES = ('module.', '_orig_mod.')  # left by DataParallel and torch.compile
WRAPPERS = ('params_ema', 'params', 'state_dict', 'model')  # keys under which published files hold the state dict


def serialize(content: object) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_weights(path: str | Path, weights: nn.Module | dict[str, Tensor], about: dict[str, str] | None = None,
                 wrapper: str | None = None) -> None:
    """Write a state dict, given or a network's, as CPU tensors: the format of published weights files.

    A path that ends in .safetensors or .safetensors.xz gets that format, with metadata `about` the weights. wrapper:
    the key of a dict that holds the state dict in the file, as some published files have it.
    """
    state = weights if isinstance(weights, dict) else weights.state_dict()
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if safe.is_safe(path):
        files.write_bytes(path, safe.packed(path, state, about or {}))
    else:
        files.write_bytes(path, serialize({wrapper: state} if wrapper else state))


def save_checkpoint(path: str | Path, checkpoint: dict) -> None:
    """Write a dict of dicts, lists, tensors and basic types, followed by its SHA-256."""
    payload = serialize(checkpoint)
    files.write_bytes(path, payload + hashlib.sha256(payload).digest())


def load_checkpoint(path: str | Path) -> dict:
    """What save_checkpoint wrote. Raises UserError if a single byte differs or if it is not a dict."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    payload, digest = data[:-DIGEST], data[-DIGEST:]
    remedy = 'resume from an older checkpoint with --resume N'
    if hashlib.sha256(payload).digest() != digest:
        raise UserError(f'{path}: damaged (checksum mismatch); {remedy}')
    checkpoint = load_checked(path, io.BytesIO(payload), 'checkpoint', remedy)
    if not isinstance(checkpoint, dict):
        raise UserError(f'{path}: not a checkpoint (it holds no dict); {remedy}')
    return checkpoint


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """{key: tensor} of a weights file, without the prefixes of wrappers. Raises UserError if it holds anything else.

    If the file holds a dict with the state dict under a key of WRAPPERS, as published ones do, that one is returned.
    A path that ends in .safetensors or .safetensors.xz is read as such a file.
    """
    if safe.is_safe(path):
        return {_bare(key): tensor for key, tensor in safe.unpacked(path)[0].items()}
    try:
        with open(path, 'rb') as file:  # opened once, so that what is read is what was checked
            weights = load_checked(path, file, 'weights', NEEDED)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    if isinstance(weights, dict):
        weights = next((weights[key] for key in WRAPPERS if isinstance(weights.get(key), dict)), weights)
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: not a plain state dict of tensors; {NEEDED}')
    for key, value in weights.items():
        if not _is_plain(value, size):
            raise UserError(f'{path}: {key[:80]!r} is not a dense tensor stored in full; {NEEDED}')
    return {_bare(key): tensor.detach() for key, tensor in weights.items()}


def _is_plain(value, size):
    """Whether `value` is a dense CPU tensor that a file of `size` bytes can hold; expanded views are larger."""
    return (type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
            and value.device.type == 'cpu' and not value.is_quantized and value.numel() * value.element_size() <= size)


def load_checked(path: str | Path, file: BinaryIO, kind: str, remedy: str) -> object:
    """What torch.save wrote to the open `file`; its checksums are verified first, which torch.load does not do.

    kind, remedy: of the error: what the file should be, and what to do. Raises UserError if the file is damaged, not
    written by torch.save, of the format before torch 1.6, or cannot be read.
    """
    _check_start(path, file, kind, remedy)
    try:
        if _check_records(file):
            file.seek(0)
            return torch.load(file, map_location='cpu', weights_only=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or type(error).__name__})') from error
    except zipfile.BadZipFile:  # damaged where there is no checksum: the same error
        pass
    except Exception as error:  # on other files zipfile and the unpickler raise nearly anything
        raise UserError(f'{path}: not a readable {kind} file ({type(error).__name__}); {remedy}') from error
    raise UserError(f'{path}: damaged (checksum mismatch), not a readable {kind} file; {remedy}')


def _check_start(path, file, kind, remedy):
    """Raises UserError unless `file` begins like a zip file: torch.load would read others as the old format."""
    start = file.read(len(LEGACY))
    if start == LEGACY:
        raise UserError(f'{path}: {kind} in the format of torch.save before torch 1.6, which is not supported; '
                        'load it and save it again with a newer torch')
    if not start.startswith(b'PK\3\4'):
        raise UserError(f'{path}: not a readable {kind} file (not written by torch.save); {remedy}')


def _check_records(file):
    """Whether every CRC-32 of the zip `file` matches. Raises ValueError for records that torch.save does not write."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size
               for record in records):
            raise ValueError('compressed records: their size in memory is unlimited')
        if sum(record.file_size for record in records) > size:
            raise ValueError('records larger than the file')
        if len({record.filename.lower() for record in records}) < len(records):
            raise ValueError('two records of one name: torch might read the one that zipfile did not check')
        if any(record.external_attr & FOLDER for record in records):
            raise ValueError('a record marked as a folder: torch leaves its memory unset where zipfile reads it')
        if any(record.filename.endswith('/constants.pkl') for record in records):
            raise ValueError('TorchScript: some versions of torch.load would build its program')
        return archive.testzip() is None


def _bare(key):
    while key.startswith(PREFIXES):
        key = key.split('.', 1)[1]
    return key


def unsafe_torch() -> bool:
    """Whether torch.load of this PyTorch has known vulnerabilities, even with weights_only."""
    return tuple(map(int, torch.__version__.split('.')[:2])) < (2, 10)


def trust_warning(path: object) -> str:
    """The warning about a file of unknown origin, for a PyTorch with known vulnerabilities."""
    return (f'warning: torch.load of PyTorch {torch.__version__} has known vulnerabilities (CVE-2025-32434, '
            f'CVE-2026-24747); load {shown(path)} only if you trust its source, or install PyTorch 2.10 or newer')
