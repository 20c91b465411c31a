"""Training patches: random crops that depend on (seed, epoch, position) alone, and the order of the images."""
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from data.images import read_rgb
from utility import derive_seed

Key = tuple[int, int, int]  # epoch, position in it, index of the image


class PatchDataset(Dataset):
    """Random square patches of the images `files`, all of them at least `size` pixels high and wide.

    read: path → uint8 array (H, W, 3), as PixelCache.read. An item's key is (epoch, position, image index); the item,
    uint8 (3, size, size), depends on the seed and the key alone. augment: horizontal flip, vertical flip and
    transpose, each with probability 1/2.
    lr_files: the LR image of each, 1 / scale of its size. An item is then uint8 (6, size, size): the HR patch and the
    corresponding LR patch, each of whose pixels is repeated scale x scale times, so that both are augmented alike.
    """

    def __init__(self, files: list[Path], size: int, seed: int, read: Callable[[Path], np.ndarray] = read_rgb,
                 augment: bool = True, lr_files: list[Path] = (), scale: int = 1) -> None:
        self.lr_files, self.scale = lr_files, scale
        self.files, self.size, self.seed, self.read, self.augment = files, size, seed, read, augment
        self.checksums: list[str] = []  # of the images' pixels, if known
        self.progress: torch.Tensor | None = None  # of the workers, see data.loader

    def __getitem__(self, key: Key) -> torch.Tensor:
        epoch, position, index = key
        self._report(index)
        image = self.read(self.files[index])                                             # (H, W, 3)
        rng = np.random.default_rng(derive_seed(self.seed, 'patch', epoch, position))
        patch = self._pair(image, index, rng) if self.lr_files else self._crop(image, self.size, rng)
        patch = patch.transpose(2, 0, 1)                                                 # (3 or 6, size, size)
        if self.augment:
            flip_x, flip_y, transpose = rng.integers(2, size=3)
            patch = patch[:, ::1 - 2 * flip_y, ::1 - 2 * flip_x]
            patch = patch.swapaxes(1, 2) if transpose else patch
        patch = torch.from_numpy(np.array(patch, order='C'))
        self._report(-1)
        return patch

    @staticmethod
    def _crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        return image[top:top + size, left:left + size]

    def _pair(self, image, index, rng):
        """(size, size, 6) of an HR image and its LR image."""
        lr, scale = self.read(self.lr_files[index]), self.scale
        small = self.size // scale
        top, left = (rng.integers(side - small + 1) for side in lr.shape[:2])
        hr = image[top * scale:(top + small) * scale, left * scale:(left + small) * scale]
        repeated = lr[top:top + small, left:left + small].repeat(scale, 0).repeat(scale, 1)
        return np.concatenate([hr, repeated], 2)

    def _report(self, index):
        if self.progress is not None:
            mine = self.progress[get_worker_info().id]
            mine[0] += 1
            mine[1] = index


class EpochSampler:
    """Yields one list of keys for PatchDataset per batch, `batches` an epoch, from the batch set by start().

    The images come in consecutive shuffles of all of them: position k of an epoch is in shuffle number k // n_images.
    Everything depends on (seed, epoch, position) alone, so resuming within an epoch is exact.
    share: (rank, ranks) of a process that takes an equal part of each batch.
    """

    def __init__(self, n_images: int, batches: int, batch_size: int, seed: int,
                 share: tuple[int, int] = (0, 1)) -> None:
        self.n_images, self.batches, self.batch_size, self.seed = n_images, batches, batch_size, seed
        self.share = share
        self.start(1)

    def start(self, epoch: int, first_batch: int = 0) -> None:
        """Set the next batch: number `first_batch` (from 0) of `epoch`."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.batches - self.first_batch

    def __iter__(self) -> Iterator[list[Key]]:
        number, shuffle = None, None
        for batch in range(self.first_batch, self.batches):
            keys = []
            for position in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                wanted, place = divmod(position, self.n_images)
                if wanted != number:
                    number, shuffle = wanted, self._shuffle(wanted)
                keys.append((self.epoch, position, int(shuffle[place])))
            rank, ranks = self.share
            yield keys[len(keys) * rank // ranks:len(keys) * (rank + 1) // ranks]

    def images(self, epoch: int, batch: int) -> list[int]:
        """Indices of the images in batch number `batch` (from 0) of `epoch`, all ranks' parts together."""
        other = copy(self)
        other.share = (0, 1)
        other.start(epoch, batch)
        return [index for _, _, index in next(iter(other))]

    def _shuffle(self, number):
        return np.random.default_rng(derive_seed(self.seed, 'order', self.epoch, number)).permutation(self.n_images)
