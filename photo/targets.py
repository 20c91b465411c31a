"""The photos of a command line, and the names of their results."""
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data import kinds
from data.images import SUFFIXES, is_image
from photo.output import Output
from utility import UserError, expand, shown

PHOTOS = (*SUFFIXES, '.jfif', '.jpe', '.mpo', '.avif', '.gif', '.jp2', '.j2k', '.heic', '.heif', '.hif')


def find_photos(source: str | Path, role: str = '--dir_demo') -> list[Path]:
    """Sorted paths of the images that `source` names: a file, a folder with all its sub-folders, or a glob.

    role: prefix of errors, such as a flag. Raises UserError if there are none or a folder cannot be read.
    """
    path = expand(source)
    if path.is_file():
        return [path]
    photos = sorted(found for found in _named(path) if is_image(found, PHOTOS))
    if not photos:
        there = 'contains no image' if path.is_dir() else 'no such file or folder, and no match as a pattern'
        raise UserError(f'{role} {shown(source)}'.strip() + f': {there} ({" ".join(PHOTOS)})')
    return photos


def left_out(sources: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """[(image file of an unsupported kind in `sources`, reason)]."""
    found = {path for source in sources if not expand(source).is_file() for path in _named(expand(source))}
    return [(path, reason) for path in sorted(found)
            if (reason := kinds.left_out(path.suffix)) and not path.name.startswith('.')]


def _named(path: Path) -> Iterator[Path]:
    """Paths of all files in the folder `path` and its sub-folders (links are not followed), or matching a glob.

    Raises UserError if a folder cannot be read.
    """
    if not path.is_dir():
        start, pattern = _split(path)
        yield from (found for match in glob.glob(pattern, root_dir=start, recursive=True)
                    if not (found := start / match).is_dir())
        return

    def refuse(error: OSError) -> None:
        raise UserError(f'{shown(error.filename)}: this folder cannot be read ({error.strerror}); change its '
                        'permissions, or give the other folders') from error
    for place, _, names in os.walk(path, onerror=refuse):
        yield from (Path(place, name) for name in names)


def _split(path: Path) -> tuple[Path, str]:
    """(the existing folder at the start of a glob, the pattern below it)."""
    start = path
    while start != start.parent and not start.is_dir():
        start = start.parent
    return start, str(path.relative_to(start))


def targets(sources: Iterable[str | Path], folder: Path, output: Output, role: str = '') -> dict[Path, Path]:
    """{photo: its result} for files, folders with their sub-folders, and globs.

    Results are named <name>_x<scale>.png, or as `output` says, and are put in `folder`, those of a folder in the same
    sub-folders; for equal names see _names. Earlier results are left out: files in a `folder` inside a source, and, if
    results go beside their photos, files named like the result of another one. role: prefix of errors. Raises UserError
    if a source contains no photo.
    """
    photos, own = {}, folder.resolve()
    for source in sources:
        root, found = expand(source), find_photos(source, role)
        start = root if root.exists() else _split(root)[0]
        if start.resolve() in own.parents:
            found = [path for path in found if own not in path.resolve().parents]
        for path in found:
            photos.setdefault(os.path.abspath(path),
                              (path, path.parent.relative_to(root) if root.is_dir() else Path()))
    places = {(own / parent, name + output.mark + output.suffix(path))
              for path, parent in photos.values() for name in (path.stem, path.name)}
    names = _names({path: parent for path, parent in photos.values()
                    if (path.parent.resolve(), path.name) not in places})
    if not names:
        raise UserError(f'{role} {" ".join(map(shown, sources))}: contains only results, in {shown(folder)}'
                        .strip())
    return {path: folder / name.parent / f'{name.name}{output.mark}{output.suffix(path)}'
            for path, name in names.items()}


def _names(photos: dict[Path, Path]) -> dict[Path, Path]:
    """{photo: relative name of its result without suffix}, from {photo: its folder below the source}.

    The name is that folder and the photo's stem. If photos of different folders would have the same name, the folders
    in which they differ are put before it; for photos of the same folder, their suffixes are kept. Upper and lower case
    are not distinguished, as on some file systems. Raises UserError if names are still equal.
    """
    names = {path: parent / path.stem for path, parent in photos.items()}
    for group in _clashes(names):
        folders = [Path(os.path.abspath(path)).parent.parts for path in group]
        common = next((i for i, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1),
                      min(map(len, folders)))
        if len(set(folders)) > 1:
            for path, parts in zip(group, folders, strict=True):
                names[path] = Path(*parts[common:], path.stem)
    while renamed := [path for group in _clashes(names) for path in group if names[path].name != path.name]:
        names |= {path: names[path].parent / path.name for path in renamed}  # which may be the stem of another
    for group in _clashes(names):
        raise UserError(f'{" and ".join(map(shown, group))} would have the same result; use two folders')
    return names


def _clashes(names: dict[Path, Path]) -> list[list[Path]]:
    """Lists of keys with equal names, ignoring case."""
    groups = {}
    for path, name in names.items():
        groups.setdefault(str(name).casefold(), []).append(path)
    return [group for group in groups.values() if len(group) > 1]
