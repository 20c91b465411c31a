"""Preparing data sets for training: download, joining DF2K, and checks by the same code as training."""
import filecmp
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

from data.cache import stale_entries
from data.dataset import SHOWN, find_images, listed, scan
from data.download import Unfit, demand, fetch, length, mirror_sums, unpack, verify
from data.images import is_image, read_rgb, read_size
from data.sources import MANGA109, OPTIONAL, PARTS, Part, named
from store.files import TEMPORARY, write_bytes
from utility import UserError, shown

USUAL = ('DIV2K', 'Flickr2K', 'DF2K', 'Set5', 'Set14', 'B100', 'Urban100')  # what `download` means without names


# ---- check ----

@dataclass
class Inventory:
    """The images of a Part that were found."""
    part: Part
    files: list[Path]     # as training or testing finds them
    why: str              # why there are none
    bad: dict[Path, str]  # {path: fault}

    @property
    def complete(self) -> bool:
        return len(self.files) >= self.part.count and not self.bad

    def __str__(self) -> str:
        part, found = self.part, len(self.files)
        if not found:
            return f'{part.name}: none of {part.count:,} images; {self.why}'
        folders = ' + '.join(dict.fromkeys(shown(path.parent) for path in self.files))
        text = f'{part.name}: {found:,} of {part.count:,} images in {folders}'
        if found > part.count:
            text += f'; {found - part.count:,} more than published'
        if found < part.count:
            stems = {path.stem.lower() for path in self.files}
            absent = [stem for stem in part.numbered() if stem not in stems]
            fits = len(absent) == part.count - found  # else they have other names
            more = f' and {len(absent) - SHOWN} more' if len(absent) > SHOWN else ''
            text += f'; {part.count - found:,} missing' + f': {", ".join(absent[:SHOWN])}{more}' * fits
        if self.bad:
            faults = listed([f'{shown(path.name)} ({reason})' for path, reason in self.bad.items()])
            text += f'; {len(self.bad):,} damaged: {faults}'
        return text


def survey(root: Path, parts: Iterable[Part], full: bool = False) -> list[Inventory]:
    """The inventory of the Parts `parts` in the data folder `root`; reads headers only, or with `full` all pixels."""
    found = [(part, *_find(root, part.name)) for part in parts]
    every = list(dict.fromkeys(path for _, files, _ in found for path in files))
    bad = scan(every, 1, read_rgb if full else lambda path: SimpleNamespace(shape=read_size(path)))
    return [Inventory(part, files, why, {path: bad[path] for path in files if path in bad})
            for part, files, why in found]


def _find(root, name):
    """(files, why there are none) of the part `name`, found in the same way as by --data_train or --data_test."""
    try:
        if name == 'DIV2K_valid':  # tests find it after the training images
            training = set(find_images(root, 'DIV2K', train=True)[:PARTS['DIV2K'].count])
            files = [path for path in find_images(root, 'DIV2K', train=False) if path not in training]
            return files, 'only the training images of DIV2K were found'
        return find_images(root, name, train=name in USUAL[:3]), ''
    except UserError as error:
        text = str(error)  # of which only the folders searched are needed, if it names them
        return [], next((words for words in text.split('; ') if words.startswith('looked in ')), text)


def check(root: Path, names: list[str], full: bool = False) -> bool:
    """Print what is there of the sets `names` (all if empty) and what to do; returns whether they are complete."""
    return report(root, survey(root, named(names or PARTS).values(), full), names)


def report(root: Path, inventories: list[Inventory], names: list[str]) -> bool:
    """Print inventories and remedies; returns whether all are complete, except optional sets not in `names`."""
    complete = {inventory.part.name: inventory.complete for inventory in inventories}
    for inventory in inventories:
        print(inventory if inventory.complete else f'{inventory}\n    {_remedy(root, inventory, complete)}')
    asked = named(names)
    return all(inventory.complete or (inventory.part.name in OPTIONAL and inventory.part.name not in asked)
               for inventory in inventories)


def _remedy(root, inventory, complete):
    name = inventory.part.name.removesuffix('_valid')
    if name == 'DF2K' and complete.get('DIV2K') and complete.get('Flickr2K'):
        return command(root, 'link')
    if name == 'Manga109':
        return f'request it from its owners: {MANGA109}; then put the images in {root / inventory.part.folder}'
    return command(root, 'download', name, *['--again'] * bool(inventory.bad))


def command(root: Path, *words: str) -> str:
    """A command line of this program."""
    return shlex.join(['python', 'tools/prepare_data.py', *words, '--dir_data', str(root)])


# ---- download ----

def download(root: Path, names: list[str], mirror: str | None = None, keep: bool = False,
             again: bool = False) -> bool:
    """Download the sets `names` (USUAL if empty) to `root`: what is missing, or all with `again`.

    mirror: URL of a folder with the archives, and their checksums if they differ from the known ones. keep: keep the
    archives. An archive that is already in `root` is used. Failures are printed and do not stop the other downloads.
    Returns whether all sets are complete.
    """
    has_df2k = all(inventory.complete for inventory in survey(root, [PARTS['DF2K']]))  # else its parts are needed
    parts = named(names or USUAL, making=again or not has_df2k)
    _make(root)
    base = _base(mirror)
    lacking = [inventory.part for inventory in survey(root, parts.values())
               if inventory.part.archive and (again or not inventory.complete)]
    jobs = [(archive, list(group)) for archive, group in groupby(lacking, lambda part: part.archive)]
    sums = mirror_sums(base) if jobs and base else {}
    _announce(root, jobs, base, keep)
    complete = True
    for archive, group in jobs:
        try:
            _bring(root, archive, group, base, sums, keep)
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            complete = False
    if 'DF2K' in parts and all(inventory.complete for inventory in survey(root, [PARTS['DIV2K'], PARTS['Flickr2K']])):
        link(root)
    return report(root, survey(root, parts.values()), names) and complete


def _make(root):
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--dir_data {shown(root)}: cannot be created ({error.strerror})') from error


def _base(mirror):
    """The URL of a mirror without a slash at its end; None if there is none."""
    if mirror and not mirror.startswith(('http://', 'https://')):
        raise UserError(f'--mirror {mirror!r} is no URL; give for example https://example.org/archives')
    return mirror.rstrip('/') if mirror else None


def _url(archive, base):
    return f'{base}/{archive.name}' if base else archive.url


def _announce(root, jobs, base, keep):
    """Print what will be downloaded. Raises UserError if there is not enough space."""
    if jobs:
        sizes = [length(_url(archive, base)) or archive.size for archive, _ in jobs]
        images = sum(min(size, archive.unpacked) for size, (archive, _) in zip(sizes, jobs, strict=True))
        loads = [max(0, size - _there(root, archive)) for size, (archive, _) in zip(sizes, jobs, strict=True)]
        print(f'{", ".join(part.name for _, group in jobs for part in group)}: {sum(loads):,} bytes to download')
        demand(root, images + (sum(loads) if keep else max(loads)))


def _there(root, archive):
    """Bytes of an archive that are already in `root`."""
    return max((path.stat().st_size for path in root.glob(f'{archive.name}*')
                if path.name in (archive.name, f'{archive.name}.part')), default=0)


def _bring(root, archive, group, base, sums, keep):
    """Download, verify and unpack one archive; a wrong one is renamed to .rejected. Raises UserError."""
    path, url = root / archive.name, _url(archive, base)
    if not path.exists():
        fetch(url, path, archive.unpacked)
    try:
        digest = sums.get(archive.name, archive.digest)
        if digest != archive.digest:
            print(f'{archive.name}: using the checksum of the mirror, which differs from the known one')
        verify(path, digest)
        unpack(path, group, root)
    except Unfit as error:
        aside = path.with_name(f'{path.name}.rejected')
        os.replace(path, aside)
        raise UserError(f'{url}: {error}; renamed to {shown(aside)}; run again to download it anew, or give '
                        '--mirror') from error
    if not keep:
        path.unlink()


# ---- link ----

def link(root: Path) -> None:
    """Join DIV2K's training images and Flickr2K in DF2K/HR, in this order, as --data_range counts them.

    Links (copies if the file system has none) are named DIV2K_0001.png … Flickr2K_002650.png; correct ones are left as
    they are. Raises UserError if images are missing, or if DF2K/HR holds others.
    """
    parts = [PARTS['DIV2K'], PARTS['Flickr2K']]
    sources = {f'{part.name}_{path.name}': path for part in parts for path in _members(root, part)}
    folder, count = root / 'DF2K' / 'HR', PARTS['DF2K'].count
    _make(folder)
    others = sorted(path.name for path in folder.iterdir() if is_image(path) and path.name not in sources)
    if len(others) == count and not any((folder / name).exists() for name in sources):
        print(f'{shown(folder)}: already holds {count:,} images; nothing to do')
        return
    if others:
        raise UserError(f'{shown(folder)} holds {len(others):,} images of other names ({", ".join(others[:SHOWN])}): '
                        'move them elsewhere, then link again')
    made = [_join(path, folder / name) for name, path in sources.items()]
    found = [path.name for path in find_images(root, 'DF2K', train=True)]
    if found != list(sources) or len(found) != count:
        raise UserError(f'{shown(folder)}: training finds {len(found):,} images there, not the {count:,} linked; '
                        'remove other files from it')
    ways = ', '.join(f'{made.count(way):,} {way}' for way in dict.fromkeys(made))
    print(f'{shown(folder)}: {count:,} images, those of DIV2K first ({ways})')


def _members(root, part):
    """The images of a part of DF2K, found in the same way as by training. Raises UserError unless all are there."""
    found = [find for find in (_find(root, name)[0] for name in (part.name, f'{part.name}_train_HR', f'{part.name}_HR'))
             if len(find) >= part.count]
    if not found:
        raise UserError(f'{Inventory(part, *_find(root, part.name), {})}; {command(root, "download", part.name)}')
    return found[0][:part.count]


def _join(source, target):
    """Link or copy `source` to `target`; returns how, as text."""
    source = source.resolve()
    if _is_joined(source, target):
        return 'there already'
    temporary = target.with_name(f'{TEMPORARY}{target.name}')
    for way, make, origin in (('hard links', os.link, source),
                              ('symbolic links', os.symlink, os.path.relpath(source, target.parent.resolve()))):
        temporary.unlink(missing_ok=True)
        try:
            make(origin, temporary)
        except OSError:  # another disk, or no such links on this system: try the next way
            continue
        os.replace(temporary, target)
        return way
    write_bytes(target, source.read_bytes())
    return 'copies'


def _is_joined(source, target):
    if not target.exists():
        return False
    return os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)


# ---- cache ----

def tidy(folder: Path, clean: bool) -> None:
    """Print the number and size of decoded images in the cache `folder`, and of stale ones; remove these if `clean`.

    Not to be called during a training.
    """
    every, old = stale_entries(folder)
    sizes = {path: path.stat().st_size for path in every}
    print(f'{shown(folder)}: {len(every):,} decoded images, {sum(sizes.values()):,} bytes')
    freed = sum(sizes[path] for path in old)
    for path in old if clean else ():
        path.unlink(missing_ok=True)
    more = 'removed' if clean else 'cache --clean removes them' if old else 'nothing to remove'
    print(f'{len(old):,} of them, {freed:,} bytes, of images that are gone or have changed: {more}')
