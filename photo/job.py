"""One photo upscaled in a thread of its own, while others watch and may cancel it."""
import threading
import time
import traceback
from pathlib import Path

from PIL import Image

from photo.batch import upscale_file
from photo.image import read_photo
from photo.output import Output
from photo.targets import targets
from photo.upscaler import Upscaler
from photo.watched import Cancelled, Watched
from utility import UserError


class Job:
    """Starts at once. The result is the very file that upscale.py writes: the same code makes it.

    photo: a file; folder: where the result goes, under the name that upscale.py gives it, and `before.jpg` and
    `after.jpg`, pictures of one size for the screen. `state` is 'working', then 'done', 'failed' or 'cancelled';
    `error`: one line, if it failed; `notes`: what the user should know, in words. When it is done: `size`, (height,
    width) of the result, and `seconds` that it took.
    """

    def __init__(self, upscaler: Upscaler, photo: Path, folder: Path, output: Output, max_pixels: int) -> None:
        self.photo, self.folder, self.output, self.max_pixels = photo, folder, output, max_pixels
        self.state, self.error, self.notes = 'working', '', []
        self.begun, self.size, self.seconds = time.monotonic(), (0, 0), 0.0
        self._stop = threading.Event()
        self.watched = Watched(upscaler, self._stop)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def result(self) -> Path:
        """The file that is, or will be, written."""
        return targets([self.photo], self.folder, self.output)[self.photo]

    def cancel(self) -> None:
        """Ask the job to end; it does so before the next convolution, and leaves no file."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the job has ended, at most so long; returns whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def left(self) -> float | None:
        """Seconds until the end, None while that is not known."""
        done = self.watched.done
        return (time.monotonic() - self.begun) * (1 - done) / done if done > 0.02 else None

    def _work(self) -> None:
        try:
            self._make()
            self.state = 'done'
        except Cancelled:
            self.state = 'cancelled'
        except UserError as error:
            self.state, self.error = 'failed', str(error).replace(f'{self.photo.parent}/', '')
        except Exception as error:  # whatever it is, whoever waits for it is told
            traceback.print_exc()
            self.state, self.error = 'failed', f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        finally:
            self.watched.preview = None  # up to 50 MB, while a session may stay for long

    def _make(self) -> None:
        upscale_file(self.watched, self.photo, self.result, self.output, self._note, lambda pixels: None,
                     self.max_pixels)
        self.seconds = time.monotonic() - self.begun
        prepared = self.output.prepare(read_photo(self.photo, self.max_pixels), self.result.suffix)
        self.size = self.output.size(*prepared.pixels.shape[:2])
        pair = self.watched.preview.pair(prepared, *self.size)
        for name, image in zip(('before', 'after'), pair, strict=True):
            save_picture(image, self.folder / f'{name}.jpg')

    def _note(self, line: str) -> None:
        if line.startswith('note: '):
            self.notes.append(line.split(': ', 2)[2])


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture for the screen as a JPEG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, 'JPEG', quality=92, subsampling=0, icc_profile=image.info.get('icc_profile'))
