"""Files of weights and full states: written whole or not at all, read without ever executing what they hold."""
import errno
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

import torch

from utility import UserError, shown

TEMPORARY = '.writing.'  # how names of files begin that are not whole yet
BLOCK = 1 << 20  # bytes
DIGEST = hashlib.sha256().digest_size
UMASK = os.umask(0)  # can only be read by setting it: once, before any thread starts
os.umask(UMASK)
LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # how torch.save began files before torch 1.6
FOLDER = 0x10  # attribute of a record in a zip file
NEEDED = 'a plain state dict saved by torch.save is needed'
PREFIXES = ('module.', '_orig_mod.')  # left by DataParallel and torch.compile


def write_bytes(path, data):
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    Raises UserError with the path and the size if it cannot be written.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=TEMPORARY, delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C too
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f'{path}: cannot write {len(data):,} bytes ({error.strerror or error}); {_way_out(error)}'
                            ) from error
        raise


def _way_out(error):
    """What to do about an OSError while writing."""
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
    return 'choose another place' if refused else 'free some space or choose another place'


def append_text(path, text):
    """Append `text` to a log; what UTF-8 cannot hold, such as a foreign file name, is written as an escape.

    Raises UserError with the path if it cannot be written.
    """
    try:
        with open(path, 'a', encoding='utf-8', errors='backslashreplace') as file:
            file.write(text)
    except OSError as error:
        raise UserError(f'{path}: cannot write {len(text):,} characters ({error.strerror or error}); {_way_out(error)}'
                        ) from error


def append_blocks(path, blocks):
    """Append `blocks` of bytes to a file, each on its way to the disk when the next one is taken.

    What was appended stays, whatever `blocks` raises. Raises UserError with the path if it cannot be written.
    """
    try:
        file = open(path, 'ab', buffering=0)  # noqa: SIM115 - closed by the next `with`
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    with file:
        for block in blocks:
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[file.write(rest):]
            except OSError as error:
                raise UserError(f'{path}: cannot be written ({error.strerror or error}); free some space, '
                                'or choose another place') from error


def reserve(folder, what, n_bytes=0):
    """See that `folder`, made if need be, takes a file of `n_bytes`, by writing one and removing it.

    what: what an error calls that which is to be written. Raises UserError with the folder if it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(0, n_bytes, BLOCK):
                file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f'{shown(folder)}: cannot hold {what} ({error.strerror or error}); {_way_out(error)}'
                        ) from error


def sweep(folder):
    """Remove what a process that was killed while it wrote has left in `folder`. For the holder of its lock only."""
    for leftover in folder.glob(f'{TEMPORARY}*'):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder):
    """Make a rename itself durable; Windows cannot open folders and needs no such step."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def serialize(content):
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_weights(path, network):
    """Write a plain state dict of CPU tensors, the format of published weight files."""
    write_bytes(path, serialize({key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}))


def save_state(path, state):
    """Write dicts, lists, tensors and basic types, followed by a SHA-256 over them."""
    payload = serialize(state)
    write_bytes(path, payload + hashlib.sha256(payload).digest())


def load_state(path):
    """What save_state wrote. Raises UserError if a single byte differs or if it holds anything but a dict."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    payload, digest = data[:-DIGEST], data[-DIGEST:]
    remedy = 'take an older state with --resume N'
    if hashlib.sha256(payload).digest() != digest:
        raise UserError(f'{path}: damaged (its checksum does not fit); {remedy}')
    state = _load(path, io.BytesIO(payload), 'state', remedy)
    if not isinstance(state, dict):
        raise UserError(f'{path}: no state file (it holds no dict); {remedy}')
    return state


def load_weights(path):
    """{key: tensor} of a weights file, prefixes of wrappers removed. Raises UserError if it holds anything else."""
    try:
        with open(path, 'rb') as file:  # one opening for check and reading: what was checked is what is read
            weights = _load(path, file, 'weights', NEEDED)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: holds something else than a plain state dict of tensors; {NEEDED}')
    for key, value in weights.items():
        if not _is_plain(value, size):
            raise UserError(f'{path}: {key[:80]!r} is something else than a plain tensor stored in full; {NEEDED}')
    return {_bare(key): tensor.detach() for key, tensor in weights.items()}


def _is_plain(value, size):
    """Whether `value` is a dense CPU tensor that a file of `size` bytes can hold; expanded views are larger."""
    return (type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
            and value.device.type == 'cpu' and not value.is_quantized and value.numel() * value.element_size() <= size)


def _load(path, file, kind, remedy):
    """What torch.save wrote to the open `file`, checked first: torch.load would not notice a flipped bit.

    kind, remedy: what an error calls the file and advises. Raises UserError if it is damaged, foreign, of the format
    before torch 1.6 or cannot be read.
    """
    _check_start(path, file, kind, remedy)
    try:
        if _check_records(file):
            file.seek(0)
            return torch.load(file, map_location='cpu', weights_only=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or type(error).__name__})') from error
    except zipfile.BadZipFile:  # damaged where no checksum is: said in the same words
        pass
    except Exception as error:  # on foreign files zipfile and the unpickler raise nearly anything
        raise UserError(f'{path}: no readable {kind} file ({type(error).__name__}); {remedy}') from error
    raise UserError(f'{path}: damaged (its checksum does not fit), no readable {kind} file; {remedy}')


def _check_start(path, file, kind, remedy):
    """Raises UserError unless `file` begins as torch.load wants a zip file to: others it reads as the old format."""
    start = file.read(len(LEGACY))
    if start == LEGACY:
        raise UserError(f'{path}: {kind} in the old torch.save format, which is not read; '
                        'load it and save it again with torch 1.6 or newer to convert it')
    if not start.startswith(b'PK\3\4'):
        raise UserError(f'{path}: no readable {kind} file (nothing that torch.save writes); {remedy}')


def _check_records(file):
    """Whether every CRC-32 of the zip `file` fits. Raises ValueError if torch.save does not write such records."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size
               for record in records):
            raise ValueError('compressed records: their size in memory has no limit')
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
