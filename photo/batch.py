"""Photos named by a command line, super-resolved one after the other."""
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from data.images import read_size
from photo.image import read_photo
from photo.upscaler import Upscaler
from photo.writing import write_bands
from utility import UserError, shown


def upscale_files(upscaler: Upscaler, photos: dict[Path, Path], overwrite: bool, log: Callable[[str], object]) -> None:
    """Upscale `photos`, {file: its result} as photo.targets.targets makes them, showing what is done and the time left.

    A file that cannot be read, or whose result is there already, is skipped. Raises UserError with the list of
    these at the end.
    """
    failed, sizes = [], Counter()
    for path in photos:
        with suppress(UserError):  # is told when its turn comes
            height, width = read_size(path)
            sizes[path] = height * width
    with tqdm(total=sizes.total(), unit='pixel', unit_scale=True, disable=None) as bar:
        for path, target in photos.items():
            bar.set_description(shown(path.name))
            begun = bar.n
            try:
                if _exists(target) and not overwrite:
                    raise UserError(f'{shown(target)}: exists already; --overwrite replaces it')
                height, width = _upscale(upscaler, path, target, bar.update)
            except UserError as error:
                bar.update(begun + sizes[path] - bar.n)
                failed.append(str(error))
                continue
            s = upscaler.scale
            log(f'{shown(path)} ({width}x{height}) -> {shown(target)} ({width * s}x{height * s})')
    if failed:
        raise UserError(f'{len(failed)} of {len(photos)} photos were not upscaled: ' + '; '.join(failed))


def _upscale(upscaler: Upscaler, path: Path, target: Path, tick: Callable[[int], object]) -> tuple[int, int]:
    """(height, width) of the photo `path`, whose result is now in `target`. Raises UserError that names a file."""
    photo = read_photo(path)
    height, width, _ = photo.pixels.shape
    try:
        write_bands(target, upscaler.bands(photo.pixels, tick), height * upscaler.scale, width * upscaler.scale,
                    photo.icc)
    except MemoryError as error:  # that memory runs out: only here is it known on what file
        raise UserError(f'{shown(path)}: memory does not suffice; free some, or give a smaller --tile') from error
    except UserError as error:
        if shown(target) in str(error):
            raise
        raise UserError(f'{shown(path)}: {error}') from error
    return height, width


def _exists(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:  # a name too long, a folder that must not be looked into
        raise UserError(f'{shown(target)}: {error.strerror}; rename the photo or choose another place') from error
