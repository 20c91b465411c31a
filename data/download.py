"""Archives of data sets: downloading, resuming, verifying, and safe unpacking."""
import hashlib
import os
import shutil
import ssl
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from data.images import is_image
from data.sources import Part
from store.files import append_blocks, write_bytes
from utility import UserError, shown

TRIES = 5          # in a row without a new byte
PAUSE = 2          # seconds before the second of them; doubled each time
TIMEOUT = 60       # seconds without an answer or a byte
BLOCK = 1 << 20    # bytes
LARGEST = 1 << 28  # bytes of one image, larger than any in the sets
SUMS = 'SHA256SUMS'
HEADERS = {'User-Agent': 'Mozilla/5.0 (compatible; prepare_data.py)', 'Accept-Encoding': 'identity'}


class Unfit(Exception):
    """A complete archive that is damaged or not the expected one; the text says why."""


def fetch(url: str, path: Path, unpacked: int) -> None:
    """Download `url` to `path`, through <path>.part, from which a later call resumes.

    unpacked: bytes that must be free besides those of the archive. After a lost connection the download is resumed, at
    most TRIES times in a row without a new byte. Raises UserError with the URL and the reason.
    """
    part = path.with_name(f'{path.name}.part')
    most, failures = _size(part), 0
    while True:
        try:
            _resume(url, part, unpacked)
            break
        except (OSError, HTTPException) as error:  # what urllib, http.client and sockets raise
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= TRIES or _is_final(error):
                kept = f'{most:,} bytes are kept in {shown(part)}; ' if most else ''
                raise UserError(f'{url}: {_reason(error)}; {kept}run the same command again to resume, '
                                'or give --mirror') from error
            pause = PAUSE * 2 ** (failures - 1)
            print(f'{path.name}: {_reason(error)}; trying again in {pause:g} s', file=sys.stderr)
            time.sleep(pause)
    os.replace(part, path)


def _resume(url, part, unpacked):
    """One connection: append what is missing to `part`. Raises OSError or HTTPException if it remains incomplete."""
    have = _size(part)
    try:
        answer = urlopen(Request(url, headers=HEADERS | ({'Range': f'bytes={have}-'} if have else {})), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code != 416 or not have:  # 416: there are no bytes after `have`
                raise
            if error.headers.get('Content-Range') == f'bytes */{have}':
                return
            part.unlink()
            raise ConnectionError('the file on the server has changed: starting over') from error
    with answer:
        if answer.status == 206 and not answer.headers.get('Content-Range', '').startswith(f'bytes {have}-'):
            part.unlink(missing_ok=True)
            raise ConnectionError('the server sent another range than requested: starting over')
        if answer.status != 206 and have:
            print(f'{part.name}: this server cannot resume downloads: starting over', file=sys.stderr)
            part.unlink()
            have = 0
        length = answer.headers.get('Content-Length', '')
        total = have + int(length) if length.isdigit() else None
        demand(part.parent, (total - have if total else 0) + min(unpacked, total or unpacked))
        append_blocks(part, _blocks(answer, part.stem, have, total))
    if total and _size(part) < total:
        raise ConnectionError(f'the connection ended after {_size(part):,} of {total:,} bytes')


def _blocks(answer, name, have, total):
    """Blocks of bytes as they arrive, so that a lost connection loses none."""
    with tqdm(desc=name, initial=have, total=total, unit='B', unit_scale=True, disable=None) as bar:
        while have != total and (block := answer.read1(min(BLOCK, total - have) if total else BLOCK)):
            yield block
            have += len(block)
            bar.update(len(block))


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _is_final(error):
    """Whether trying again cannot help."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 429)
    return isinstance(error, URLError) and isinstance(error.reason, ssl.SSLCertVerificationError)


def _reason(error):
    """Why a connection failed, on one line."""
    if isinstance(error, HTTPError):
        return f'HTTP {error.code} {error.reason}'
    why = getattr(error, 'reason', error)
    return ' '.join(str(getattr(why, 'strerror', None) or why).split()) or type(why).__name__


def length(url: str) -> int | None:
    """Size in bytes of the file at `url` that its server reports; None if it does not."""
    try:
        with urlopen(Request(url, headers=HEADERS, method='HEAD'), timeout=TIMEOUT) as answer:
            said = answer.headers.get('Content-Length', '')
    except (OSError, HTTPException):  # fetch() will report it
        return None
    return int(said) if said.isdigit() else None


def demand(folder: Path, need: int) -> None:
    """Raises UserError unless `need` bytes are free in `folder`, which must exist."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f'{shown(folder)}: downloading and unpacking needs {need:,} bytes, only {free:,} are free; '
                        'free some space or give another --dir_data')


def mirror_sums(mirror: str) -> dict[str, str]:
    """{file name: 'sha256:…'} from the file SHA256SUMS of a mirror, {} if it has none. Raises UserError."""
    url = f'{mirror}/{SUMS}'
    try:
        with urlopen(Request(url, headers=HEADERS), timeout=TIMEOUT) as answer:
            lines = answer.read(BLOCK).decode(errors='replace').splitlines()
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError) and error.code == 404:
            return {}
        raise UserError(f'{url}: {_reason(error)}') from error
    pairs = [line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2]
    return {name.strip().lstrip('*'): f'sha256:{digest.lower()}' for digest, name in pairs}


def verify(path: Path, digest: str) -> None:
    """Compare the checksum of a file with `digest`, 'sha256:…' or 'md5:…'. Raises Unfit if it differs."""
    kind, _, wanted = digest.partition(':')
    state = hashlib.new(kind, usedforsecurity=False)
    with open(path, 'rb') as file, tqdm(desc=f'verifying {path.name}', total=_size(path), unit='B', unit_scale=True,
                                        leave=False, disable=None) as bar:
        while block := file.read(BLOCK):
            state.update(block)
            bar.update(len(block))
    if state.hexdigest() != wanted:
        raise Unfit(f'its {kind} is {state.hexdigest()}, expected {wanted}')


def unpack(path: Path, parts: Iterable[Part], root: Path) -> None:
    """Write the images of the Parts `parts` from the archive `path` into their folders below `root`.

    Only regular files with the suffix of an image are unpacked, under their base names. Raises Unfit if the archive is
    damaged, has an unexpected number of images, one larger than LARGEST, or a path that leads outside; nothing more is
    written then. Raises UserError if there is not enough space.
    """
    try:
        with _members(path) as members:
            plan = _plan(members, parts, root)
            for part in parts:
                (root / part.folder).mkdir(parents=True, exist_ok=True)
            demand(root, sum(size for target, (size, _) in plan.items() if not target.exists()))
            for target, (size, start) in tqdm(plan.items(), f'unpacking {path.name}', leave=False, disable=None):
                with start() as file:
                    content = file.read(size + 1)
                if len(content) != size:
                    raise Unfit(f'damaged: {target.name} is {len(content):,} bytes long, not {size:,}')
                write_bytes(target, content)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise Unfit(f'damaged ({" ".join(str(error).split()) or type(error).__name__})') from error


@contextmanager
def _members(path):
    """[(name, bytes, function that opens it)] of the regular files of a .zip or an uncompressed .tar."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            yield [(info.filename, info.file_size, partial(archive.open, info)) for info in archive.infolist()
                   if not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)]
    else:
        with tarfile.open(path, 'r:') as archive:
            yield [(member.name, member.size, partial(archive.extractfile, member)) for member in archive
                   if member.isreg() and not member.issparse()]


def _plan(members, parts, root):
    """{path to write: (bytes, function that opens it)}, after all checks that need no content. Raises Unfit."""
    plan, counts = {}, dict.fromkeys(parts, 0)
    for name, size, start in members:
        place = PurePosixPath(name.replace('\\', '/'))
        if place.is_absolute() or '..' in place.parts or ':' in name:
            raise Unfit(f'it contains {shown(name)!r}, a path outside its folder')
        part = next((part for part in parts if place.parent.parts[-len(part.inside):] == part.inside), None)
        if part is None or not is_image(place):
            continue
        if size > LARGEST:
            raise Unfit(f'its file {shown(place.name)} is too large: {size:,} bytes')
        target = root / part.folder / place.name
        if target in plan:
            raise Unfit(f'it contains {shown(place.name)} twice')
        plan[target] = size, start
        counts[part] += 1
    for part, count in counts.items():
        if count != part.count:
            raise Unfit(f'it contains {count:,} images of {part.name} in {"/".join(part.inside)}/, not {part.count:,}')
    return plan
