"""Who is at work on which photo: a folder for every session, the photo in it, and the job that upscales it."""
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from photo.choice import AUTOMATIC, Choice
from photo.image import read_photo
from photo.job import Job, save_picture
from photo.output import Output
from photo.preview import thumbnail
from photo.upscaler import Upscaler
from utility import UserError

KEPT = 6 * 3600  # seconds after which what a session left behind is removed


class Desk:
    """Sessions, each with one photo and one job at most, in folders of their own below `root`.

    load: (name of shipped weights, tile) → Upscaler. max_pixels: of the largest photo that is taken.
    """

    def __init__(self, root: Path, load: Callable[[str, int | None], Upscaler], max_pixels: int) -> None:
        self.root, self.load, self.max_pixels = root, load, max_pixels
        self.jobs: dict[str, Job] = {}
        self.uploads: dict[str, set[Path]] = {}  # files that others put below root for a session

    def folder(self, session: str) -> Path:
        """Of a session, whatever a client calls it."""
        return self.root / 'sessions' / hashlib.sha256(session.encode()).hexdigest()[:24]

    def photo(self, session: str) -> Path | None:
        """The photo of a session, None if there is none."""
        return next(iter((self.folder(session) / 'photo').glob('*')), None)

    def take(self, session: str, source: Path) -> tuple[str, Path]:
        """Copy a file into the session's folder, in place of an earlier photo: (what it is, a picture of it).

        Raises UserError if it is no photo that can be read.
        """
        self.drop(session)
        self.sweep()
        if source.is_relative_to(self.root):
            self.uploads.setdefault(session, set()).add(source)
        own = self.folder(session) / 'photo' / source.name
        own.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, own)
            photo = read_photo(own, self.max_pixels)
        except (UserError, OSError) as error:
            own.unlink(missing_ok=True)
            raise UserError(relative(error, own.parent)) from error
        picture = self.folder(session) / f'photo_{time.monotonic_ns()}.jpg'  # a new name: browsers keep old ones
        save_picture(thumbnail(photo), picture)
        height, width, _ = photo.pixels.shape
        kept = [what for what, there in (('profile', photo.metadata.icc), ('EXIF', len(photo.metadata.exif))) if there]
        kind = ('gray' if photo.gray else 'RGB') + ('' if photo.depth == 8 else ', 16 bits')
        return ', '.join([f'{own.name}: {width} x {height} pixels', kind, *kept]), picture

    def start(self, session: str, weights: str, outscale: float, form: str, tile: int | None) -> Job:
        """Upscale the session's photo, as upscale.py would with these flags. Raises UserError if there is none."""
        photo = self._own(session)
        self.cancel(session)
        upscaler = self.load(weights, tile)
        results = self.folder(session) / 'results'
        shutil.rmtree(results, ignore_errors=True)
        folder = results / str(time.monotonic_ns())
        output = Output(upscaler.scale, form, outscale=None if outscale == upscaler.scale else outscale, overwrite=True)
        self.jobs[session] = Job(upscaler, photo, folder, output, self.max_pixels)
        return self.jobs[session]

    def named(self, session: str, weights: str) -> str:
        """The name of the weights for the session's photo: `weights`, or what upscale.py chooses for AUTOMATIC.

        Raises UserError if there is no photo."""
        photo = self._own(session)
        return Choice.shipped().name(read_photo(photo, self.max_pixels).pixels) if weights == AUTOMATIC else weights

    def _own(self, session: str) -> Path:
        photo = self.photo(session)
        if not photo:
            raise UserError('no photo yet: drop one, or choose an example')
        return photo

    def cancel(self, session: str) -> None:
        """End the session's job, if there is one, and wait for it."""
        job = self.jobs.pop(session, None)
        if job:
            job.cancel()
            job.wait()

    def drop(self, session: str) -> None:
        """Forget the session's photo and its results."""
        self.cancel(session)
        shutil.rmtree(self.folder(session), ignore_errors=True)

    def leave(self, session: str) -> None:
        """The session ends: nothing of it stays."""
        self.drop(session)
        for path in self.uploads.pop(session, ()):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what ended sessions have left below root, which happens where a browser does not say that it left."""
        before = time.time() - KEPT
        for path in [*self.root.glob('*'), *(self.root / 'sessions').glob('*')]:
            with suppress(OSError):  # another thread was faster
                if path.name not in ('sessions', 'examples') and path.stat().st_mtime < before:
                    shutil.rmtree(path) if path.is_dir() else os.unlink(path)


def relative(error: Exception, folder: Path) -> str:
    """The text of an error without the name of `folder`."""
    return str(error).replace(f'{folder}/', '')
