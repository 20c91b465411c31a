"""Upscaling the photos of a command line, one after the other."""
import errno
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from data.images import read_size
from photo.choice import Automatic
from photo.image import MAX_PIXELS, read_photo
from photo.output import Output
from photo.resample import resampled
from photo.upscaler import Upscaler
from photo.writing import write_bands
from store.files import digest, sweep
from utility import UserError, shown, stderr_lines

try:
    import fcntl
except ImportError:  # Windows, where photos are not locked
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT)


def upscale_files(upscaler: Upscaler | Automatic, photos: dict[Path, Path], output: Output,
                  log: Callable[[str], object], max_pixels: int = MAX_PIXELS,
                  left_out: Iterable[tuple[Path, str]] = ()) -> None:
    """Upscale `photos`, {file: its result} as of photo.targets.targets, with a progress bar.

    Photos whose result exists or is being computed by another process are skipped and counted. left_out: files that are
    not supported, and why. Each failure is reported on standard error; UserError is raised at the end, or at once if
    the disk is full.
    """
    failed, counts = [], Counter()
    for path, reason in left_out:
        counts['left out'] += 1
        log(f'left out: {shown(path)}: {reason}')
    sizes = _sizes(photos, output, max_pixels)
    with tqdm(total=sum(sizes.values()), unit='pixel', unit_scale=True, disable=None) as bar:
        for number, (path, target) in enumerate(photos.items()):
            bar.set_description(shown(path.name))
            begun = bar.n
            try:
                counts[upscale_file(upscaler, path, target, output, log, bar.update, max_pixels)] += 1
            except UserError as error:
                if _is_full(error):
                    raise UserError(f'{error}; {len(photos) - number} of {len(photos)} photos were not upscaled'
                                    ) from error
                failed.append(str(error))
            bar.update(begun + sizes.get(path, 0) - bar.n)
    if counts.keys() - {'upscaled'}:
        log(', '.join(f'{count} {what}' for what, count in counts.items()))
    for line in failed:
        print(f'error: {line}', file=sys.stderr)
    if failed:
        raise UserError(f'{len(failed)} of {len(photos)} photos were not upscaled, for the reasons above')


def _sizes(photos: dict[Path, Path], output: Output, max_pixels: int) -> dict[Path, int]:
    """{photo: number of pixels} of the photos that are to be upscaled and can be read."""
    sizes = {}
    for path, target in photos.items():
        with suppress(UserError), stderr_lines():  # upscale_file() reports it
            if output.overwrite or not _exists(target):
                height, width = read_size(path, max_pixels)
                sizes[path] = height * width
    return sizes


def upscale_file(upscaler: Upscaler | Automatic, path: Path, target: Path, output: Output,
                 log: Callable[[str], object], tick: Callable[[int], object], max_pixels: int) -> str:
    """Upscale the photo `path` to the file `target`; returns the outcome as text.

    log(text): called with notes and the file written; tick(n): called after every n pixels. Raises UserError that
    names a file.
    """
    if _exists(target) and not output.overwrite:
        return 'already there (--overwrite replaces them)'
    with _locked(target) as locked:
        if not locked:
            return 'being upscaled by another run'
        if _exists(target) and not output.overwrite:
            return 'already there (--overwrite replaces them)'
        photo = read_photo(path, max_pixels)
        by = ''
        try:
            if isinstance(upscaler, Automatic):
                name, upscaler = upscaler.chosen(photo.pixels)
                by = f', {name}'
            photo = output.prepare(photo, target.suffix)
            (height, width), size = photo.pixels.shape[:2], output.size(*photo.pixels.shape[:2])
            bands = upscaler.bands(photo.pixels, tick)
            bands = resampled(bands, height * upscaler.scale, width * upscaler.scale, *size)
            lost = write_bands(target, bands, *size, photo.metadata, output.quality)
        except MemoryError as error:  # only here the file is known
            raise UserError(f'{shown(path)}: out of memory; free some, or give a smaller --tile') from error
        except UserError as error:
            if str(target) in str(error):
                raise
            raise UserError(f'{shown(path)}: {error}') from error
    for note in photo.notes + [f'dropped: {what}' for what in lost]:
        log(f'note: {shown(path)}: {note}')
    log(f'{shown(path)} ({width}x{height}) -> {shown(target)} ({size[1]}x{size[0]}){by}')
    return 'upscaled'


def _exists(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:  # name too long, no permission
        raise UserError(f'{shown(target)}: {error.strerror}; rename the photo or choose another folder') from error


def _is_full(error: BaseException) -> bool:
    """Whether `error` was caused by a full disk or an exceeded quota."""
    while error:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__
    return False


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """A context with the lock of the file `target`, False if another process holds it. The lock is on a hidden file
    beside it and is released when its process ends, however that happens."""
    if not fcntl:
        yield True
        return
    lock = target.with_name('.claim.' + digest(target.name))
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, 'ab')  # noqa: SIM115 - closed by the next `with`
    except OSError as error:
        raise UserError(f'{shown(target)}: cannot be written ({error.strerror}); choose another folder') from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(target.parent, target.name)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)
